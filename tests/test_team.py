"""Two processes do what one does: the same parameters, losses and files, up to rounding."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import team_jobs
import tiny
import tiny_detectors
import tiny_ofa
import torch
from safetensors.torch import load_file
from team_jobs import CASES, Fit, run_fit
from torch import distributed

from groundling import meeting, team
from groundling.errors import RunError
from groundling.progress import Progress
from groundling.rundir import read_events

CLOSE = 1e-5
"""Largest relative difference that another order of sums may make."""


@pytest.fixture(scope="module")
def alone() -> dict[str, Fit]:
    """The fits by one process."""
    return {name: run_fit(*case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that teams of two made; see `team_jobs.main`."""
    folder = tmp_path_factory.mktemp("team")
    team_jobs.boxes(folder)
    tiny_ofa.tiny_ofa(folder / "ofa", dropout=0.0)
    tiny_detectors.tiny_dino(folder / "dino")
    tiny.writer().save_adapter(folder / "shared-round" / "start")
    run_fit("dpo", checkpoint=folder / "begun-by-one", last=2)
    shutil.copy(folder / "begun-by-one", folder / "begun-by-one-too")
    ended = run_teams(folder, "two")
    assert ended["dying"][1] == -signal.SIGKILL
    failed = {name for name, codes in ended.items() if any(codes)}
    assert failed == {"dying", *team_jobs.ENDINGS, *team_jobs.MEETINGS}, said(folder)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of teams of three."""
    folder = tmp_path_factory.mktemp("three")
    ended = run_teams(folder, "three")
    failed = {name for name, codes in ended.items() if any(codes)}
    assert failed == {"three_dying copied", "three_dying shared"}, said(folder)
    return folder


def run_teams(folder: Path, number: str) -> dict[str, list[int]]:
    """The exit codes of all teams, by their names."""
    places = [*team_jobs.PLACES, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, team_jobs.__file__, str(folder), number],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)},
    )
    assert done.returncode == 0, done.stderr + said(folder)
    ended: dict[str, list[int]] = json.loads((folder / "ended.json").read_text())
    return ended


def said(folder: Path) -> str:
    """What the processes said."""
    return "\n".join(f"{path.name}: {path.read_text()}" for path in folder.rglob("*.err"))


def far(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], way: float = 0.0) -> float:
    """The largest difference of any tensor, relative to its norm and ten times its way.

    `way` is how far AdamW may have moved one number. It brings every gradient to the same size:
    where one is nearly 0 the step takes over the rounding, and of a tensor that began at 0 the
    steps are all there is. CLOSE then lets a ten thousandth of the way depend on rounding (found:
    six millionths of it); one example too few or too many changes steps by percents.
    """
    assert found.keys() == wanted.keys()
    return max(
        float((found[name] - tensor).float().norm())
        / max(float(tensor.float().norm()) + 10 * way * tensor.numel() ** 0.5, 1e-9)
        for name, tensor in wanted.items()
    )


def check(path: Path, wanted: Fit) -> None:
    """A stored fit is close to `wanted`; norms of resumed fits are those of the later steps."""
    found = load_file(path)
    losses, norms = found.pop("losses").tolist(), found.pop("norms").tolist()
    parameters, wanted_losses, wanted_norms = wanted
    assert far(found, parameters) < CLOSE
    assert losses == pytest.approx(wanted_losses, rel=CLOSE)
    assert norms == pytest.approx(wanted_norms[len(wanted_norms) - len(norms) :], rel=CLOSE)
    assert norms


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_take_the_steps_of_one(
    name: str, rank: int, two: Path, alone: dict[str, Fit]
) -> None:
    """DDP; the last batch is short, and "lonely" has batches of one example."""
    check(two / f"{name}-{rank}.safetensors", alone[name])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", team_jobs.SHARED)
def test_shared_parameters_take_the_steps_of_one(
    name: str, rank: int, two: Path, alone: dict[str, Fit]
) -> None:
    """`fully_shard`, layer by layer."""
    check(two / f"{name}-shared-{rank}.safetensors", alone[name])


def test_parts_do_not_change_a_step(alone: dict[str, Fit]) -> None:
    for kind in ("sft", "dpo"):
        assert far(alone[f"{kind}-micro"][0], alone[kind][0]) < CLOSE


def test_a_checkpoint_goes_on_with_another_number_of_processes(
    two: Path, alone: dict[str, Fit]
) -> None:
    for name in ("went-on", "shares-went-on"):
        for rank in (0, 1):
            check(two / f"{name}-{rank}.safetensors", alone["dpo"])
    for name in ("begun-by-two", "begun-by-shares"):
        stored = load_file(two / name)
        assert stored["losses"].tolist() == pytest.approx(alone["dpo"][1][:2], rel=CLOSE)
        parameters, losses, norms = run_fit("dpo", checkpoint=two / name)
        assert far(parameters, alone["dpo"][0]) < CLOSE
        assert losses == pytest.approx(alone["dpo"][1], rel=CLOSE)
        assert len(norms) == len(losses) - 2, "it began again"


def test_a_team_that_was_killed_ends_in_the_bytes_of_an_undisturbed_one(two: Path) -> None:
    assert (two / "killed").read_bytes() == (two / "calm-2").read_bytes()
    stored = load_file(two / "calm-2")
    assert not torch.equal(stored["rng/cpu"], stored["rng/1/cpu"])


def test_each_process_drops_out_by_numbers_of_its_own(two: Path) -> None:
    drawn = [json.loads((two / f"drawn-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(drawn[0]) == len(drawn[1]) == 8
    assert not set(drawn[0]) & set(drawn[1])


@pytest.mark.parametrize(
    ("name", "way"), [("tiny", ""), ("ofa", ""), ("ofa", "-shared"), ("dino", "-shared")]
)
def test_grounders_take_the_steps_of_one(name: str, way: str, two: Path) -> None:
    """OFA has parameters that no loss reaches, and batch norms; Grounding DINO makes a pass for
    each shape of picture, so it is copied in any case: none of that may keep a process waiting or
    change a step.

    Biases are left out. Some (of attention's keys) have no gradient but for rounding, and AdamW
    makes whole steps of any gradient.
    """
    grounder = team_jobs.GROUNDERS[name](two)
    parameters, losses, norms = team_jobs.fit_grounder(grounder, two)
    wanted = {key: value for key, value in parameters.items() if not key.endswith("bias")}
    moved = len(losses) * team_jobs.GROUNDER_LR
    for rank in (0, 1):
        found = load_file(two / f"{name}{way}-{rank}.safetensors")
        assert found["losses"].tolist() == pytest.approx(losses, rel=CLOSE)
        assert found["norms"].tolist() == pytest.approx(norms, rel=CLOSE)
        assert far({key: found[key] for key in wanted}, wanted, moved) < CLOSE
    if way:
        saved = type(grounder).load(two / f"{name}-shared-0").trainable()
        assert far({key: saved[key].detach() for key in wanted}, wanted, moved) < CLOSE
        assert not (two / f"{name}-shared-1").exists(), "the leader writes"


def test_a_writer_whose_parameters_are_shared_goes_through_a_round(two: Path) -> None:
    shared = two / "shared-round"
    told = [json.loads((shared / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    mine = two / "round-alone"
    shutil.copytree(shared / "start", mine / "start")
    wanted = team_jobs.whole_round(tiny.writer(engine="stock"), mine)
    assert told[0]["drawn"] == wanted["drawn"]
    for name in ("scores", "after"):
        assert told[0][name] == pytest.approx(wanted[name], rel=CLOSE)
    for name in ("sft", "dpo"):
        assert sorted(path.name for path in (shared / name).iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        found, own = (
            load_file(folder / name / "adapter_model.safetensors") for folder in (shared, mine)
        )
        assert far(found, own) < CLOSE
    fresh = [load_file(folder / "fresh.safetensors") for folder in (shared, mine)]
    assert all(torch.equal(fresh[0][name], tensor) for name, tensor in fresh[1].items())


def test_who_would_draw_other_words_follows_the_leader(two: Path) -> None:
    """The second process draws the end of each answer at once, and would leave the first alone."""
    drawn = [json.loads((two / f"contrary-{rank}.json").read_text()) for rank in (0, 1)]
    assert drawn[0] == drawn[1]
    assert any(drawn[0])


def test_a_run_directory_is_written_by_one_and_read_by_all(two: Path) -> None:
    told = [json.loads((two / f"follow-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["results"] == told[1]["results"]
    assert told[0]["results"] == [0, 2, 4, 6, 8, 10, 12, None, 16, 18, 20]
    assert [one["calls"] for one in told] == [[0, 2, 4], [1, 3, 5]]
    events = read_events(two / "run")
    assert [event["payload"] for event in events if event["kind"] == "seen"] == [{"rank": 0}]
    assert [event["kind"] for event in events].count("started") == 1
    assert not (two / "run" / "scratch").exists()


@pytest.mark.parametrize("name", list(team_jobs.ENDINGS))
def test_where_one_fails_all_end_and_say_why_in_a_line(name: str, two: Path) -> None:
    """Nobody is ended from outside, and nobody waits for ever."""
    codes = json.loads((two / "ended.json").read_text())[name]
    assert codes == ([2, -signal.SIGKILL] if name == "struck" else [2, 2])
    first = 0 if name in ("locked", "full") else 1
    told = [(two / f"{name}-{rank}.err").read_text() for rank in (0, 1)]
    lines = [[line for line in text.splitlines() if "[W" not in line] for text in told]  # torch's
    wanted = {
        "locked": ["another process is writing this run"],
        "full": ["first.bin: File too large"],
        "unreadable": ["7.png: not a picture"],
        "struck": [],
        "silent": ["nothing to draw"],
    }
    other = 1 - first
    for found, reasons in (
        (lines[first], wanted[name]),
        (lines[other], [f"process {other} of 2 was left by another"]),
    ):
        assert len(found) == len(reasons), told
        assert all(reason in line for reason, line in zip(reasons, found, strict=True)), told


@pytest.mark.parametrize("name", team_jobs.MEETINGS)
def test_who_does_not_meet_the_others_says_so_in_a_line(name: str, two: Path) -> None:
    """torch itself would wait for ever at a port where somebody else listens."""
    codes = json.loads((two / "ended.json").read_text())[name]
    assert codes == ([2, 0] if name == "unmet" else [2, 2])
    for rank, code in enumerate(codes):
        told = (two / f"{name}-{rank}.err").read_text()
        assert told.count("\n") == bool(code), told
        if code:
            assert f"process {rank} of 2 has not met the others at 127.0.0.1:" in told
            assert "(not within 0.5 s; GROUNDLING_MEETING_S gives them longer)" in told


def test_a_leader_that_fails_leaves_no_finished_stage(two: Path) -> None:
    assert not (two / "full" / "stages").exists()
    assert not (two / "full" / "first.bin").exists()
    assert read_events(two / "full")[-1]["kind"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["copied", "shared"])
def test_three_processes_take_the_steps_of_one(
    way: str, three: Path, alone: dict[str, Fit]
) -> None:
    """A batch of 4 and parts of 3 do not come out even."""
    for name, wanted in alone.items():
        for rank in range(3):
            check(three / way / f"{name}-{rank}.safetensors", wanted)
    assert (three / way / "killed").read_bytes() == (three / way / "calm").read_bytes()


def test_those_who_have_met_wait_for_each_other_as_long_as_they_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in (ours | {meeting.SETTING: "60"}).items():
        monkeypatch.setenv(name, value)
    meeting.meet("gloo", team.PATIENCE)
    group = distributed.distributed_c10d._get_default_group()
    try:
        assert group._get_backend(torch.device("cpu")).options._timeout == team.PATIENCE
        assert distributed.distributed_c10d._get_default_store().timeout == team.PATIENCE
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({meeting.SETTING: "soon"}, "GROUNDLING_MEETING_S: got 'soon'; wanted a number of"),
        ({meeting.SETTING: "0"}, "GROUNDLING_MEETING_S: got '0'; wanted"),
        ({"RANK": ""}, r"process \? of 2 .* environment variable RANK expected, but not set"),
        ({"MASTER_PORT": "99999"}, "127.0.0.1:99999 .*from 0 to 65535"),
    ],
)
def test_an_environment_that_no_launcher_made_is_told(
    changes: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (ours | changes).items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    with pytest.raises(RunError, match=reason):
        meeting.meet("gloo", team.PATIENCE)


def test_a_process_alone_is_a_team_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    one = team.Team()
    assert (one.size, one.rank, one.leader, one.sharded) == (1, 0, True, False)
    one.barrier()
    assert one.sum([1.5, 2.0]) == [1.5, 2.0]
    assert one.gather("a") == ["a"]
    assert one.broadcast("a") == "a"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not team.shards(), "one process shares nothing out"


def test_only_a_failed_exchange_counts_as_the_loss_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer")
    for size, fault, found in (
        ("1", lost, RuntimeError),
        ("2", lost, RunError),
        ("2", torch.distributed.DistNetworkError("unreachable"), RunError),
        ("2", RuntimeError("shapes do not match"), RuntimeError),
    ):
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(Exception, match=r".") as caught, team.in_company():
            raise fault
        assert caught.type is found


def test_only_the_leader_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        stream = io.StringIO()
        with Progress("sft", 1, "steps", stream=stream) as progress:
            progress.advance()
        told.append(stream.getvalue())
    assert told[0].startswith("sft 1/1 steps")
    assert told[1] == ""


def test_a_team_of_one_loads_nothing_heavy() -> None:
    code = (
        "import sys; from groundling.team import team; team().barrier();"
        "print(sorted({'torch', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
