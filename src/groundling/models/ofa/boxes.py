"""How OFA writes a box: four bins, x1 y1 x2 y2, of the picture squeezed to a square.

Source: the referring-expression task of OFA's own code. The picture is squeezed to a square of
`side_px`, a coordinate in it is divided by `span_px` (512, whatever the square) and rounded to
one of `bins` equal steps. So with a square smaller than the span the last bins lie outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groundling.errors import InputError
from groundling.models.coordinates import Size, answered_box, inside_picture
from groundling.records import Box, Failure

Bins = tuple[int, int, int, int]
"""The bins of x1, y1, x2, y2."""


@dataclass(frozen=True, slots=True)
class BinGrid:
    """The convention of one checkpoint; raises InputError where its square exceeds its span.

    >>> BinGrid(side_px=512).box_of((0, 250, 500, 999), (640, 480))
    Box(x1=0.0, y1=120.12012012012012, x2=320.3203203203203, y2=480.0)
    """

    side_px: int
    bins: int = 1000
    span_px: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.side_px <= self.span_px or self.bins < 2:
            raise InputError(
                f"a square of {self.side_px} px and {self.bins} bins over {self.span_px} px; "
                "wanted a square of at most what the bins span, and at least 2 bins"
            )

    @property
    def last(self) -> int:
        """The last bin that lies in the picture."""
        return round(self.side_px / self.span_px * (self.bins - 1))

    def bin_px(self, size_wh_px: Size) -> tuple[float, float]:
        """Width and height of one bin, in pixels of the original picture."""
        step = self.span_px / (self.bins - 1) / self.side_px
        return step * size_wh_px[0], step * size_wh_px[1]

    def bins_of(self, box: Box, size_wh_px: Size) -> Bins:
        """The bins of a box in pixels; what lies outside the picture stops at its edge.

        Raises InputError for a box of which nothing is inside.
        """
        inside = inside_picture(box, size_wh_px)
        across, down = self.bin_px(size_wh_px)
        x1, y1, x2, y2 = (
            round(value / step)
            for value, step in zip(inside.xyxy, (across, down, across, down), strict=True)
        )
        return (x1, y1, x2, y2)

    def box_of(self, bins: Sequence[int | None], size_wh_px: Size) -> Box | Failure:
        """The box in pixels that four bins mean; None stands for a token that is no bin.

        Nothing is swapped or rescaled: what is outside the convention is a Failure. The last bin in
        the image may reach over its edge by half a bin, which `answered_box` takes away.
        """
        if len(bins) != 4:
            return Failure(f"{len(bins)} tokens; a box has 4", "ground")
        known = [value for value in bins if value is not None]
        if len(known) < 4:
            return Failure(f"not four bins: {_shown(bins)}", "ground")
        if min(known) < 0 or max(known) > self.last:
            return Failure(f"a bin outside the picture: {_shown(bins)}", "ground")
        x1, y1, x2, y2 = known
        if x2 <= x1 or y2 <= y1:
            return Failure(f"no box: {_shown(bins)}", "ground")
        across, down = self.bin_px(size_wh_px)
        box = Box(x1 * across, y1 * down, x2 * across, y2 * down)
        return answered_box(box, size_wh_px, (across / 2, down / 2))


def _shown(bins: Sequence[int | None]) -> str:
    return " ".join("?" if value is None else f"<bin_{value}>" for value in bins)
