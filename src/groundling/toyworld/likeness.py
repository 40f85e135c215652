"""Finds in a picture what crops of other pictures show, by normalised cross-correlation.

What the simulated annotator sees with: it knows nothing of the scenes, and works on pixels alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.signal import fftconvolve

from groundling.records import Box

Pixels = npt.NDArray[np.float64]

HEAD = 0.42
"""Upper share of a person's box that shows who it is: clothes differ from picture to picture."""

_SIDE = 112
"""Pixels that the longer side of a picture is searched at."""
_SCALES = tuple(1.15**n for n in range(-4, 5))
_ALIKE = 0.72
"""Smallest correlation that counts as found."""


def find_alike(
    picture: Image.Image, shown: Sequence[tuple[Image.Image, Box]], *, head_only: bool = False
) -> Box | None:
    """Where `picture` shows what the boxes of other pictures show, in its pixels; None: nowhere.

    The best match of any crop at any of nine sizes, if it is good enough.
    """
    field = _reduced(picture)
    best, found = _ALIKE, None
    for other, box in shown:
        for scale in _SCALES:
            match = _match(field, other, box, scale, head_only)
            if match is not None and match[0] > best:
                best, found = match
    if found is None:
        return None
    ratio = max(picture.size) / _SIDE
    wide, high = picture.size
    x1, y1, x2, y2 = (value * ratio for value in found)
    return Box(max(0.0, x1), max(0.0, y1), min(float(wide), x2), min(float(high), y2))


def _match(
    field: Pixels, other: Image.Image, box: Box, scale: float, head_only: bool
) -> tuple[float, tuple[float, float, float, float]] | None:
    """The best correlation of a crop at one size, and the box that it stands for."""
    ratio = scale * _SIDE / max(other.size)
    wide, high = (box.x2 - box.x1) * ratio, (box.y2 - box.y1) * ratio
    searched = high * HEAD if head_only else high
    size = (max(1, round(wide)), max(1, round(searched)))
    if min(size) < 4 or size[0] > field.shape[1] or size[1] > field.shape[0]:
        return None
    bottom = box.y1 + (box.y2 - box.y1) * (HEAD if head_only else 1.0)
    crop = other.crop((round(box.x1), round(box.y1), round(box.x2), round(bottom)))
    template = np.asarray(crop.resize(size, Image.Resampling.BOX), np.float64)
    scores = _correlation(field, template)
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    x, y = float(column), float(row)
    return float(scores[row, column]), (x, y, x + wide, y + high)


def _correlation(field: Pixels, template: Pixels) -> Pixels:
    """Normalised cross-correlation of colours at every place where the template fits: (H, W)."""
    ones = np.ones(template.shape[:2])
    count = template.size
    centred = template - template.mean()
    across = sum(fftconvolve(field[..., c], centred[::-1, ::-1, c], mode="valid") for c in range(3))
    sums = sum(fftconvolve(field[..., c], ones, mode="valid") for c in range(3))
    squares = sum(fftconvolve(field[..., c] ** 2, ones, mode="valid") for c in range(3))
    spread = np.sqrt(np.maximum(squares - sums**2 / count, 1e-6) * (centred**2).sum() + 1e-6)
    return np.asarray(across / spread)


def _reduced(picture: Image.Image) -> Pixels:
    ratio = _SIDE / max(picture.size)
    wide, high = (max(1, round(side * ratio)) for side in picture.size)
    return np.asarray(picture.resize((wide, high), Image.Resampling.BOX), np.float64)
