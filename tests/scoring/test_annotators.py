"""One annotator's posts scored against another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groundling.data.annotators import as_predictions
from groundling.data.gmner import write_gmner_split
from groundling.data.jsonl import write_posts
from groundling.records import Box, Post


@pytest.fixture
def posts(tmp_path: Path, parade: Post) -> Path:
    path = tmp_path / "gold.jsonl"
    write_posts(path, [parade])
    return path


def test_field_d7_the_error_names_gold_and_the_way_to_score_it(posts: Path, score: Any) -> None:
    done = score(posts, "--gold", posts)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "entities[0]: has 'boxes' and no 'box': gold, not a prediction" in done.err
    assert "--pred-boxes largest" in done.err


def test_field_d7_a_folder_of_posts_is_named_too(tmp_path: Path, parade: Post, score: Any) -> None:
    write_gmner_split(tmp_path / "mine", "test", [parade], {"p1": (100, 100)})
    folder = tmp_path / "mine"
    done = score(folder, "--gold", folder)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--pred-boxes" in done.err
    scored = score(folder, "--gold", folder, "--pred-boxes", "largest", "--json")
    assert scored.json["accuracy"]["all"] == 100.0


@pytest.mark.parametrize("rule", ["isr", "riveg", "refineg", "span"])
def test_field_d7_an_annotator_agrees_with_itself(posts: Path, score: Any, rule: str) -> None:
    words = [posts, "--gold", posts, "--rule", rule, "--pred-boxes", "largest"]
    found = score(*words, "--against", posts, "--json").json
    agreed = found["accuracy"]["all"] if rule == "isr" else found["gmner"]["f1"]
    if rule == "refineg":  # its predictions of a repeated name all link to the first mention
        assert 0 < agreed < 100
    else:
        assert agreed == 100.0


def test_field_d7_all_boxes_are_answers(posts: Path, parade: Post, score: Any) -> None:
    found = score(posts, "--gold", posts, "--rule", "span", "--pred-boxes", "all", "--json").json
    assert (found["gmner"]["right"], found["gmner"]["predicted"]) == (3, 5)
    (said,) = as_predictions([parade], "all")
    assert [one.box for one in said.predictions if one.name == "Bo"] == [None]
    (said,) = as_predictions([parade])
    assert said.predictions[0].box == Box(50, 50, 90, 90)
    refused = score(posts, "--gold", posts, "--pred-boxes", "all")
    assert refused.code == 2
    assert "wanted largest" in refused.err


def test_predictions_may_carry_boxes_beside_their_box(
    tmp_path: Path, posts: Path, score: Any
) -> None:
    entity = {"name": "Ann", "type": "PER", "box": None, "boxes": []}
    path = tmp_path / "pred.jsonl"
    path.write_text(json.dumps({"id": "p1", "entities": [entity]}) + "\n")
    assert score(path, "--gold", posts).code == 0
