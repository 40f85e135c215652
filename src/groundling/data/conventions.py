"""Which convention box coordinates look like, where they are not pixels.

Two are common: fractions of the image (0 to 1) and thousandths of it (0 to 1000). Coordinates alone
prove nothing, since a small box is an honest box, so each is told only under the conditions of
`looks_relative`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from groundling.records import Box, Size

Scale = Literal[1, 1000]

WORDS: dict[Scale, str] = {
    1: "fractions of the image, 0 to 1",
    1000: "thousandths of the image, 0 to 1000",
}

CHANCE = 0.05
"""Boxes look like thousandths where pixels would lie so with a smaller probability than this."""


def looks_relative(boxes: Sequence[tuple[Box, float]]) -> Scale | None:
    """The scale that boxes with an area look to be on, or None where they may well be pixels.

    Beside each box stands the probability that one in pixels lies within 0 to 1000, such as
    `share_within` of its image's size. All within 0 to 1: no box in pixels is that small. All
    within 0 to 1000, some beyond the middle of that range: thousandths, where the probabilities'
    product is below CHANCE.
    """
    sound = [(box, chance) for box, chance in boxes if box.area > 0]
    if not sound or min(min(box.x1, box.y1) for box, _ in sound) < 0:
        return None
    top = max(max(box.x2, box.y2) for box, _ in sound)
    if top <= 1:
        return 1
    if 500 < top <= 1000 and math.prod(chance for _, chance in sound) < CHANCE:
        return 1000
    return None


def share_within(size_wh_px: Size | None, scale: float = 1000) -> float:
    """The share of an image that lies within `scale` pixels of its corner: at least the probability
    that a box put there at random does. 1 where the size is not known."""
    if size_wh_px is None:
        return 1.0
    return math.prod(min(1.0, scale / side) for side in size_wh_px)


def in_pixels(box: Box, scale: Scale, size_wh_px: Size) -> Box:
    """A box on a scale, in pixels of an image."""
    x, y = (side / scale for side in size_wh_px)
    return Box(box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y)
