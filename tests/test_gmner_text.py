"""The comparison of taggers, on a handful of posts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_taggers

from groundling.config_gmner import TaggingConfig
from groundling.data.jsonl import write_posts
from groundling.records import Post
from groundling.rundir import read_events
from groundling.settings import load_config

ROOT = Path(__file__).parents[1]
POSTS = [
    Post(f"p{number}", post.tokens, post.entities)
    for number, post in enumerate(tiny_taggers.POSTS * 2)
]
RECIPE = """
data: {{source: replaced}}
tagger: {{backend: bilstm, head: {head}, word_size: 8, hidden_size: 8, device: cpu}}
tuning: {{lr: {lr}, batch_size: 6, epochs: {epochs}}}
"""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gmner_text", ROOT / "bench" / "gmner_text.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gmner_text"] = module
    spec.loader.exec_module(module)
    return module


def test_every_seed_runs_once_and_the_page_tells_all(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("posts", "recipes"):
        (tmp_path / folder).mkdir()
    for split in ("train", "dev", "test"):
        write_posts(tmp_path / "posts" / f"{split}.jsonl", POSTS)
    for head, lr, epochs in (("linear", 0.01, 1), ("crf", 0.03, 8)):
        text = RECIPE.format(head=head, lr=lr, epochs=epochs)
        (tmp_path / "recipes" / f"{head}.yaml").write_text(text)
    monkeypatch.setattr(bench, "RECIPES", tmp_path / "recipes")
    linear = bench.Row("Linear", "linear.yaml")
    crf = bench.Row("CRF", "crf.yaml", "Linear")
    assert not bench.can_run(bench.Row("Absent", "absent.yaml"))
    assert not bench.can_run(bench.Row("Needy", "crf.yaml", needs="no_such_package"))
    runs = bench.Runs(tmp_path / "posts", tmp_path, tmp_path / "runs", quiet=True)
    outcomes = [runs.outcome(row, [0, 1]) for row in (linear, crf) if bench.can_run(row)]

    lines = list(bench.page(outcomes, POSTS, [0, 1]))
    (row,) = [line for line in lines if line.startswith("| CRF | ") and " ± " in line][:1]
    f1 = [one["scores"]["test"]["rules"]["span"]["mner"]["f1"] for one in outcomes[1].metrics]
    assert row.split(" | ")[1].startswith(f"{sum(f1) / 2:.2f} ± ")
    assert any(line.startswith("| CRF | Linear | +") for line in lines)
    assert any("BERT-CRF-None" in line and "43.78" in line for line in lines)

    events = len(read_events(tmp_path / "runs/crf/seed-0"))
    again = runs.outcome(crf, [0, 1])
    assert again.metrics == outcomes[1].metrics
    kinds = [e["kind"] for e in read_events(tmp_path / "runs/crf/seed-0")[events:]]
    assert set(kinds) == {"continued"}, "nothing was done twice"


def test_the_rows_are_recipes_that_parse(bench: Any) -> None:
    names = {row.name for row in bench.ROWS}
    for row in bench.ROWS:
        assert row.against is None or row.against in names
        assert (bench.RECIPES / row.recipe).is_file()
        load_config(TaggingConfig, bench.RECIPES / row.recipe)


def test_the_recipe_of_refineg_is_as_its_authors_set_it() -> None:
    config = load_config(TaggingConfig, ROOT / "recipes/gmner/refineg-xlmr-crf.yaml")
    assert config.tuning is not None
    assert (config.tuning.lr, config.tuning.crf_lr) == (1e-5, 5e-2)
    assert (config.tuning.epochs, config.tuning.batch_size) == (15, 32)
    assert (config.tagger.max_length, config.tagger.word_dropout) == (128, 0.1)
    assert config.tagger.path == "FacebookAI/xlm-roberta-large"
