"""Boxes that are shares of their images, not pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from groundling.data.conventions import in_pixels, looks_relative, share_within
from groundling.records import Box

Boxes = Sequence[Sequence[float]]


@pytest.fixture
def kinds(tmp_path: Path, picture: Any, data_command: Callable[..., Any]) -> Callable[..., Any]:
    """The kinds that `data check` finds in posts of one box each, with images of one size."""

    def check(boxes: Boxes, size: tuple[int, int] | None = (3000, 2000)) -> list[str]:
        lines = []
        for index, box in enumerate(boxes):
            entity = {"name": "Ann", "type": "PER", "start": 0, "end": 1, "boxes": [box]}
            post: dict[str, Any] = {"id": f"p{index}", "tokens": ["Ann"], "entities": [entity]}
            if size is not None:
                picture(tmp_path / f"{index}.png", size)
                post["image"] = f"{index}.png"
            lines.append(json.dumps(post) + "\n")
        path = tmp_path / "posts.jsonl"
        path.write_text("".join(lines))
        problems = data_command("check", path, "--json").json["problems"]
        return [problem["kind"] for problem in problems]

    return check


@pytest.mark.parametrize("size", [None, (300, 200)])
def test_field_d2_fractions_are_told(kinds: Callable[..., Any], size: Any) -> None:
    assert kinds([[0.1, 0.1, 0.5, 0.5]], size) == ["relative-boxes"]


def test_field_d2_a_few_fractions_among_pixels_are_told(kinds: Callable[..., Any]) -> None:
    assert kinds([[0.1, 0.1, 0.5, 0.5], [20, 30, 1900, 1500]]) == ["relative-boxes"]


def test_field_d2_thousandths_of_large_images_are_told(kinds: Callable[..., Any]) -> None:
    assert kinds([[100, 100, 500, 900], [300, 20, 980, 700]]) == ["relative-boxes"]


@pytest.mark.parametrize(
    ("boxes", "size"),
    [
        ([[10, 10, 40, 60], [20, 5, 90, 80], [3, 3, 30, 50]], (3000, 2000)),
        ([[100, 100, 500, 900]], (3000, 2000)),
        ([[100, 100, 500, 900], [300, 20, 980, 700]], (1000, 1000)),
        ([[100, 100, 500, 900], [300, 20, 980, 700]], (1200, 900)),
        ([[100, 100, 500, 900], [300, 20, 980, 700], [1500, 20, 1800, 300]], (3000, 2000)),
        ([[100, 100, 500, 900], [300, 20, 980, 700]], None),
        ([[0, 0, 2, 2]], (30, 20)),
    ],
)
def test_field_d2_honest_boxes_are_no_false_alarm(
    kinds: Callable[..., Any], boxes: Boxes, size: Any
) -> None:
    assert kinds(boxes, size) == []


def test_field_d2_sizes_that_xml_states_are_enough(
    release: Any, data_command: Callable[..., Any]
) -> None:
    corners = "<xmin>100</xmin><ymin>90</ymin><xmax>900</xmax><ymax>950</ymax>"
    size = "<size><width>4000</width><height>3000</height></size>"
    item = f"<object><name>Ann</name><bndbox>{corners}</bndbox></object>"
    annotation = f"<annotation><filename>p.jpg</filename>{size}{item}{item}</annotation>"
    src = release({"test": "IMGID:p\nAnn\tB-PER\n\n"}, {"p": annotation})
    found = data_command("check", src, "--json").json["problems"]
    assert [problem["kind"] for problem in found] == ["relative-boxes"]


def test_the_scale_of_boxes() -> None:
    assert share_within((3000, 2000)) == pytest.approx(1 / 6)
    assert share_within((640, 480)) == share_within(None) == 1
    assert looks_relative([]) is None
    assert looks_relative([(Box(0, 0, 0, 0), 0.0)]) is None
    assert looks_relative([(Box(-1, 0, 1, 1), 0.0)]) is None
    assert looks_relative([(Box(0, 0, 1, 1), 1.0)]) == 1
    assert looks_relative([(Box(0, 0, 700, 9), 0.04)]) == 1000
    assert in_pixels(Box(0, 500, 250, 1000), 1000, (400, 200)) == Box(0, 100, 100, 200)
