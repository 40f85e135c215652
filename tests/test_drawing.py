from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from groundling.drawing import (
    OKABE_ITO,
    Mark,
    check_target,
    contrast,
    draw_marks,
    save_drawing,
)
from groundling.errors import InputError
from groundling.records import Box


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (60, 40), (90, 160, 90)).save(path)
    return path


def test_a_drawing_shows_its_boxes_and_labels_and_nothing_else_changes() -> None:
    picture = Image.new("RGB", (300, 200), (90, 120, 90))
    box = Box(150.4, 100.0, 260.0, 180.0)
    drawn = draw_marks(picture, [Mark(box, "Ann (PER): the man")])
    assert drawn.size == picture.size
    assert picture.getcolors() == [(300 * 200, (90, 120, 90))]
    assert drawn.getpixel((151, 140)) == OKABE_ITO[0]  # the left line, inside its dark edge
    assert drawn.getpixel((150, 140)) == (0, 0, 0)
    assert drawn.getpixel((205, 140)) == (90, 120, 90)  # the middle stays free
    changed = [
        (x, y)
        for x in range(300)
        for y in range(200)
        if drawn.getpixel((x, y)) != (90, 120, 90) and not (150 <= x < 260 and 100 <= y < 180)
    ]
    assert changed
    assert max(y for _, y in changed) < 100  # the label stands above its box
    assert draw_marks(picture, []).tobytes() == picture.tobytes()


def test_every_label_can_be_read() -> None:
    for colour in OKABE_ITO:
        assert max(contrast(colour, (0, 0, 0)), contrast(colour, (255, 255, 255))) >= 4.5
    assert math.isclose(contrast((0, 0, 0), (255, 255, 255)), 21.0)


def test_labels_keep_clear_of_each_other_and_stay_inside() -> None:
    """Blanking the boxes, each label's colour must still be there in full, side by side."""
    picture = Image.new("RGB", (400, 300), "white")
    box = Box(100, 100, 220, 200)
    words = "Somebody (PER): the person with the long red hair on the left"
    areas = []
    for count in (1, 2, 3):
        drawn = draw_marks(picture, [Mark(box, words)] * count)
        colours = {colour: n for n, colour in drawn.getcolors(1 << 20)}
        areas.append([colours[OKABE_ITO[i]] for i in range(count)])
    alone = areas[0][0]
    for together in areas[1:]:
        # the first box's line is painted over by the others; no label may be
        assert all(area > 0.75 * alone for area in together)


@pytest.mark.parametrize("size", [(1, 1), (9, 400), (400, 9), (30, 30)])
def test_any_picture_and_any_words_can_be_drawn(size: tuple[int, int]) -> None:
    words = "漢字 " + "extraordinarily" * 9 + " long words " * 30
    marks = [Mark(Box(0, 0, *size), words), Mark(Box(-5, -5, 0, 0), ""), Mark(Box(1, 1, 1, 1), "a")]
    assert draw_marks(Image.new("RGB", size), marks).size == size


def test_a_drawing_never_takes_the_place_of_its_picture(photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    link, hard = tmp_path / "link.png", tmp_path / "hard.png"
    link.symlink_to(photo)
    hard.hardlink_to(photo)
    (tmp_path / "folder.png").mkdir()
    drawing = Image.new("RGB", (5, 5))
    for target, said in (
        (photo, "the picture itself"),
        (tmp_path / "x" / ".." / photo.name, "the picture itself"),
        (link, "the picture itself"),
        (hard, "the picture itself"),
        (tmp_path / "out.tiff", "format"),
        (tmp_path / "out", "format"),
        (tmp_path / "folder.png", "a folder"),
        (tmp_path / "gone" / "out.png", "no folder"),
    ):
        if "x" in target.parts:
            (tmp_path / "x").mkdir()
        with pytest.raises(InputError, match=said):
            save_drawing(drawing, target, photo)
        with pytest.raises(InputError, match=said):
            check_target(target, photo)
    assert photo.read_bytes() == before


@pytest.mark.parametrize("ending", [".png", ".JPG", ".jpeg", ".webp"])
def test_a_drawing_is_saved_by_its_name_and_leaves_nothing_beside(
    photo: Path, tmp_path: Path, ending: str
) -> None:
    target = tmp_path / "out" / f"drawn{ending}"
    target.parent.mkdir()
    target.write_bytes(b"an older drawing")
    save_drawing(Image.new("RGB", (50, 30), "red"), target, photo)
    with Image.open(target) as saved:
        assert saved.size == (50, 30)
        assert saved.getpixel((10, 10))[0] > 240  # type: ignore[index]
    assert [path.name for path in target.parent.iterdir()] == [target.name]
