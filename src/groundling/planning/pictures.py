"""How many tokens a picture is, by the published image processors of each family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_TOKENS = 1000
"""Tokens of a picture where nothing tells its size: an assumption."""

DEFAULT_AREA_PX = DEFAULT_TOKENS * 28**2
"""Its area, as Qwen2-VL makes tokens of it."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class PictureRule:
    """Pictures in their own size, or cut into tiles.

    In their own size (`tiles` 0): a token for each square of the tower's unit, between `least` and
    `most` of them. Else up to `tiles` squares of `tile_px` and an overview, `tile_tokens` each.
    With `crossing`, tiles are looked at from beside the text, take no place in it, and are padded
    to their full number.
    """

    least: int = 1
    most: int = 16384
    tile_px: int = 0
    tiles: int = 0
    tile_tokens: int = 0
    overview: bool = True
    crossing: bool = False


RULES = {
    # Qwen2-VL's model card: 4 to 16384 tokens a picture; assumed of its successors as well
    "qwen2_vl": PictureRule(least=4),
    "qwen2_5_vl": PictureRule(least=4),
    "qwen3_vl": PictureRule(least=4),
    "qwen3_5": PictureRule(least=4),
    # image_grid_pinpoints of LLaVA-NeXT: at most 4 tiles of 336 px, 24 × 24 and line ends
    "llava_next": PictureRule(tile_px=336, tiles=4, tile_tokens=588),
    # InternVL's processor: at most 12 tiles of 448 px, 256 tokens each
    "internvl": PictureRule(tile_px=448, tiles=12, tile_tokens=256),
    # Llama 3.2 Vision: 4 tiles of 560 px, (560 / 14)² + 1 each
    "mllama": PictureRule(tile_px=560, tiles=4, tile_tokens=1601, overview=False, crossing=True),
}


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """Tokens of a picture: the most of any, which rows are padded to, and the mean.

    `inside` says whether they stand in the text; `told_by` says where the figures come from;
    `number` counts the pictures that are known, 0 where none is.
    """

    most: int
    mean: float
    inside: bool
    told_by: str
    number: int = 0


def picture_tokens(
    rule: PictureRule, unit_px: int, sizes: Sequence[Size], max_pixels: int | None
) -> PictureTokens:
    """Tokens of pictures of these sizes; without any, DEFAULT_TOKENS or what max_pixels allows.

    `unit_px` is the tower's (`VisionShape.unit_px`).
    """
    if rule.tiles:
        tiles = rule.tiles
        if max_pixels is not None and not rule.crossing:
            tiles = max(1, min(tiles, max_pixels // rule.tile_px**2))
        many = (tiles + (rule.overview and tiles > 0)) * rule.tile_tokens
        return PictureTokens(many, many, not rule.crossing, f"{tiles} tiles at most")
    if not sizes:
        most = DEFAULT_TOKENS
        told = "no pictures at hand: assumed"
        if max_pixels is not None and max_pixels // unit_px**2 < most:
            most, told = max(rule.least, max_pixels // unit_px**2), "max_pixels"
        return PictureTokens(most, most, True, told)
    counts = [_units(rule, unit_px, size, max_pixels) for size in sizes]
    told = f"{len(counts)} pictures of the data"
    return PictureTokens(max(counts), sum(counts) / len(counts), True, told, len(counts))


def _units(rule: PictureRule, unit_px: int, size: Size, max_pixels: int | None) -> int:
    """Whole units along each side, the area brought between the limits with its aspect kept."""
    width, height = size
    most = rule.most if max_pixels is None else min(rule.most, max_pixels // unit_px**2)
    area = width * height / unit_px**2
    scale = 1.0
    if area > most:
        scale = math.sqrt(most / area)
    elif area < rule.least:
        scale = math.sqrt(rule.least / area)
    sides = (max(1, round(side * scale / unit_px)) for side in size)
    return max(rule.least, min(most, math.prod(sides)))


def mean_area_px(sizes: Sequence[Size]) -> float:
    """Pixels of a picture on average; DEFAULT_AREA_PX where no size is known."""
    if not sizes:
        return DEFAULT_AREA_PX
    return sum(width * height for width, height in sizes) / len(sizes)
