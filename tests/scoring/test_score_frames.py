"""`groundling score` where boxes are not upright pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Boxes = Sequence[Sequence[float] | None]


def test_field_d1_score_compares_upright_boxes(tmp_path: Path, score: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 200)).save(tmp_path / "p1.jpg", exif=exif)
    entity = {"name": "Ann", "type": "PER", "start": 0, "end": 1}
    gold = {"id": "p1", "image": "p1.jpg", "tokens": ["Ann"]}
    gold["entities"] = [{**entity, "boxes": [[200, 20, 290, 60]]}]
    said = {"id": "p1", "entities": [{**entity, "box": [140, 200, 180, 290]}]}
    (tmp_path / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    (tmp_path / "pred.jsonl").write_text(json.dumps(said) + "\n")
    words = [tmp_path / "pred.jsonl", "--gold", tmp_path / "gold.jsonl", "--json"]
    assert score(*words).json["accuracy"]["all"] == 0.0
    assert score(*words, "--boxes", "stored").json["accuracy"]["all"] == 100.0


@pytest.fixture
def compare(tmp_path: Path, score: Any) -> Callable[..., Any]:
    """Score one box a post against one gold box, with images of a size, or none."""

    def run(
        said: Boxes, gold: Boxes, size: tuple[int, int] | None = (3000, 2000), *words: str
    ) -> Any:
        for name, key, boxes in (("gold", "boxes", gold), ("pred", "box", said)):
            lines = []
            for index, box in enumerate(boxes):
                entity = {"name": "Ann", "type": "PER", "start": 0, "end": 1}
                entity[key] = [box] if key == "boxes" else box
                post: dict[str, Any] = {"id": f"p{index}", "entities": [entity]}
                if key == "boxes":
                    post |= {"tokens": ["Ann"]}
                    if size is not None:
                        Image.new("RGB", size).save(tmp_path / f"{index}.png")
                        post |= {"image": f"{index}.png"}
                lines.append(json.dumps(post) + "\n")
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        return score(tmp_path / "pred.jsonl", "--gold", tmp_path / "gold.jsonl", "--json", *words)

    return run


LARGE = [[300, 200, 1500, 1800], [900, 40, 2940, 1400], [1500, 300, 2700, 900]]
THOUSANDTHS = [[100, 100, 500, 900], [300, 20, 980, 700], [500, 150, 900, 450]]


@pytest.mark.parametrize("size", [None, (3000, 2000)])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([[0.1, 0.1, 0.5, 0.9], [0.3, 0.02, 0.98, 0.7], None], "0 to 1"),
        (THOUSANDTHS, "0 to 1000"),
    ],
)
def test_field_d2_score_names_the_convention_of_boxes(
    compare: Callable[..., Any], said: Boxes, words: str, size: Any
) -> None:
    scored = compare(said, LARGE, size)
    (warning,) = scored.json["warnings"]
    assert f"{words};" in warning
    assert scored.err.count("\n") == 1
    assert warning in scored.err


def test_field_d2_one_answer_in_thousandths_is_told_by_gold(compare: Callable[..., Any]) -> None:
    assert "0 to 1000" in compare(THOUSANDTHS[:1], LARGE[:1]).json["warnings"][0]


@pytest.mark.parametrize(
    ("said", "gold", "size"),
    [
        (LARGE, LARGE, (3000, 2000)),
        ([[5, 5, 60, 60], [9, 9, 80, 70], [3, 3, 9, 9]], LARGE, (3000, 2000)),
        (THOUSANDTHS, THOUSANDTHS, None),
        (THOUSANDTHS, THOUSANDTHS, (1000, 1000)),
        ([None, None, None], LARGE, (3000, 2000)),
        ([[0, 0, 0, 0], None, None], LARGE, (3000, 2000)),
    ],
)
def test_field_d2_score_has_no_word_for_honest_boxes(
    compare: Callable[..., Any], said: Boxes, gold: Boxes, size: Any
) -> None:
    warnings = compare(said, gold, size).json["warnings"]
    assert not [warning for warning in warnings if "look like" in warning]
