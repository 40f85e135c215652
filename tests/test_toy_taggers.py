"""The comparison of taggers on the embedded world, on a handful of its posts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from groundling.config import ToyworldData
from groundling.rundir import read_events

BENCH = Path(__file__).parents[1] / "bench" / "toy_taggers.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_taggers", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_taggers"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_tells_of_every_row_and_nothing_is_run_twice(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"tagger.word_size": 8, "tagger.hidden_size": 12, "tuning.epochs": 12}
    faster = {"tuning.lr": 0.02, "tuning.crf_lr": 0.05, "tagger.dropout": 0.1}
    monkeypatch.setattr(bench, "BASE", {**bench.BASE, **small, **faster})
    size = ToyworldData(train_queries=40, validation_queries=12, test_queries=16)
    source = bench.world(tmp_path, size)
    rows = [bench.ROWS[0], bench.SEEING]
    assert [row.folder for row in rows] == ["text-marginal", "text-and-picture-marginal"]
    outcomes = {row.name: bench.outcome(row, source, tmp_path, [0]) for row in rows}
    shown = bench.with_other_pictures(source, tmp_path, [0])
    f1 = {
        name: runs[0]["scores"]["test"]["rules"]["span"]["mner"]["f1"]
        for name, runs in outcomes.items()
    }
    assert shown["its own"] == [pytest.approx(f1[bench.SEEING.name], abs=0.01)]
    lines = list(bench.page(outcomes, shown, [0]))
    for name, value in f1.items():
        assert any(line.startswith(f"| {name} | {value:.2f} | ") for line in lines)
    gain = f1[bench.SEEING.name] - f1["text, marginal"]
    assert f"- {bench.SEEING.name}: {gain:+.2f}" in lines
    assert [line.partition(":")[0] for line in lines[-3:]] == [f"- {name}" for name in shown]

    folder = bench.run_folder(rows[0], tmp_path, 0)
    events = len(read_events(folder))
    assert bench.world(tmp_path, size) == source
    assert bench.outcome(rows[0], source, tmp_path, [0]) == outcomes["text, marginal"]
    assert {event["kind"] for event in read_events(folder)[events:]} == {"continued"}


def test_the_rows_are_settings_that_parse(bench: Any) -> None:
    from groundling.config_gmner import TaggingConfig
    from groundling.settings import load_config

    kinds = []
    for row in bench.ROWS:
        settings = {**bench.BASE, **row.changes, "data.source": "x"}
        kinds.append(load_config(TaggingConfig, None, settings).tagger.uncertainty.kind)
    assert kinds == ["marginal", "mc-dropout", "ensemble", "marginal"]
