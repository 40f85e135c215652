"""The comparison of ReFineG's stages on the embedded world, in a very small one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from groundling.config_gmner import RefinegConfig
from groundling.rundir import read_events
from groundling.settings import load_config

ROOT = Path(__file__).parents[1]
RECIPE = """
data:
  toyworld: {train_queries: 60, validation_queries: 20, test_queries: 24, vague: 1.0}
  labelled: 16
simulator: {skill: 0.9}
synthesis: {sentences: 1, low: 4, high: 24}
tagger: {backend: bilstm, word_size: 16, hidden_size: 16}
tuning: {lr: 3.0e-2, crf_lr: 3.0e-2, epochs: 9, batch_size: 4}
patience: null
refinement: {budget: 0.4, whole_curve: true}
in_context: {examples: 1}
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    for name in ("refineg_toy_runs", "refineg_toy_page", "refineg_toy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("refineg_toy")


def test_the_page_tells_what_the_runs_came_to(bench: Any, tmp_path: Path) -> None:
    runs_of = sys.modules["refineg_toy_runs"]
    alone = runs_of.Variant("without synthesis", {"synthesis": None}, ("data",))
    variants = (runs_of.FULL, alone, runs_of.VARIANTS[-1])
    (tmp_path / "small.yaml").write_text(RECIPE)
    runs = bench.Runs(tmp_path / "runs", tmp_path / "small.yaml", quiet=True)
    found = bench.measure(runs, [0], 9, search=(), variants=variants, examples=(1,))
    lines = list(bench.page(found))
    full, _, ungrounded = (found.runs[variant.name][0].metrics["test"] for variant in variants)
    for name, test in (("all of ReFineG", full), ("nothing grounded", ungrounded)):
        (row,) = [line for line in lines if line.startswith(f"| {name} | ")]
        told = [float(cell) for cell in row.split(" | ")[1:3]]
        assert told == [test["grounded"]["span"][task]["f1"] for task in ("mner", "gmner")]
    assert full["tagger"] == ungrounded["tagger"]

    assert found.routed["test"][0].uncertain.shape[1:] == (11, 3)
    uncertain, by_chance = found.routed["dev"][0].uncertain, found.routed["dev"][0].by_chance
    assert uncertain[:, [0, -1]] == pytest.approx(by_chance[:, [0, -1]])
    summary = found.runs["all of ReFineG"][0].metrics["refinement"]
    (row,) = [line for line in lines if line.startswith("| 10 % | ")]
    tenth = summary["validation_f1"][summary["validation_mentions"] // 10]
    assert float(row.split(" | ")[1]) == pytest.approx(tenth, abs=0.005)

    nothing = found.shown[runs_of.Shown(16, "similarity", 0)][0]
    assert nothing[:, 1, 0].sum() == 0, "without an example nothing is found"
    for name, drawn in bench.plots(found).items():
        assert ElementTree.fromstring(drawn).tag.endswith("svg"), name

    folder = found.runs["all of ReFineG"][0].folder
    events = len(read_events(folder))
    assert runs.of(runs_of.FULL, 0).metrics == found.runs["all of ReFineG"][0].metrics
    kinds = {event["kind"] for event in read_events(folder)[events:]}
    assert kinds == {"continued"}, "nothing was done twice"


def test_what_is_taken_away_leaves_a_recipe_that_parses(bench: Any) -> None:
    runs_of = sys.modules["refineg_toy_runs"]
    assert runs_of.RECIPE == ROOT / "recipes/refineg-toy.yaml"
    assert bench.Runs
    for variant in runs_of.VARIANTS:
        config = load_config(RefinegConfig, runs_of.RECIPE, dict(variant.changes))
        assert (config.refinement is None) == (variant.name == "without refinement")
        assert (config.synthesis is None) == (variant.name == "without synthesis")
