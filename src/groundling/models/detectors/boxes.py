"""Boxes as the detectors write them, and pixels of the original picture and back.

Both conventions count shares of a picture's side, so the size that a model sees does not matter.
What lies outside a convention is a Failure of stage "parse".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from groundling.models.coordinates import Size, answered_box, inside_picture
from groundling.records import Box, Failure


@dataclass(frozen=True, slots=True)
class CentreBox:
    """Centre and sides of a box, each from 0 to 1, as shares of the picture's width and height.

    What DETR and its kin predict. A centre near an edge with a long side reaches over the edge:
    that is within the convention, and `to_pixels` leaves out what is outside the picture.

    >>> CentreBox(0.5, 0.5, 0.5, 1.0).to_pixels((200, 100))
    Box(x1=50.0, y1=0.0, x2=150.0, y2=100.0)
    """

    cx: float
    cy: float
    w: float
    h: float

    def to_pixels(self, size_wh_px: Size) -> Box | Failure:
        """The part of the box inside the picture; a Failure for a number that is not within 0 to 1
        (NaN among them) and for a box without area.
        """
        said = (self.cx, self.cy, self.w, self.h)
        if not all(0.0 <= value <= 1.0 for value in said):
            shown = ", ".join(f"{value:g}" for value in said)
            return _failure(f"[{shown}] leaves the convention, four shares from 0 to 1")
        width, height = size_wh_px
        x1, x2 = (min(max(self.cx + side * self.w / 2, 0.0), 1.0) * width for side in (-1, 1))
        y1, y2 = (min(max(self.cy + side * self.h / 2, 0.0), 1.0) * height for side in (-1, 1))
        return answered_box(Box(x1, y1, x2, y2), size_wh_px)

    @classmethod
    def of(cls, box: Box, size_wh_px: Size) -> CentreBox:
        """The part of a box in pixels that is inside its picture.

        Raises InputError where nothing is.
        """
        part = inside_picture(box, size_wh_px)
        x1, y1, x2, y2 = (value / size_wh_px[axis % 2] for axis, value in enumerate(part.xyxy))
        return cls((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


@dataclass(frozen=True, slots=True)
class LocationGrid:
    """Florence-2's location tokens: a side is cut into `bins` equal parts, a part is its middle.

    A coordinate becomes ⌊coordinate × bins / side⌋, at most bins − 1 (transformers'
    `Florence2PostProcessor.quantize`); back it is (bin + ½) × side / bins, which that class then
    cuts to whole pixels and this one leaves as it is.

    >>> LocationGrid().to_pixels((0, 0, 499, 999), (1000, 2000))
    Box(x1=0.5, y1=1.0, x2=499.5, y2=1999.0)
    """

    bins: int = 1000

    def to_pixels(self, numbers: Sequence[int], size_wh_px: Size) -> Box | Failure:
        """Bins x1, y1, x2, y2 → a box, or why they are none."""
        if len(numbers) != 4:
            return _failure(f"{len(numbers)} location tokens; wanted 4")
        if not all(0 <= number < self.bins for number in numbers):
            return _failure(f"{list(numbers)} leaves the bins, 0 to {self.bins - 1}")
        x1, y1, x2, y2 = (
            (number + 0.5) * size_wh_px[axis % 2] / self.bins for axis, number in enumerate(numbers)
        )
        return answered_box(Box(x1, y1, x2, y2), size_wh_px)

    def of(self, box: Box, size_wh_px: Size) -> tuple[int, int, int, int]:
        """The bins of a box in pixels; what lies outside the picture is drawn to its edge."""
        x1, y1, x2, y2 = (
            min(max(math.floor(value * self.bins / size_wh_px[axis % 2]), 0), self.bins - 1)
            for axis, value in enumerate(box.xyxy)
        )
        return x1, y1, x2, y2


def _failure(reason: str) -> Failure:
    return Failure(f"not a box: {reason}", "parse")
