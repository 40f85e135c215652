"""Two processes do what one does: the same parameters, losses and files, up to rounding."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
import team_jobs
import tiny
import tiny_ofa
import torch
from safetensors.torch import load_file
from team_jobs import CASES, Fit, run_fit

from groundling import team
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
    tiny.writer().save_adapter(folder / "shared-round" / "start")
    run_fit("dpo", checkpoint=folder / "begun-by-one", last=2)
    shutil.copy(folder / "begun-by-one", folder / "begun-by-one-too")
    places = [*team_jobs.PLACES, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, team_jobs.__file__, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)},
    )
    assert done.returncode == 0, done.stderr
    ended = json.loads((folder / "ended.json").read_text())
    failing = {"dying", "refused"}
    assert {name for name, well in ended.items() if not well} == failing, done.stderr
    assert "the leader's own trouble" in done.stderr
    return folder


def far(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of any tensor."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[name] - tensor).norm() / tensor.norm().clamp_min(1e-9))
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


@pytest.mark.parametrize("name", ["tiny", "ofa"])
def test_grounders_take_the_steps_of_one(name: str, two: Path) -> None:
    """OFA has parameters that no loss reaches: they must not keep the others waiting.

    Biases are left out. Some (of attention's keys) have no gradient but for rounding, and AdamW
    makes whole steps of any gradient.
    """
    grounder = small_run.grounder() if name == "tiny" else team_jobs.open_ofa(two)
    parameters, losses, norms = team_jobs.fit_grounder(grounder, two)
    wanted = {key: value for key, value in parameters.items() if not key.endswith("bias")}
    for stored in [f"{name}-0", f"{name}-1", *(["ofa-shared-0"] if name == "ofa" else [])]:
        found = load_file(two / f"{stored}.safetensors")
        assert found["losses"].tolist() == pytest.approx(losses, rel=CLOSE)
        assert found["norms"].tolist() == pytest.approx(norms, rel=CLOSE)
        assert far({key: found[key] for key in wanted}, wanted) < CLOSE
    if name == "ofa":
        saved = load_file(two / "ofa-shared-0" / "model.safetensors")
        assert far({key: saved[key] for key in wanted}, wanted) < CLOSE
        assert not (two / "ofa-shared-1").exists(), "the leader writes"


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


def test_a_run_directory_is_written_by_one_and_read_by_all(two: Path) -> None:
    told = [json.loads((two / f"follow-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["results"] == told[1]["results"]
    assert told[0]["results"] == [0, 2, 4, 6, 8, 10, 12, None, 16, 18, 20]
    assert [one["calls"] for one in told] == [[0, 2, 4], [1, 3, 5]]
    events = read_events(two / "run")
    assert [event["payload"] for event in events if event["kind"] == "seen"] == [{"rank": 0}]
    assert [event["kind"] for event in events].count("started") == 1
    assert not (two / "run" / "scratch").exists()


def test_a_leader_that_fails_leaves_no_finished_stage(two: Path) -> None:
    assert not (two / "refused" / "stages").exists()
    assert read_events(two / "refused")[-1]["kind"] == "stopped"


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
