"""The whole of ReFineG and GMNER by their commands, with a simulated annotator behind a server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_resume import run_until_killed

from groundling.cli import main
from groundling.config import ToyworldData, dump_yaml
from groundling.config_gmner import (
    GroundingConfig,
    InContextConfig,
    LabelledData,
    RefinegConfig,
    RefinementConfig,
    SimulatorConfig,
    SynthesisConfig,
    TaggerConfig,
    TaggerOptimiser,
)
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_posts, read_predictions
from groundling.rundir import read_events
from groundling.toyworld.simulator import Annotator, Simulator

SMALL = RefinegConfig(
    data=LabelledData(
        toyworld=ToyworldData(train_queries=80, validation_queries=24, test_queries=30, vague=1.0),
        labelled=25,
    ),
    simulator=SimulatorConfig(skill=0.95),
    synthesis=SynthesisConfig(sentences=2, low=4, high=24, ratio=1),
    tagger=TaggerConfig(backend="bilstm", word_size=24, hidden_size=24),
    tuning=TaggerOptimiser(lr=2e-2, crf_lr=2e-2, epochs=8, batch_size=5, warmup=0.0),
    patience=None,
    refinement=RefinementConfig(budget=0.5, whole_curve=True),
    grounding=GroundingConfig(way="icl"),
    in_context=InContextConfig(examples=2),
    checkpoint_every_s=0.2,
)


RESULTS = ("predictions/test.jsonl", "mentions/refined.jsonl", "synth/synthetic.jsonl")


def write_recipe(folder: Path, config: RefinegConfig) -> Path:
    path = folder / "small.yaml"
    path.write_text(dump_yaml(config))
    return path


def command(recipe: Path, out: Path) -> list[str]:
    call = [sys.executable, "-m", "groundling", "refineg", "run", "--quiet", "--json"]
    return [*call, "--config", str(recipe), "--out", str(out)]


def run(recipe: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(recipe, out), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refineg")
    done = run(write_recipe(folder, SMALL), folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_what_a_run_leaves_behind(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["labelled_posts"] == 25
    assert metrics["synthesis"]["kept"] > 10
    assert metrics["synthesis"]["refused"]
    assert metrics["grounding"]["failed_posts"] == 0
    assert metrics["grounding"]["boxes"] > 0
    assert 0 < metrics["refinement"]["asked"] <= 0.5 * metrics["refinement"]["mentions"]
    test = metrics["test"]
    assert test["refined"]["span"]["mner"]["f1"] > test["tagger"]["span"]["mner"]["f1"]
    assert test["grounded"]["span"]["mner"] == test["refined"]["span"]["mner"]
    posts = read_gmner(finished / "data", "test").posts
    said = read_predictions(finished / "predictions/test.jsonl")
    assert [one.id for one in said] == [post.id for post in posts]
    made = read_posts(finished / "synth/synthetic.jsonl").posts
    assert len(made) == metrics["synthesis"]["kept"]
    refinement = (finished / "refinement/test.jsonl").read_text().splitlines()
    assert len(refinement) == metrics["refinement"]["asked"]


def test_the_whole_curve_is_drawn(finished: Path) -> None:
    told = json.loads((finished / "refinement/summary.json").read_text())
    curve, by_chance = told["validation_f1"], told["validation_f1_random"]
    assert len(curve) == told["validation_mentions"] + 1
    assert {(one[0], one[-1]) for one in by_chance} == {(curve[0], curve[-1])}
    drawn = (finished / "refinement/curve.svg").read_text()
    for share, f1 in ((0, curve[0]), (100, curve[-1])):
        for label in ("least certain first", "random order"):
            assert f"<title>{share}, {label}: {f1:.2f} %</title>" in drawn


def check_killed(finished: Path, folder: Path, kills: Sequence[tuple[str, float]]) -> int:
    """Run under the given kills, finish, compare; how many kills struck."""
    recipe, out = write_recipe(folder, SMALL), folder / "run"
    struck = sum(run_until_killed(command(recipe, out), out, *kill) for kill in kills)
    done = run(recipe, out)
    assert done.returncode == 0, done.stderr
    for name in RESULTS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    return struck


def test_a_killed_run_goes_on_and_ends_the_same(finished: Path, tmp_path: Path) -> None:
    assert check_killed(finished, tmp_path, [("fit", 0.2)]) == 1


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_the_same(finished: Path, tmp_path: Path) -> None:
    stages = ("data", "synth", "fit", "fit", "refine", "ground")
    assert check_killed(finished, tmp_path, [(stage, 0.15) for stage in stages]) >= 5


def test_an_endpoint_that_fails_loses_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """30 % of first tries fail; those about uncertain mentions are not tried again in one run."""
    with serving(Annotator(0.95), fail=0.3) as url:
        recipe, out = write_recipe(tmp_path, without_patience(url)), tmp_path / "run"
        stopped = 0
        while (code := main(command(recipe, out)[3:])) != 0:
            told = capsys.readouterr().err
            assert code == 2
            assert "refine: " in told
            assert "run again to ask for these alone" in told
            stopped += 1
            assert stopped < 4
    assert stopped
    for name in RESULTS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_what_failed_in_finished_stages_is_asked_again_where_wanted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every first try fails, and that is tolerated.

    Where nothing is known of validation nobody is asked about test; the first retry then asks, for
    the first time, and fails, and the second one succeeds.
    """
    with serving(Annotator(0.95), fail=1.0) as url:
        config = without_patience(url).model_copy(update={"tolerate": 1.0})
        out = tmp_path / "run"
        call = command(write_recipe(tmp_path, config), out)[3:]
        changes, told = [], []
        for options in ([], [], ["--retry"], ["--retry"], ["--retry"]):
            assert main([*call, *options]) == 0
            told.append("in refine; --retry tries these again" in capsys.readouterr().err)
            metrics = json.loads((out / "metrics.json").read_text())
            changes.append(set(metrics["refinement"]["changes"]))
    assert told == [True, True, True, False, False]
    assert changes[:3] == [set(), set(), {"failed"}]
    assert "confirmed" in changes[3]
    for name in RESULTS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    begun = [one["stage"] for one in read_events(out) if one["kind"] == "started"]
    assert begun == ["data", "synth", "fit", "tag", *["refine", "ground"] * 3]


def without_patience(url: str) -> RefinegConfig:
    """The run with an endpoint, which is tried once alone about an uncertain mention."""
    assert SMALL.refinement is not None
    stubborn = {"endpoint": {"attempts": 1, "give_up_after": 1000}}
    changes = {
        "simulator": None,
        "endpoint": {"endpoint": url, "model": "m", "api_key_env": None, "backoff_s": 0.01},
        "refinement": SMALL.refinement.model_copy(update=stubborn),
    }
    return SMALL.model_copy(update=changes)


@contextmanager
def serving(annotator: Annotator, fail: float) -> Iterator[str]:
    """The URL of a simulated annotator in this process: it remembers what it has refused."""
    with Simulator(annotator, fail=fail) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def test_gmner_with_the_run_s_tagger(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    call = ["gmner", str(finished / "data"), "--images", str(finished / "data/images"), "--quiet"]
    code = main([*call, "--tagger", str(finished), "--grounding", "isr", "--out", str(out)])
    said = {one.id: one for one in read_predictions(out)}
    failed = [one for post in said.values() for one in post.failed]
    assert {one.failure.kind for one in failed} <= {"unknown-name"}, "packaged models know 79 names"
    lost = [post.id for post in said.values() if post.failure is not None]
    assert code == (1 if failed or lost else 0)
    tagged = read_predictions(finished / "mentions/test.jsonl")
    for one in tagged:
        spans = [(p.start, p.end, p.type) for p in one.predictions]
        answered = said[one.id]
        placed = [(p.start, p.end, p.type) for p in (*answered.predictions, *answered.failed)]
        assert one.id in lost or sorted(spans) == sorted(placed)
    assert any(p.expression for one in said.values() for p in one.predictions)
    assert any(p.box for one in said.values() for p in one.predictions)
