"""Draws logos: the emblems of organisations, on shirts and on signs."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from groundling.toyworld.paint import PAINT, SCALE, Colour, Frame, light
from groundling.toyworld.scene import Figure, emblem_box


def paint_sign(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    """Draw a sign: a pole, a board, and the logo on it."""
    assert figure.cloth is not None
    at, board = Frame(figure), light(PAINT[figure.cloth], 0.55)
    pen.rectangle(at.box(-0.035, 0.0, 0.035, 0.5), fill=(116, 84, 62))
    box = emblem_box(figure)
    frame = tuple(v * SCALE for v in box.xyxy)
    pen.rounded_rectangle(frame, radius=8, fill=board, outline=(92, 78, 70), width=4)
    paint_emblem(pen, figure)


def paint_emblem(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    """Draw the emblem that a figure wears."""
    assert figure.emblem is not None
    box = emblem_box(figure)
    cx, cy = (box.x1 + box.x2) / 2 * SCALE, (box.y1 + box.y2) / 2 * SCALE
    r = (box.x2 - box.x1) / 2 * SCALE * (0.72 if figure.kind == "sign" else 1.0)
    colour = PAINT[figure.emblem.colour]
    _SHAPES[figure.emblem.shape](pen, cx, cy, r, colour)


def _polygon(
    pen: ImageDraw.ImageDraw,
    cx: float,
    cy: float,
    r: float,
    fill: Colour,
    unit: list[tuple[float, float]],
) -> None:
    pen.polygon(
        [(cx + x * r, cy + y * r) for x, y in unit], fill=fill, outline=light(fill, 0.75), width=2
    )


def _star(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    unit = []
    for i in range(10):
        radius, angle = (1.0 if i % 2 == 0 else 0.44), math.pi * (i / 5 - 0.5)
        unit.append((radius * math.cos(angle), radius * math.sin(angle)))
    _polygon(pen, cx, cy, r, fill, unit)


def _ring(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    pen.ellipse((cx - r, cy - r, cx + r, cy + r), outline=fill, width=max(5, round(r * 0.42)))


def _triangle(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    _polygon(pen, cx, cy, r, fill, [(0, -0.95), (1, 0.85), (-1, 0.85)])


def _heart(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    unit = []
    for i in range(28):
        t = 2 * math.pi * i / 28
        x = math.sin(t) ** 3
        y = (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16
        unit.append((x, -y))
    _polygon(pen, cx, cy, r, fill, unit)


def _cross(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    a = 0.34
    unit = [(-a, -1.0), (a, -1.0), (a, -a), (1.0, -a), (1.0, a), (a, a)]
    unit += [(a, 1.0), (-a, 1.0), (-a, a), (-1.0, a), (-1.0, -a), (-a, -a)]
    _polygon(pen, cx, cy, r, fill, unit)


def _diamond(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    _polygon(pen, cx, cy, r, fill, [(0, -1), (0.78, 0), (0, 1), (-0.78, 0)])


def _moon(pen: ImageDraw.ImageDraw, cx: float, cy: float, r: float, fill: Colour) -> None:
    outer = [(math.cos(t), math.sin(t)) for t in np.linspace(0.28 * math.pi, 1.72 * math.pi, 16)]
    inner = [
        (0.42 + 0.72 * math.cos(t), 0.78 * math.sin(t))
        for t in np.linspace(1.62 * math.pi, 0.38 * math.pi, 14)
    ]
    _polygon(pen, cx, cy, r, fill, [(x - 0.1, y) for x, y in outer + inner])


_SHAPES = {
    "star": _star,
    "ring": _ring,
    "triangle": _triangle,
    "heart": _heart,
    "cross": _cross,
    "diamond": _diamond,
    "moon": _moon,
}
