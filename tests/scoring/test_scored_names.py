"""Gold without positions, and gold without boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ANN = {"name": "Ann", "type": "PER"}
BOX = [1, 2, 30, 40]


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """Write gold and predictions of one post, and return their paths."""

    def write(gold: dict[str, Any], said: dict[str, Any]) -> tuple[Path, str, Path]:
        paths = tmp_path / "pred.jsonl", tmp_path / "gold.jsonl"
        for path, line in zip(paths, (said, gold), strict=True):
            path.write_text(json.dumps({"id": "a.jpg", **line}) + "\n")
        return paths[0], "--gold", paths[1]

    return write


@pytest.mark.parametrize("said", [{}, {"start": 4, "end": 5}])
def test_field_d9_rule_isr_matches_by_name(files: Any, score: Any, said: dict[str, int]) -> None:
    gold = {"image": "a.jpg", "entities": [{**ANN, "boxes": [BOX]}]}
    words = files(gold, {"entities": [{**ANN, "box": BOX, **said}]})
    assert score(*words, "--json").json["accuracy"]["all"] == 100.0
    by_name = score(*words, "--rule", "riveg", "--json").json
    assert by_name["gmner"]["f1"] == 100.0
    assert by_name["compared_by"]["mner"] == "name"
    refused = score(*words, "--rule", "span")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "'Ann' (PER) has no place in its text" in refused.err


@pytest.mark.parametrize("box", [None, BOX])
def test_field_d9_nothing_answers_gold_without_boxes(files: Any, score: Any, box: Any) -> None:
    words = files({"tokens": ["Ann"], "entities": [ANN]}, {"entities": [{**ANN, "box": box}]})
    refused = score(*words)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "comes without gold boxes" in refused.err
    for rule in ("riveg", "refineg"):
        scored = score(*words, "--rule", rule, "--json").json
        assert (scored["gmner"]["f1"], scored["mner"]["f1"]) == (0.0, 100.0)
        assert "only MNER means something" in scored["warnings"][0]


def test_field_d8_white_space_in_names_does_not_count(files: Any, score: Any) -> None:
    gold = {"text": "At Yahoo!", "entities": [{"name": "Yahoo!", "type": "ORG", "boxes": []}]}
    said = {"entities": [{"name": "Yahoo!", "type": "ORG", "box": None}]}
    words = files(gold, said)
    assert score(*words, "--json").json["accuracy"]["all"] == 100.0
    assert score(*words, "--rule", "riveg", "--json").json["mner"]["f1"] == 100.0


RULES = ("isr", "riveg", "refineg")


def _figure(done: Any, rule: str) -> float:
    figure = done.json["accuracy"]["all"] if rule == "isr" else done.json["gmner"]["f1"]
    return float(figure)


@pytest.mark.parametrize("rule", RULES)
def test_white_space_counts_in_names_whose_tokens_were_given(
    files: Any, score: Any, rule: str
) -> None:
    gold = {"tokens": ["Yahoo", "!"], "entities": [{"name": "Yahoo !", "type": "ORG"}]}
    gold["entities"][0] |= {"start": 0, "end": 2, "boxes": []}
    figures = []
    for name in ("Yahoo !", "Yahoo!"):
        words = files(gold, {"entities": [{"name": name, "type": "ORG", "box": None}]})
        figures.append(_figure(score(*words, "--rule", rule, "--json"), rule))
    assert figures == [100.0, 0.0]


@pytest.mark.parametrize("rule", RULES)
def test_two_names_of_a_text_that_differ_in_white_space_stay_two(
    files: Any, score: Any, rule: str
) -> None:
    names = ("Lock down", "Lockdown")
    boxes: list[list[list[int]]] = [[], [BOX]]
    gold = {
        "text": "Lock down in Lockdown",
        "entities": [
            {"name": name, "type": "ORG", "boxes": box}
            for name, box in zip(names, boxes, strict=True)
        ],
    }
    said = [
        {"name": name, "type": "ORG", "box": box}
        for name, box in zip(reversed(names), (BOX, None), strict=True)
    ]
    words = files(gold, {"entities": said})
    assert _figure(score(*words, "--rule", rule, "--json"), rule) == 100.0
    words = files(gold, {"entities": [{**said[0], "name": "L ockdown"}]})
    assert _figure(score(*words, "--rule", rule, "--json"), rule) == 0.0


def test_another_annotator_of_a_text_spells_names_by_tokens_of_its_own(
    tmp_path: Path, score: Any
) -> None:
    entity = {"name": "Yahoo!", "type": "ORG", "boxes": [BOX]}
    first = {"id": "a", "tokens": ["Yahoo!"], "entities": [{**entity, "start": 0, "end": 1}]}
    second = {"id": "a", "text": "Yahoo!", "entities": [entity]}
    for name, line in (("first", first), ("second", second)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    words = (tmp_path / "second.jsonl", "--gold", tmp_path / "first.jsonl")
    done = score(*words, "--pred-boxes", "largest", "--rule", "riveg", "--json")
    assert done.json["gmner"]["f1"] == 100.0


def test_field_d5_empty_gold_is_an_error(tmp_path: Path, score: Any) -> None:
    for name in ("gold", "pred"):
        (tmp_path / f"{name}.jsonl").write_bytes(b"")
    done = score(tmp_path / "pred.jsonl", "--gold", tmp_path / "gold.jsonl")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "holds no posts" in done.err


def test_field_d10_an_overlap_of_one_half_counts_as_documented(files: Any, score: Any) -> None:
    gold = {
        "tokens": ["Ann"],
        "entities": [{**ANN, "start": 0, "end": 1, "boxes": [[0, 0, 20, 10]]}],
    }
    words = files(gold, {"entities": [{**ANN, "start": 0, "end": 1, "box": [0, 0, 10, 10]}]})
    assert score(*words, "--json").json["accuracy"]["all"] == 0.0
    figures = {
        rule: score(*words, "--rule", rule, "--json").json["gmner"]["f1"]
        for rule in ("riveg", "refineg", "span")
    }
    assert figures == {"riveg": 100.0, "refineg": 100.0, "span": 0.0}
