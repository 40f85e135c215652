"""The whole of ReFineG and GMNER by their commands, with a simulated annotator behind a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import run_until_killed

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

SMALL = RefinegConfig(
    data=LabelledData(
        toyworld=ToyworldData(train_queries=120, validation_queries=30, test_queries=40),
        labelled=40,
    ),
    simulator=SimulatorConfig(skill=0.95),
    synthesis=SynthesisConfig(sentences=2, low=4, high=24, ratio=1),
    tagger=TaggerConfig(backend="bilstm", word_size=24, hidden_size=24),
    tuning=TaggerOptimiser(lr=1e-2, crf_lr=2e-2, epochs=8, batch_size=4, warmup=0.0),
    patience=None,
    refinement=RefinementConfig(budget=0.5),
    grounding=GroundingConfig(way="icl"),
    in_context=InContextConfig(examples=2),
    checkpoint_every_s=0.2,
)


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
    assert metrics["labelled_posts"] == 40
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


def test_a_killed_run_goes_on_and_ends_the_same(finished: Path, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path, SMALL), tmp_path / "run"
    for stage in ("fit", "ground"):
        assert run_until_killed(command(recipe, out), out, stage, 0.2), f"{stage} was over"
    done = run(recipe, out)
    assert done.returncode == 0, done.stderr
    for name in ("predictions/test.jsonl", "mentions/refined.jsonl", "synth/synthetic.jsonl"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_an_endpoint_that_fails_loses_nothing(finished: Path, tmp_path: Path) -> None:
    """30 % of first tries fail; those about uncertain mentions are not tried again in one run."""
    stubborn = {"endpoint": {"attempts": 1, "give_up_after": 1000}}
    assert SMALL.refinement is not None
    changes = {
        "simulator": SimulatorConfig(skill=0.95, fail=0.3),
        "refinement": SMALL.refinement.model_copy(update=stubborn),
    }
    recipe, out = write_recipe(tmp_path, SMALL.model_copy(update=changes)), tmp_path / "run"
    codes = []
    while (done := run(recipe, out)).returncode != 0:
        codes.append(done.returncode)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "refine: " in done.stderr
        assert "run again to ask for these alone" in done.stderr
        assert len(codes) < 15
    assert codes
    for name in ("predictions/test.jsonl", "mentions/refined.jsonl", "synth/synthetic.jsonl"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_gmner_with_the_run_s_tagger(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    call = [sys.executable, "-m", "groundling", "gmner", str(finished / "data"), "--quiet"]
    call += ["--images", str(finished / "data/images"), "--tagger", str(finished)]
    done = subprocess.run(
        [*call, "--grounding", "isr", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = {one.id: one for one in read_predictions(out)}
    tagged = read_predictions(finished / "mentions/test.jsonl")
    for one in tagged:
        spans = [(p.start, p.end, p.type) for p in one.predictions]
        assert spans == [(p.start, p.end, p.type) for p in said[one.id].predictions]
    assert any(p.expression for one in said.values() for p in one.predictions)
    assert any(p.box for one in said.values() for p in one.predictions)
