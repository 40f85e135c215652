"""How models write boxes, and how that becomes pixels of the original picture and back.

A shared module, no backend. What a model says outside its own convention is a `Failure`, never a
guess: nothing is swapped or rescaled to make it fit, nor clipped beyond what was rounded.

| convention | a coordinate is | who writes so |
|---|---|---|
| `relative-1000` | 0 to 1000, a share of the picture's side | Qwen2-VL, Qwen3-VL |
| `relative-1` | 0 to 1, a share of the picture's side | |
| `resized-pixels` | pixels of the picture as the model was given it | Qwen2.5-VL |
| `pixels` | pixels of the original picture | |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from groundling.errors import InputError
from groundling.records import Box, Failure, Frame, Size

__all__ = ["Convention", "ConventionName", "Frame", "Size"]

ConventionName = Literal["relative-1000", "relative-1", "resized-pixels", "pixels"]
"""The conventions known here."""

_SHARES: dict[str, tuple[float, float]] = {
    "relative-1000": (1000.0, 1.0),
    "relative-1": (1.0, 0.001),
}
"""Full scale and unit of the conventions that count shares of a side."""


@dataclass(frozen=True, slots=True)
class Convention:
    """A way to write the four coordinates x1, y1, x2, y2 of a box.

    >>> Convention("relative-1000").to_box([100, 0, 500, 1000], Frame((640, 480), (320, 240)))
    Box(x1=64.0, y1=0.0, x2=320.0, y2=480.0)
    """

    name: ConventionName

    def __post_init__(self) -> None:
        if self.name not in get_args(ConventionName):
            known = ", ".join(get_args(ConventionName))
            raise ValueError(f"unknown convention {self.name!r}; wanted one of {known}")

    def scale(self, frame: Frame) -> tuple[float, float]:
        """The largest x and y that a coordinate can have."""
        if self.name in _SHARES:
            full = _SHARES[self.name][0]
            return full, full
        width, height = frame.original_wh_px if self.name == "pixels" else frame.resized_wh_px
        return float(width), float(height)

    @property
    def unit(self) -> float:
        """The step in which `from_box` writes: whole numbers, or thousandths of a side."""
        return _SHARES[self.name][1] if self.name in _SHARES else 1.0

    def to_box(self, numbers: Sequence[float], frame: Frame) -> Box | Failure:
        """The box in original pixels, or why these numbers are none in this convention.

        `answered_box` says what a box is.
        """
        if len(numbers) != 4:
            return _failure(f"{len(numbers)} coordinates; wanted 4")
        try:
            said = [float(number) for number in numbers]
        except (OverflowError, TypeError, ValueError):
            return _failure("a coordinate that is no number")
        if not all(map(math.isfinite, said)):
            return _failure("a coordinate that is not finite")
        full = self.scale(frame)
        if any(not 0 <= value <= full[axis % 2] for axis, value in enumerate(said)):
            shown = ", ".join(f"{value:g}" for value in said)
            limits = f"0 to {full[0]:g} across and 0 to {full[1]:g} down"
            return _failure(f"[{shown}] leaves the convention {self.name}, {limits}")
        ratio = [side / most for side, most in zip(frame.original_wh_px, full, strict=True)]
        box = Box(*(value * ratio[axis % 2] for axis, value in enumerate(said)))
        return answered_box(box, frame.original_wh_px)

    def from_box(self, box: Box, frame: Frame) -> tuple[float, float, float, float]:
        """The four numbers of a box in original pixels, rounded to whole units.

        What lies outside the picture is drawn to its edge. `to_box` gives the box back within half
        a unit.
        """
        full = self.scale(frame)
        ratio = [most / side for side, most in zip(frame.original_wh_px, full, strict=True)]
        x1, y1, x2, y2 = (
            self._rounded(value * ratio[axis % 2], full[axis % 2])
            for axis, value in enumerate(box.xyxy)
        )
        return x1, y1, x2, y2

    def _rounded(self, value: float, full: float) -> float:
        inside = min(max(value, 0.0), full)
        if self.unit == 1.0:
            return float(round(inside))
        return round(round(inside / self.unit) * self.unit, 9)


THINNEST_PX = 0.5
"""A box thinner than this, in pixels of the original image, covers no pixel: it has no area."""


def answered_box(
    box: Box, size_wh_px: Size, rounding_px: tuple[float, float] = (0.5, 0.5)
) -> Box | Failure:
    """The box that a model answered with, in original pixels, or why it is none.

    Every grounder's boxes go through here. Corners that lie outside the image by no more than what
    the model's units round off, `rounding_px` across and down, are drawn to its edge. What lies
    further outside, has its corners out of order, is thinner than half a pixel or is not finite is
    a Failure of stage "parse".
    """
    if not all(map(math.isfinite, box.xyxy)):
        return _failure("a coordinate that is not finite")
    if box.x1 > box.x2 or box.y1 > box.y2:
        return _failure("its second corner lies before its first")
    width, height = size_wh_px
    across, down = rounding_px
    if min(box.x1 + across, box.y1 + down) < 0 or box.x2 > width + across or box.y2 > height + down:
        shown = ", ".join(f"{value:.2f}" for value in box.xyxy)
        return _failure(f"[{shown}] is not in its image of {width} × {height} px")
    inside = Box(max(box.x1, 0), max(box.y1, 0), min(box.x2, width), min(box.y2, height))
    if min(inside.x2 - inside.x1, inside.y2 - inside.y1) < THINNEST_PX:
        return _failure("it has no area")
    return inside


def inside_picture(box: Box, size_wh_px: Size, where: str = "") -> Box:
    """The part of a gold box that lies in its picture.

    Raises InputError where that has no area, with `where` in front.
    """
    width, height = size_wh_px
    part = Box(max(box.x1, 0), max(box.y1, 0), min(box.x2, width), min(box.y2, height))
    if part.area > 0:
        return part
    raise InputError(
        f"{where}{': ' * bool(where)}box {list(box.xyxy)} is empty or not in its picture of "
        f"{width} × {height} px; check the annotation and the picture"
    )


def _failure(reason: str) -> Failure:
    return Failure(f"not a box: {reason}", "parse", "outside")
