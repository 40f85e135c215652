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
    scale_of,
)
from groundling.errors import InputError
from groundling.records import Box


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (60, 40), (90, 160, 90)).save(path)
    return path


def test_a_drawing_shows_its_boxes_and_labels_and_nothing_else_changes() -> None:
    picture = Image.new("RGB", (700, 200), (90, 120, 90))
    box = Box(150.4, 100.0, 260.0, 180.0)
    drawn = draw_marks(picture, [Mark(box, "Ann (PER): the man")])
    assert drawn.size == picture.size
    assert picture.getcolors() == [(700 * 200, (90, 120, 90))]
    assert drawn.getpixel((151, 140)) == OKABE_ITO[0]  # the left line, inside its dark edge
    assert drawn.getpixel((150, 140)) == (0, 0, 0)
    assert drawn.getpixel((205, 140)) == (90, 120, 90)  # the middle stays free
    changed = [
        (x, y)
        for x in range(700)
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
    picture = Image.new("RGB", (800, 600), "white")
    box = Box(200, 200, 320, 300)
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
    drawn = draw_marks(Image.new("RGB", size), marks)
    assert drawn.size == (size[0] * scale_of(size), size[1] * scale_of(size))


@pytest.mark.parametrize(
    ("side", "drawn"),
    [(1, 8), (80, 640), (112, 672), (224, 672), (639, 1278), (640, 640), (3000, 3000)],
)
def test_field_r13_small_images_are_drawn_large_enough_for_their_labels(
    side: int, drawn: int
) -> None:
    size = (side, max(1, side * 3 // 4))
    words = "Mara Quill (PER): the woman with the red scarf"
    box = Box(0.3 * side, 0.4 * side, 0.6 * side, 0.7 * side)
    found = draw_marks(Image.new("RGB", size, (90, 120, 90)), [Mark(box, words)])
    assert found.width == drawn
    if side > 100:
        covered = sum(n for n, colour in found.getcolors(1 << 24) if colour == OKABE_ITO[0])
        assert covered / (found.width * found.height) < 0.06
        inside = found.crop(tuple(int(v * drawn / side) for v in box.xyxy)).getcolors(1 << 24)
        line = sum(n for n, colour in inside if colour == OKABE_ITO[0])
        assert line < 0.12 * sum(n for n, _ in inside), "the label stands outside of its box"


def test_an_image_without_marks_stays_as_it_is() -> None:
    assert draw_marks(Image.new("RGB", (30, 20)), []).size == (30, 20)


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
