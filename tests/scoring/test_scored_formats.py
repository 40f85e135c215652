"""Gold of the CCKS task and predictions of unknown types, from files to scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groundling.cli import main
from groundling.errors import InputError
from groundling.records import CCKS, Box, Entity, Post, PostPrediction, Prediction
from groundling.scoring import (
    TRIPLE_RULES,
    compare_isr,
    compare_triples,
    score_floors,
    score_isr,
    score_triples,
)

LEFT = {"xmin": 0, "ymin": 0, "xmax": 10, "ymax": 10}
RIGHT = {"xmin": 50, "ymin": 0, "xmax": 90, "ymax": 10}
PUMA = Post("p", ("Puma",), (Entity("Puma", "vehicle", 0, 1, (Box(0, 0, 10, 10),)),))


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    folder = tmp_path / "ccks"
    folder.mkdir()
    entry = {"name": "NH-90s", "label": "aircraft"}
    texts = {"1": {"text": "Two NH-90s."}, "2": {"text": "A Puma."}}
    entities = {
        "1": [entry | {"bnd": LEFT}, entry | {"bnd": RIGHT}],
        "2": [{"name": "Puma", "label": "vehicle", "bnd": None}],
    }
    (folder / "test_text.json").write_text(json.dumps(texts))
    (folder / "test_entity.json").write_text(json.dumps(entities))
    return folder


def predictions(tmp_path: Path, *types: str) -> Path:
    """Both boxes of the NH-90s, and the Puma once as each of `types`."""
    answer = {"name": "NH - 90s", "type": "aircraft", "start": 1, "end": 4}
    puma = {"name": "Puma", "box": None, "start": 1, "end": 2}
    lines = [
        {"id": "1", "entities": [answer | {"box": list(b.values())} for b in (LEFT, RIGHT)]},
        {"id": "2", "entities": [puma | {"type": kind} for kind in types]},
    ]
    path = tmp_path / "pred.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scored(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], str]:
    assert main(["score", *map(str, words), "--resamples", "20", "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_the_tasks_own_rule_counts_the_entries_of_its_files(
    gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pred = predictions(tmp_path, "vehicle")
    values, err = scored(capsys, pred, "--gold", gold, "--rule", "refineg")
    assert err == ""
    counts = {task: tuple(values[task][key] for key in ("right", "predicted", "gold"))
              for task in ("gmner", "eeg", "mner")}  # fmt: skip
    assert counts == {"gmner": (3, 3, 3), "eeg": (3, 3, 3), "mner": (2, 2, 2)}
    values, _ = scored(capsys, pred, "--gold", gold, "--rule", "riveg")
    assert (values["gmner"]["right"], values["gmner"]["gold"]) == (2, 2)
    values, _ = scored(capsys, pred, "--gold", gold)
    assert values["accuracy"]["aircraft"] == values["accuracy"]["all"] == 100.0
    assert values["accuracy"]["weapon"] is None


def test_unknown_types_are_ignored_by_the_rule_that_says_so(
    gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pred = predictions(tmp_path, "tank", "vehicle", "PER")
    values, err = scored(capsys, pred, "--gold", gold, "--rule", "refineg", "--against", pred)
    assert "2 predictions of types outside ccks ignored: tank, PER" in err
    assert (values["mner"]["predicted"], values["mner"]["f1"]) == (2, 100.0)
    assert values["against"]["gmner"]["difference"] == 0.0
    for rule in ("isr", "riveg", "span"):
        assert main(["score", str(pred), "--gold", str(gold), "--rule", rule]) == 2
        assert "unknown entity type 'tank'; wanted one of aircraft" in capsys.readouterr().err


def test_a_post_with_unknown_types_alone_is_an_empty_answer(
    gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pred = predictions(tmp_path, "tank")
    values, _ = scored(capsys, pred, "--gold", gold, "--rule", "refineg")
    assert (values["gmner"]["predicted"], values["gmner"]["gold"]) == (2, 2)
    assert (values["mner"]["predicted"], values["mner"]["gold"]) == (1, 2)


def test_gold_without_entities_is_told(
    gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gold / "test_entity.json").unlink()
    _, err = scored(capsys, predictions(tmp_path), "--gold", gold, "--rule", "span")
    assert "split test has no entity at all; is it tagged?" in err


def test_boxes_nobody_told_are_told(
    gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pred = tmp_path / "tagged.conll", tmp_path / "tagged.jsonl"
    out.write_text("Two O\nNH B-aircraft\n- I-aircraft\n90s I-aircraft\n. O\n\nA O\nPuma O\n. O\n")
    words = ["--from", "conll", "--posts", str(gold)]
    assert main(["data", "convert-predictions", str(out), str(pred), *words]) == 0
    capsys.readouterr()
    values, err = scored(capsys, pred, "--gold", gold, "--rule", "span")
    assert "1 predictions with the box [0, 0, 0, 0]" in err
    assert (values["gmner"]["right"], values["mner"]["right"]) == (0, 1)


def test_the_scheme_decides_which_types_are_known() -> None:
    said = [PostPrediction("p", (Prediction("Puma", "vehicle", None, 0, 1),))]
    rule = TRIPLE_RULES["refineg"]
    counts = score_triples([PUMA], said, rule, resamples=0, scheme=CCKS).tasks["mner"].counts
    assert (counts.right, counts.predicted) == (1, 1)
    counts = score_triples([PUMA], said, rule, resamples=0).tasks["mner"].counts
    assert (counts.right, counts.predicted) == (0, 0)
    compared = compare_triples([PUMA], said, [], rule, resamples=20, scheme=CCKS)
    assert compared.differences["mner"].value == 1.0


def test_gold_of_another_scheme_is_refused_by_rule_isr() -> None:
    said = [PostPrediction("p", (Prediction("Puma", "vehicle", Box(0, 0, 10, 10), 0, 1),))]
    score = score_isr([PUMA], said, resamples=0, scheme=CCKS)
    assert list(score.accuracy) == [*CCKS.types, "all"]
    assert score.accuracy["vehicle"].percent == 100.0
    compared = compare_isr([PUMA], said, [], resamples=20, scheme=CCKS)
    assert compared.differences["accuracy"].value == 1.0
    assert score_floors([PUMA], {}, None, CCKS)["none"].accuracy["vehicle"].right == 0
    with pytest.raises(InputError, match="type 'vehicle'; wanted those of scheme twitter"):
        score_isr([PUMA], said, resamples=0)
