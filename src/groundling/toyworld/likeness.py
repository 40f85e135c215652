"""Finds in a picture what crops of other pictures show, by normalised cross-correlation.

What the simulated annotator sees with: it knows nothing of the scenes, and works on pixels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import irfft2, rfft2

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
    if not shown:
        return None
    field = _Field.of(picture)
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


@dataclass(frozen=True, slots=True)
class _Field:
    """A picture to search: its size, spectra of its colours, and sums over all its rectangles.

    `sums` and `squares` are integral images (H + 1, W + 1) of the colours and of their squares.
    """

    height: int
    width: int
    spectra: npt.NDArray[np.complex128]
    sums: Pixels
    squares: Pixels

    @classmethod
    def of(cls, picture: Image.Image) -> _Field:
        ratio = _SIDE / max(picture.size)
        wide, high = (max(1, round(side * ratio)) for side in picture.size)
        pixels = np.asarray(picture.resize((wide, high), Image.Resampling.BOX), np.float64)
        spectra = rfft2(pixels, axes=(0, 1))
        return cls(high, wide, spectra, _integral(pixels), _integral(pixels**2))

    def correlation(self, template: Pixels) -> Pixels:
        """Normalised cross-correlation with a template at every place where it fits."""
        high, wide = template.shape[:2]
        rows, columns = self.height - high + 1, self.width - wide + 1
        centred = template - template.mean()
        size = (self.height, self.width)
        products = (self.spectra * rfft2(centred, s=size, axes=(0, 1)).conj()).sum(axis=-1)
        across = irfft2(products, s=size)[:rows, :columns]
        sums, squares = (_windows(table, high, wide) for table in (self.sums, self.squares))
        variance = np.maximum(squares - sums**2 / template.size, 1e-6)
        return np.asarray(across / np.sqrt(variance * (centred**2).sum() + 1e-6))


def _match(
    field: _Field, other: Image.Image, box: Box, scale: float, head_only: bool
) -> tuple[float, tuple[float, float, float, float]] | None:
    """The best correlation of a crop at one size, and the box that it stands for."""
    ratio = scale * _SIDE / max(other.size)
    wide, high = (box.x2 - box.x1) * ratio, (box.y2 - box.y1) * ratio
    searched = high * HEAD if head_only else high
    size = (max(1, round(wide)), max(1, round(searched)))
    if min(size) < 4 or size[0] > field.width or size[1] > field.height:
        return None
    bottom = box.y1 + (box.y2 - box.y1) * (HEAD if head_only else 1.0)
    crop = other.crop((round(box.x1), round(box.y1), round(box.x2), round(bottom)))
    template = np.asarray(crop.resize(size, Image.Resampling.BOX), np.float64)
    scores = field.correlation(template)
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    x, y = float(column), float(row)
    return float(scores[row, column]), (x, y, x + wide, y + high)


def _integral(pixels: Pixels) -> Pixels:
    """Sums of all colours over the rectangles from the top left corner, (H + 1, W + 1)."""
    summed = pixels.sum(axis=-1).cumsum(axis=0).cumsum(axis=1)
    return np.pad(summed, ((1, 0), (1, 0)))


def _windows(table: Pixels, high: int, wide: int) -> Pixels:
    """Sums over every window of one size, from an integral image."""
    return table[high:, wide:] - table[:-high, wide:] - table[high:, :-wide] + table[:-high, :-wide]
