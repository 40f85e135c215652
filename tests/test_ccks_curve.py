"""The measurement on CCKS, on a release of two dozen sentences."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import ccks_curve as bench
import ccks_data

from groundling.data.jsonl import read_posts
from groundling.data.leaks import find_leaks, folded_text
from groundling.errors import DataError
from groundling.records import CCKS, Entity, Post
from groundling.rundir import read_events

RELEASED = Path(__file__).parents[2] / "shared" / "data" / "ccks-aug"
RECIPE = """
scheme: ccks
data: {source: replaced}
tagger: {backend: bilstm, word_size: 8, hidden_size: 8, device: cpu}
tuning: {lr: 2.0e-2, epochs: 2, batch_size: 4}
patience: 1
"""
NAMES = ("Marder", "Puma", "Dingo", "Fennek", "Boxer", "Wiesel")


def post(name: str, text: str) -> Post:
    tokens = tuple(text.split())
    found = [Entity(w, "vehicle", i, i + 1) for i, w in enumerate(tokens) if w in NAMES]
    return Post(name, tokens, tuple(found))


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ccks_data.Release:
    """Six labelled posts, three sentences near each of which one copies it, and a dev in train."""
    monkeypatch.setattr(ccks_data, "GROUP", 3)
    monkeypatch.setattr(ccks_data, "SCORED", 4)
    monkeypatch.setattr(ccks_data, "DEV", 0.25)
    monkeypatch.setattr(bench, "SCORED", 4)
    monkeypatch.setattr(bench, "SIZES", (0, None))
    monkeypatch.setattr(bench, "MOST", 4)
    labelled = [post(f"l{i}", f"Today the {name} crossed a river") for i, name in enumerate(NAMES)]
    made = [
        post(f"m{i}{j}", text.format(name))
        for i, name in enumerate(NAMES)
        for j, text in enumerate(
            (
                "today the {} crossed a river",
                "Near a village the {} broke down at noon",
                f"Soldiers number {i} repaired some {{}} over night",
            )
        )
    ]
    dev = [post(f"d{i}", f"In picture {i} you see one {name}") for i, name in enumerate(NAMES)]
    leaks = find_leaks({"train": [*made, *dev], "dev": dev})
    return ccks_data.Release(tuple(labelled), tuple(made), (*made, *dev), tuple(dev), leaks)


def test_nothing_held_out_is_learnt_and_the_page_tells_all(
    release: ccks_data.Release, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    runs = bench.Runs(release, tmp_path / "runs", recipe, quiet=True)
    seeds = [runs.seed(seed) for seed in (0, 1)]
    for number in (0, 1):
        folder = tmp_path / f"runs/seed-{number}/honest-all/posts"
        train, *others = (
            set(map(folded_text, read_posts(folder / f"{name}.jsonl", scheme=CCKS).posts))
            for name in ("train", "dev", "held-out", "released")
        )
        assert all(part and not part & train for part in others)
    first = seeds[0]
    assert first.honest[0].sentences == 0
    assert first.honest[None].sentences == first.prepared.told["kept"]
    assert first.prepared.told["held_out_texts"] > 0, "copies were offered"
    assert first.honest[None].seen == {"held-out": 0, "released": 0}
    assert first.leaky[None].seen["released"] == 4, "all that is scored is in the released train"
    assert first.leaky[0] == first.honest[0]

    lines = list(bench.page(release, seeds, [0, 1], "ccks"))
    row = next(line for line in lines if line.startswith("| all"))
    f1 = [seed.honest[None].f1["held-out"] for seed in seeds]
    assert row.split(" | ")[1].startswith(f"{sum(f1) / 2:.2f} ± ")
    assert row.endswith("(100.0 %) |")
    assert "dev in train: the texts of 6 of 6 posts, 6 of them with the same entities" in "\n".join(
        lines
    )
    words = "".join(ElementTree.fromstring(bench.figure(seeds)).itertext())
    assert "released posts" in words

    run = tmp_path / "runs/seed-0/honest-all/run"
    events = len(read_events(run))
    assert runs.seed(0).honest == first.honest
    assert {event["kind"] for event in read_events(run)[events:]} == {"continued"}


def test_another_release_is_refused(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.conll").write_text("A\tO\n\n")
    with pytest.raises(DataError, match="is not the release of ccks-aug"):
        ccks_data.read_release(tmp_path)


@pytest.mark.skipif(not RELEASED.is_dir(), reason=f"needs {RELEASED}")
def test_the_parts_of_the_release() -> None:
    release = ccks_data.read_release(RELEASED)
    near_test, near_labelled = ccks_data.kept_names(release)
    assert near_test.kept > 0.9 * near_test.groups
    assert near_labelled.kept > 0.8 * near_labelled.groups
    shuffled = replace(release, published=(*release.published[10:5000], *release.published))
    assert ccks_data.kept_names(shuffled)[0].kept < 0.2 * near_test.groups, "not by chance"
