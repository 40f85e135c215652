from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.models.coordinates import Convention, ConventionName, Frame
from groundling.records import Box, Failure

NAMES: tuple[ConventionName, ...] = ("relative-1000", "relative-1", "resized-pixels", "pixels")
FRAME = Frame((640, 480), (320, 240))

sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
frames = st.builds(Frame, sizes, sizes)
shares = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn, frame: Frame) -> Box:
    """A box inside the picture, its corners in order."""
    width, height = frame.original_wh_px
    x = sorted(draw(shares) * width for _ in "12")
    y = sorted(draw(shares) * height for _ in "12")
    return Box(x[0], y[0], x[1], y[1])


def failed(name: ConventionName, numbers: list[float], frame: Frame = FRAME) -> str:
    found = Convention(name).to_box(numbers, frame)
    assert isinstance(found, Failure)
    assert found.stage == "parse"
    return found.reason


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("relative-1000", [250, 500, 750, 1000]),
        ("relative-1", [0.25, 0.5, 0.75, 1]),
        ("resized-pixels", [80, 120, 240, 240]),
        ("pixels", [160, 240, 480, 480]),
    ],
)
def test_one_box_in_every_convention(name: ConventionName, numbers: list[float]) -> None:
    box = Box(160, 240, 480, 480)
    assert Convention(name).to_box(numbers, FRAME) == box
    assert list(Convention(name).from_box(box, FRAME)) == numbers


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_box_comes_back_within_half_a_unit(name: ConventionName, data: st.DataObject) -> None:
    convention, frame = Convention(name), data.draw(frames)
    box = data.draw(boxes(frame))
    said = convention.from_box(box, frame)
    again = convention.to_box(said, frame)
    if isinstance(again, Failure):
        units = [
            convention.unit * s / f
            for s, f in zip(frame.original_wh_px, convention.scale(frame), strict=True)
        ]
        thin = box.x2 - box.x1 < 0.5 + 1.001 * units[0] or box.y2 - box.y1 < 0.5 + 1.001 * units[1]
        assert thin
        assert "no area" in again.reason
        return
    for axis, (before, after) in enumerate(zip(box.xyxy, again.xyxy, strict=True)):
        side, full = frame.original_wh_px[axis % 2], convention.scale(frame)[axis % 2]
        assert abs(before - after) <= convention.unit / 2 * side / full + 1e-6 * side


@pytest.mark.parametrize("name", NAMES)
@given(frame=frames, box=st.builds(Box, *[st.floats(-1e6, 1e6)] * 4))
def test_what_is_written_lies_in_the_convention(
    name: ConventionName, frame: Frame, box: Box
) -> None:
    full = Convention(name).scale(frame)
    for axis, number in enumerate(Convention(name).from_box(box, frame)):
        assert 0 <= number <= full[axis % 2]


@pytest.mark.parametrize("name", NAMES)
@given(frame=frames, numbers=st.lists(st.floats(), min_size=4, max_size=4))
def test_whatever_is_said_is_a_box_inside_or_a_failure(
    name: ConventionName, frame: Frame, numbers: list[float]
) -> None:
    found = Convention(name).to_box(numbers, frame)
    if isinstance(found, Failure):
        return
    width, height = frame.original_wh_px
    assert 0 <= found.x1 <= found.x2 <= width * (1 + 1e-12)
    assert 0 <= found.y1 <= found.y2 <= height * (1 + 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_beyond_the_scale_is_a_failure(name: ConventionName) -> None:
    across, down = Convention(name).scale(FRAME)
    assert isinstance(Convention(name).to_box([0, 0, across, down], FRAME), Box)
    for numbers in ([0, 0, across * 1.001, down], [0, 0, across, down * 1.001], [-0.001, 0, 1, 1]):
        assert f"leaves the convention {name}" in failed(name, numbers)


def test_pixels_of_another_model_are_not_guessed_at() -> None:
    assert "leaves" in failed("relative-1", [160, 240, 480, 480])
    assert "leaves" in failed("resized-pixels", [160, 240, 480, 480])


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([1, 2, 3], "3 coordinates"),
        ([1, 2, 3, math.nan], "not finite"),
        ([1, 2, math.inf, 4], "not finite"),
        ([1, 2, 10**400, 4], "no number"),
        ([30, 2, 10, 4], "second corner"),
        ([1, 20, 3, 10], "second corner"),
    ],
)
def test_what_is_no_box(numbers: list[float], words: str) -> None:
    assert words in failed("pixels", numbers)


def test_an_unknown_convention() -> None:
    with pytest.raises(ValueError, match="wanted one of relative-1000"):
        Convention("centre-1000")  # type: ignore[arg-type]
