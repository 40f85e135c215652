from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.errors import InputError
from groundling.models.ofa.boxes import BinGrid
from groundling.records import Box, Failure

SIDES = st.sampled_from([64, 224, 256, 384, 480, 512])
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, tuple[int, int]]:
    """A box of some area inside a picture."""
    size = draw(SIZES)
    shares = [draw(st.floats(0, 1)) for _ in range(4)]
    x1, x2 = sorted((shares[0] * size[0], shares[1] * size[0]))
    y1, y2 = sorted((shares[2] * size[1], shares[3] * size[1]))
    return Box(x1, y1, x2, y2), size


@given(boxes(), SIDES)
def test_round_trip_within_half_a_bin(drawn: tuple[Box, tuple[int, int]], side: int) -> None:
    box, size = drawn
    grid = BinGrid(side)
    if box.area <= 0:
        with pytest.raises(InputError, match="empty"):
            grid.bins_of(box, size)
        return
    bins = grid.bins_of(box, size)
    again = grid.box_of(bins, size)
    steps = grid.bin_px(size) * 2
    thin = min(box.x2 - box.x1 - steps[0], box.y2 - box.y1 - steps[1]) < 0.5001
    if isinstance(again, Failure):
        assert thin, "thinner than half a pixel or than the bins can say"
        return
    assert bins[0] != bins[2]
    assert bins[1] != bins[3]
    for got, wanted, step in zip(again.xyxy, box.xyxy, steps, strict=True):
        assert abs(got - wanted) <= step / 2 * (1 + 1e-9)


@given(st.lists(st.integers(0, 999), min_size=4, max_size=4), SIZES, SIDES)
def test_bins_round_trip_exactly(bins: list[int], size: tuple[int, int], side: int) -> None:
    grid = BinGrid(side)
    box = grid.box_of(bins, size)
    inside = max(bins) <= grid.last and bins[2] > bins[0] and bins[3] > bins[1]
    across, down = grid.bin_px(size)
    least = min((bins[2] - bins[0]) * across, (bins[3] - bins[1]) * down)
    if inside and least < 1:  # near the half pixel that a box must have, edges decide
        return
    assert isinstance(box, Box) == inside
    if isinstance(box, Box):
        assert list(grid.bins_of(box, size)) == bins


@given(
    st.lists(st.one_of(st.none(), st.integers(-2000, 2000)), max_size=6),
    SIZES,
    SIDES,
)
def test_nothing_becomes_a_guess(bins: list[int | None], size: tuple[int, int], side: int) -> None:
    box = BinGrid(side).box_of(bins, size)
    if isinstance(box, Failure):
        assert box.stage == "ground"
        assert "\n" not in box.reason
    else:
        assert len(bins) == 4
        assert None not in bins
        assert box.area > 0


def test_the_published_arithmetic():
    grid = BinGrid(512)
    assert grid.bins_of(Box(0, 0, 640, 480), (640, 480)) == (0, 0, 999, 999)
    assert grid.bins_of(Box(100, 60, 333.3, 411), (640, 480)) == (156, 125, 520, 855)
    base = BinGrid(384)
    assert base.last == 749
    x = 200 / 640 * 384 / 512 * 999
    assert base.bins_of(Box(200, 0, 640, 480), (640, 480)) == (round(x), 0, 749, 749)
    back = base.box_of((100, 0, 700, 749), (640, 480))
    assert isinstance(back, Box)
    assert back.x1 == pytest.approx(100 / 999 * 512 / (384 / 640))
    assert back.y2 == pytest.approx(749 / 999 * 512 / (384 / 480))


@pytest.mark.parametrize(
    ("bins", "reason"),
    [
        ((1, 2, 3), "3 tokens; a box has 4"),
        ((1, None, 3, 4), "not four bins: <bin_1> ? <bin_3> <bin_4>"),
        ((1, 2, 3, 750), "a bin outside the picture: <bin_1> <bin_2> <bin_3> <bin_750>"),
        ((1, 2, 1, 4), "no box: <bin_1> <bin_2> <bin_1> <bin_4>"),
        ((1, 5, 3, 4), "no box: <bin_1> <bin_5> <bin_3> <bin_4>"),
    ],
)
def test_reasons(bins, reason):
    assert BinGrid(384).box_of(bins, (640, 480)) == Failure(reason, "ground")


def test_refused():
    for side in (0, 513):
        with pytest.raises(InputError, match="wanted a square of at most"):
            BinGrid(side)
    with pytest.raises(InputError, match="not in its picture of 100 × 50 px"):
        BinGrid(512).bins_of(Box(100, 0, 120, 50), (100, 50))


def test_what_lies_outside_the_picture_stops_at_its_edge() -> None:
    grid = BinGrid(512)
    assert grid.bins_of(Box(-3, 5, 101, 60), (100, 50)) == grid.bins_of(
        Box(0, 5, 100, 50), (100, 50)
    )
