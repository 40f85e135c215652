from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from full_disk import files_up_to

from groundling.config import DataConfig, IsrConfig, ToyworldData
from groundling.errors import RunError
from groundling.provenance import drift, provenance
from groundling.records import Expression, Failure
from groundling.rundir import RunDir, read_events, stored_config
from groundling.stage import Stage, failures_by_stage

WORLD = DataConfig(toyworld=ToyworldData())
CONFIG = IsrConfig(seed=3, data=WORLD)


class InterruptionError(Exception):
    """Stands for whatever stops a stage halfway."""


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a run by name, without the log of events."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "events.jsonl"
    }


def kinds(root: Path) -> list[str]:
    return [event["kind"] for event in read_events(root)]


def finish(run: RunDir, name: str, text: str = "x", after: tuple[str, ...] = ()) -> Stage:
    stage = run.stage(name, after=after)
    if not stage.done:
        with stage:
            stage.write_text(f"{name}.txt", text)
    return stage


# ---------------------------------------------------------------- identity


def test_a_new_run_holds_the_resolved_configuration_and_its_provenance(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "a" / "run", CONFIG, provenance(threads=2, data={"v2": "f00d"})):
        pass
    found = yaml.safe_load((tmp_path / "a" / "run" / "config.yaml").read_text())
    assert found["config"]["seed"] == 3
    assert found["config"]["dpo"]["lr"] == 5e-6
    assert found["provenance"]["threads"] == 2
    assert found["provenance"]["data"] == {"v2": "f00d"}
    assert found["provenance"]["versions"]["pillow"]
    assert stored_config(tmp_path / "a" / "run", IsrConfig) == CONFIG


def test_reopening_changes_no_byte_but_the_events(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG, provenance()) as run:
        finish(run, "sft")
    before = tree(tmp_path)
    with RunDir.open(tmp_path, CONFIG, provenance(threads=9)) as run:
        assert run.stage("sft").done
        assert run.drift == {"threads": (None, 9)}
    assert tree(tmp_path) == before
    assert read_events(tmp_path)[-1]["payload"] == {"changed": {"threads": [None, 9]}}


def test_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        finish(run, "data")
    other = IsrConfig(seed=3, data=WORLD, rounds=2, temperature=0.5)
    with pytest.raises(RunError, match=r"rounds: was 4, is 2; temperature: was 0\.8, is 0\.5"):
        RunDir.open(tmp_path, other)


def test_field_r1_a_directory_belongs_to_a_run_from_its_first_finished_stage_on(
    tmp_path: Path,
) -> None:
    def start_and_fail(config: IsrConfig) -> None:
        with RunDir.open(tmp_path, config) as run, run.stage("data") as stage:
            with stage.write_folder("data") as folder:
                (folder / "posts.txt").write_text("x")
            stage.write_text(f"rounds-{config.rounds}.txt", "x")
            (stage.scratch / "half.bin").write_text("x")
            raise InterruptionError

    with pytest.raises(InterruptionError):
        start_and_fail(CONFIG)
    (tmp_path / "notes.txt").write_text("somebody's own")
    other = IsrConfig(seed=3, data=WORLD, rounds=2)
    with pytest.raises(InterruptionError):
        start_and_fail(other)
    assert stored_config(tmp_path, IsrConfig) == other
    assert not (tmp_path / "rounds-4.txt").exists()
    with RunDir.open(tmp_path, CONFIG) as run:  # and back again
        assert sorted(tree(tmp_path)) == [".lock", ".team", "config.yaml", "notes.txt"]
        finish(run, "data")
    assert stored_config(tmp_path, IsrConfig) == CONFIG
    created = [event for event in read_events(tmp_path) if event["kind"] == "created"]
    assert [event["payload"] for event in created] == [
        {},
        {"instead": {"rounds": [4, 2]}},
        {"instead": {"rounds": [2, 4]}},
    ]
    with pytest.raises(RunError, match=r"rounds: was 4, is 2"):
        RunDir.open(tmp_path, other)


def test_field_r1_other_data_are_taken_too_and_a_strangers_configuration_is_not(
    tmp_path: Path,
) -> None:
    RunDir.open(tmp_path / "a", CONFIG, {"data": {"train": "aa"}}).close()
    RunDir.open(tmp_path / "a", CONFIG, {"data": {"train": "bb"}}).close()
    found = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert found["provenance"]["data"] == {"train": "bb"}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").write_text("hydra: {}\n")
    with pytest.raises(RunError, match="not a run's configuration"):
        RunDir.open(tmp_path / "b", CONFIG)
    assert tree(tmp_path / "b")["config.yaml"] == b"hydra: {}\n"


def test_field_r1_notes_of_an_unfinished_stage_reach_nothing_outside_the_run(
    tmp_path: Path,
) -> None:
    run, outside = tmp_path / "run", tmp_path / "precious.txt"
    outside.write_text("x")

    def start_and_fail() -> None:
        with RunDir.open(run, CONFIG) as opened, opened.stage("data") as stage:
            stage.write_text("posts.txt", "x")
            raise InterruptionError

    with pytest.raises(InterruptionError):
        start_and_fail()
    (notes,) = (run / "scratch").glob("*/claims.jsonl")
    odd = ["../precious.txt", str(outside), "config.yaml", ".", 5, ["a"]]
    with notes.open("a") as file:
        file.write("".join(json.dumps(name) + "\n" for name in odd) + '"cut\n')
    RunDir.open(run, IsrConfig(seed=3, data=WORLD, rounds=2)).close()
    assert outside.read_text() == "x"
    assert not (run / "posts.txt").exists()


def test_other_data_is_refused(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG, {"data": {"train": "aa"}}) as run:
        finish(run, "data")
    with pytest.raises(RunError, match=r"data\.train: was another"):
        RunDir.open(tmp_path, CONFIG, {"data": {"train": "bb"}})


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match=r"not a run directory, it holds thesis\.tex"):
        RunDir.open(tmp_path, CONFIG)
    assert tree(tmp_path) == {"thesis.tex": b"precious"}


def test_a_file_in_the_way_and_a_damaged_configuration_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be a run directory"):
        RunDir.open(tmp_path / "file", CONFIG)
    RunDir.open(tmp_path / "run", CONFIG).close()
    (tmp_path / "run" / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match="restore it"):
        RunDir.open(tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match=r"no config\.yaml"):
        stored_config(tmp_path, IsrConfig)


def test_nothing_of_the_environment_reaches_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-disk")
    with RunDir.open(tmp_path, CONFIG, provenance()) as run:
        finish(run, "sft")
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-not-for-disk" not in stored


def test_drift_names_dotted_keys() -> None:
    assert drift({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == {
        "a.b": (1, 3),
        "c": (2, None),
        "d": (None, 4),
    }


# ---------------------------------------------------------------- lock


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG), pytest.raises(RunError, match="another process is writing"):
        RunDir.open(tmp_path, CONFIG)
    RunDir.open(tmp_path, CONFIG).close()


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path\n"
        "from groundling.config import *; from groundling.rundir import RunDir\n"
        "world = DataConfig(toyworld=ToyworldData())\n"
        "run = RunDir.open(Path(sys.argv[1]), IsrConfig(seed=3, data=world))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with RunDir.open(tmp_path, CONFIG) as run:
        run.write_text("a.txt", "a")


def test_nobody_starts_while_a_follower_of_a_killed_leader_is_at_work(tmp_path: Path) -> None:
    RunDir.open(tmp_path, CONFIG).close()
    with (tmp_path / ".team").open("rb") as follower:
        fcntl.flock(follower, fcntl.LOCK_SH)
        with pytest.raises(RunError, match="another process is writing"):
            RunDir.open(tmp_path, CONFIG)
    RunDir.open(tmp_path, CONFIG).close()


def test_a_disk_without_locks_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match=r"cannot be locked \(No locks available\)"):
        RunDir.open(tmp_path, CONFIG)


def test_a_full_disk_leaves_no_torn_event(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        limit = (tmp_path / "events.jsonl").stat().st_size + 20
        with files_up_to(limit), pytest.raises(OSError, match=r"too large: '.*events.jsonl'"):
            run.event("note")
        run.event("later")
    assert kinds(tmp_path) == ["created", "later"]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        run.write_text("a.txt", "old")
        with files_up_to(4096), pytest.raises(OSError, match=r"too large: '.*a.txt'"):
            run.write_bytes("a.txt", bytes(5000))
        assert not list((tmp_path / ".tmp").iterdir())
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_closed_run_writes_nothing(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path, CONFIG)
    run.close()
    with pytest.raises(RunError, match="closed"):
        run.write_text("a.txt", "a")


# ---------------------------------------------------------------- artefacts


def test_every_kind_of_artefact(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with RunDir.open(tmp_path, CONFIG) as run, run.stage("data") as stage:
        stage.write_bytes("a/b.bin", b"\x00\x01")
        stage.write_text("t.txt", "größer")
        stage.write_json("m.json", {"b": 1, "a": [1.5, None]})
        stage.write_parquet("e.parquet", [Expression("the man", "human", -1.0)])
        stage.write_parquet("none.parquet", [], pa.schema([("id", pa.string())]))
        with stage.write_folder("writer/round-0") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "w.txt").write_text("weights")
    assert json.loads((tmp_path / "m.json").read_text()) == {"b": 1, "a": [1.5, None]}
    assert pq.read_table(tmp_path / "e.parquet").to_pylist() == [
        {"text": "the man", "source": "human", "logprob": -1.0}
    ]
    assert pq.read_table(tmp_path / "none.parquet").column_names == ["id"]
    marker = json.loads((tmp_path / "stages" / "data.json").read_text())
    assert list(marker["artefacts"]) == [
        "a/b.bin",
        "e.parquet",
        "m.json",
        "none.parquet",
        "t.txt",
        "writer/round-0/deep/w.txt",
    ]
    assert not (tmp_path / ".tmp").exists()


def test_a_folder_that_fails_halfway_leaves_the_old_one(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        for text in ("old", "new"):
            with run.write_folder("figures") as folder:
                (folder / "a.txt").write_text(text)
        with contextlib.suppress(InterruptionError), run.write_folder("figures") as folder:
            (folder / "a.txt").write_text("newer")
            raise InterruptionError
        assert (tmp_path / "figures" / "a.txt").read_text() == "new"


def test_infinities_do_not_become_json(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run, pytest.raises(ValueError, match="not JSON"):
        run.write_json("m.json", {"loss": float("nan")})


@pytest.mark.parametrize("name", ["../a", "/etc/a", "config.yaml", "stages/sft.json", ".lock", ""])
def test_names_outside_the_run_and_its_own_files_are_refused(tmp_path: Path, name: str) -> None:
    with RunDir.open(tmp_path, CONFIG) as run, pytest.raises(RunError, match="not an artefact"):
        run.write_text(name, "a")


def test_an_artefact_belongs_to_its_stage(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        finish(run, "sft")
        with pytest.raises(RunError, match="belongs to the finished stage sft"):
            run.write_text("sft.txt", "y")
        with run.stage("round-1") as stage, pytest.raises(RunError, match="belongs to"):
            stage.write_text("sft.txt", "y")


# ---------------------------------------------------------------- stages


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        with RunDir.open(tmp_path, CONFIG) as run:
            finish(run, "sft")
    assert kinds(tmp_path) == ["created", "started", "finished", "continued"]


def test_a_failed_stage_is_not_done_and_keeps_its_scratch(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        stage = run.stage("sft")
        with contextlib.suppress(InterruptionError), stage:
            (stage.scratch / "checkpoint").write_text("half")
            raise InterruptionError
    with RunDir.open(tmp_path, CONFIG) as run:
        stage = run.stage("sft")
        assert not stage.done
        with stage:
            assert (stage.scratch / "checkpoint").read_text() == "half"
        assert run.stage("sft").done
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("damage", ["altered", "same size", "missing", "marker"])
def test_a_damaged_stage_is_run_again_and_said_so(tmp_path: Path, damage: str) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        finish(run, "sft", "text")
    if damage == "marker":
        (tmp_path / "stages" / "sft.json").write_text('{"inp')
    elif damage == "missing":
        (tmp_path / "sft.txt").unlink()
    else:
        (tmp_path / "sft.txt").write_text("longer" if damage == "altered" else "tixt")
    with RunDir.open(tmp_path, CONFIG) as run:
        assert finish(run, "sft", "text").done
    assert (tmp_path / "sft.txt").read_text() == "text"
    assert "undone" in kinds(tmp_path)


def test_a_stage_is_redone_when_what_it_builds_on_changed(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        finish(run, "sft", "one")
        finish(run, "round-1", after=("sft",))
    (tmp_path / "sft.txt").unlink()
    with RunDir.open(tmp_path, CONFIG) as run:
        finish(run, "sft", "one")
        assert run.stage("round-1", after=["sft"]).done
        (tmp_path / "sft.txt").unlink()
        finish(run, "sft", "two")
        assert not run.stage("round-1", after=["sft"]).done
        assert not run.stage("round-1", after=["sft"], inputs={"prices": "7"}).done


def attempt(path: Path, failures: int, *, retry: bool, stop: str = "") -> list[str]:
    """Run stages that fail so often; which ones were run. `stop` names one that is interrupted."""
    ran = []
    with contextlib.suppress(InterruptionError), RunDir.open(path, CONFIG, retry=retry) as run:
        for name in ("draw", "grade"):
            stage = run.stage(name)
            if not stage.done:
                with stage:
                    ran.append(name)
                    if name == stop:
                        raise InterruptionError
                    (stage.scratch / "answers").write_text("kept where something failed")
                    stage.write_text(f"{name}.txt", f"{failures} failures")
                    stage.failed(failures)
        if not run.stage("judge", after=["draw"]).done:
            ran.append("judge")
            finish(run, "judge", after=("draw",))
        run.write_json("metrics.json", {})
    return ran


def test_a_stage_with_failures_is_run_again_where_that_is_wanted(tmp_path: Path) -> None:
    assert attempt(tmp_path, 2, retry=False) == ["draw", "grade", "judge"]
    assert failures_by_stage(tmp_path) == {"draw": 2, "grade": 2}
    assert list((tmp_path / "scratch/draw").glob("*/answers")), "a retry need not begin anew"
    assert attempt(tmp_path, 0, retry=False) == []
    assert attempt(tmp_path, 2, retry=True) == ["draw", "grade"], "what builds on it is as it was"
    assert attempt(tmp_path, 0, retry=True) == ["draw", "grade", "judge"]
    assert failures_by_stage(tmp_path) == {}
    assert not (tmp_path / "scratch").exists()
    assert attempt(tmp_path, 0, retry=True) == []


def test_a_stopped_retry_goes_on_where_it_was_and_loses_nothing(tmp_path: Path) -> None:
    attempt(tmp_path, 2, retry=False)
    assert attempt(tmp_path, 1, retry=True, stop="grade") == ["draw", "grade"]
    assert not (tmp_path / "metrics.json").exists(), "old results must not pass for these"
    assert (tmp_path / "grade.txt").read_text() == "2 failures"
    assert attempt(tmp_path, 2, retry=False) == ["judge"], "what was changed, and no more"
    assert (tmp_path / "metrics.json").exists()
    assert attempt(tmp_path, 1, retry=True) == ["grade"]
    assert attempt(tmp_path, 1, retry=True) == ["draw", "grade"]


def test_scratch_of_other_inputs_is_not_continued(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        stage = run.stage("sft", inputs={"data": "old"})
        with contextlib.suppress(InterruptionError), stage:
            (stage.scratch / "checkpoint").write_text("stale")
            raise InterruptionError
        with run.stage("sft", inputs={"data": "new"}) as stage:
            assert not list(stage.scratch.iterdir())


def test_a_redone_stage_leaves_no_stale_artefact(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        with run.stage("data", inputs={"v": "1"}) as stage:
            stage.write_text("first.txt", "1")
        with run.stage("data", inputs={"v": "2"}) as stage:
            stage.write_text("second.txt", "2")
    assert not (tmp_path / "first.txt").exists()


def test_a_forged_marker_removes_nothing_outside_the_run(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("precious")
    run_path = tmp_path / "run"
    with RunDir.open(run_path, CONFIG) as run:
        finish(run, "sft")
        forged = {"inputs": {}, "artefacts": {"../outside.txt": {"sha256": "0", "bytes": 1}}}
        (run_path / "stages" / "sft.json").write_text(json.dumps(forged))
        finish(run, "sft")
    assert outside.exists()


def test_a_stage_needs_what_it_builds_on_and_a_plain_name(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        with pytest.raises(RunError, match="round-1 needs sft"):
            run.stage("round-1", after=["sft"])
        with pytest.raises(RunError, match="not a stage's name"):
            run.stage("rounds/1")


# ---------------------------------------------------------------- events


def test_a_torn_last_event_is_ignored_and_then_cut_off(tmp_path: Path) -> None:
    RunDir.open(tmp_path, CONFIG).close()
    with (tmp_path / "events.jsonl").open("ab") as stream:
        stream.write(b'{"time": "2026-')
    assert kinds(tmp_path) == ["created"]
    with RunDir.open(tmp_path, CONFIG) as run:
        run.event("note", "sft", reason="größer")
    assert kinds(tmp_path) == ["created", "continued", "note"]
    last = read_events(tmp_path)[-1]
    assert (last["stage"], last["payload"]) == ("sft", {"reason": "größer"})
    assert set(last) == {"time", "stage", "kind", "payload"}


def test_a_watcher_is_told_what_is_written_and_may_stop_the_run(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path, CONFIG)
    seen: list[str] = []
    run.watch = lambda event: seen.append(f"{event['kind']} {event['stage']}")
    with run.stage("one") as stage:
        stage.event("noted")
    assert seen == ["started one", "noted one", "finished one"]
    assert kinds(tmp_path)[-3:] == ["started", "noted", "finished"]

    def stop(event: dict[str, object]) -> None:
        raise KeyboardInterrupt(event["stage"])

    run.watch = stop
    with pytest.raises(KeyboardInterrupt, match="two"), run.stage("two"):
        pytest.fail("the stage began")
    run.close()
    with RunDir.open(tmp_path, CONFIG) as again:
        assert [again.stage(name).done for name in ("one", "two")] == [True, False]


def test_failure_records_can_be_artefacts(tmp_path: Path) -> None:
    with RunDir.open(tmp_path, CONFIG) as run:
        path = run.write_parquet("f.parquet", [Failure("no picture", "ground")])
    assert path.exists()
