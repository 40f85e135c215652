from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

from groundling.errors import InputError
from groundling.models.detectors.boxes import CentreBox, LocationGrid
from groundling.records import Box, Failure

SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
SHARES = st.floats(0, 1)
BINS = st.integers(0, 999)


def ordered(draw: tuple[float, float], side: int) -> tuple[float, float]:
    low, high = sorted(draw)
    return low * side, high * side


@given(SIZES, st.tuples(SHARES, SHARES), st.tuples(SHARES, SHARES))
def test_pixels_to_centre_and_back(size, across, down) -> None:
    (x1, x2), (y1, y2) = ordered(across, size[0]), ordered(down, size[1])
    box = Box(x1, y1, x2, y2)
    if box.area == 0:
        with pytest.raises(InputError, match="is empty or not in its picture"):
            CentreBox.of(box, size)
        return
    back = CentreBox.of(box, size).to_pixels(size)
    if isinstance(back, Failure):
        assert min(x2 - x1, y2 - y1) < 0.5001
        return
    gaps = [abs(a - b) for a, b in zip(box.xyxy, back.xyxy, strict=True)]
    assert max(gaps) <= 1e-9 * max(size)


@given(SIZES, SHARES, SHARES, SHARES, SHARES)
def test_a_centre_box_stays_in_its_picture(size, cx, cy, w, h) -> None:
    found = CentreBox(cx, cy, w, h).to_pixels(size)
    if isinstance(found, Failure):
        assert found.stage == "parse"
        assert "no area" in found.reason
    else:
        assert 0 <= found.x1 < found.x2 <= size[0]
        assert 0 <= found.y1 < found.y2 <= size[1]
        if w / 2 <= min(cx, 1 - cx):  # nothing to leave out
            assert found.x2 - found.x1 == pytest.approx(w * size[0], abs=1e-9 * size[0])
            assert (found.x1 + found.x2) / 2 == pytest.approx(cx * size[0], abs=1e-9 * size[0])


@given(SIZES, st.floats(), st.integers(0, 3))
def test_a_share_outside_the_convention_is_no_box(size, wrong, place) -> None:
    numbers = [0.5] * 4
    numbers[place] = wrong
    found = CentreBox(*numbers).to_pixels(size)
    if not 0 <= wrong <= 1:
        assert isinstance(found, Failure)
        assert "leaves the convention" in found.reason


def test_a_gold_box_loses_what_is_outside() -> None:
    assert CentreBox.of(Box(-10, 5, 50, 10), (100, 10)) == CentreBox(0.25, 0.75, 0.5, 0.5)
    for box in (Box(100, 0, 120, 5), Box(5, 5, 5, 9), Box(9, 5, 5, 9), Box(0, 0, math.nan, 5)):
        with pytest.raises(InputError, match="is empty or not in its picture of 100 × 10 px"):
            CentreBox.of(box, (100, 10))


@given(SIZES, BINS, BINS, BINS, BINS)
def test_bins_to_pixels_and_back(size, x1, y1, x2, y2) -> None:
    grid = LocationGrid()
    found = grid.to_pixels([x1, y1, x2, y2], size)
    least = min((x2 - x1) * size[0], (y2 - y1) * size[1]) / 1000
    if x1 < x2 and y1 < y2 and least >= 0.5001:
        assert isinstance(found, Box)
        assert grid.of(found, size) == (x1, y1, x2, y2)
        theirs = Florence2PostProcessor.dequantize(
            type("Grid", (), {"quantize_bins": (1000, 1000)})(),
            torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64),
            size,
        )
        assert (
            max(abs(a - b) for a, b in zip(found.xyxy, theirs[0].tolist(), strict=True)) < 1 + 1e-6
        )
    elif least < 0.4999:
        assert isinstance(found, Failure)


@given(SIZES, st.tuples(SHARES, SHARES), st.tuples(SHARES, SHARES))
def test_pixels_to_bins_and_back_within_half_a_bin(size, across, down) -> None:
    (x1, x2), (y1, y2) = ordered(across, size[0]), ordered(down, size[1])
    grid = LocationGrid()
    back = grid.to_pixels(grid.of(Box(x1, y1, x2, y2), size), size)
    if isinstance(back, Failure):
        thin = zip((x2 - x1, y2 - y1), size, strict=True)
        assert any(long <= 0.5001 + 1.001e-3 * side for long, side in thin)
        return
    for axis, (a, b) in enumerate(zip((x1, y1, x2, y2), back.xyxy, strict=True)):
        assert abs(a - b) <= 0.5001 * size[axis % 2] / grid.bins


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([1, 2, 3], "3 location tokens"),
        ([1, 2, 3, 1000], "leaves the bins"),
        ([-1, 2, 3, 4], "leaves the bins"),
        ([5, 2, 3, 4], "second corner"),
        ([5, 2, 5, 4], "no area"),
    ],
)
def test_what_is_no_box(numbers: list[int], reason: str) -> None:
    found = LocationGrid().to_pixels(numbers, (10, 10))
    assert isinstance(found, Failure)
    assert reason in found.reason
    assert found.stage == "parse"
