"""Draws people: hair, face, shirt and what is on it."""

from __future__ import annotations

import math

from PIL import ImageDraw

from groundling.toyworld import identities as who
from groundling.toyworld.logos import paint_emblem
from groundling.toyworld.paint import HAIR, PAINT, SKIN, Colour, Frame, dark
from groundling.toyworld.scene import Figure


def paint_person(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    """Draw a person, from the feet up."""
    assert isinstance(figure.look, who.Face)
    assert figure.cloth is not None
    face, at = figure.look, Frame(figure)
    skin, hair, shirt = SKIN[face.skin], HAIR[face.hair_colour], PAINT[figure.cloth]
    trousers = (58, 64, 92)
    for side in (-1, 1):
        pen.rectangle(
            at.box(min(side * 0.02, side * 0.13), 0.0, max(side * 0.02, side * 0.13), 0.27),
            fill=trousers,
        )
        pen.ellipse(at.box(side * 0.085 - 0.07, 0.0, side * 0.085 + 0.07, 0.045), fill=(48, 42, 44))
    if face.hair_style == "long":
        pen.rounded_rectangle(
            at.box(-0.185, 0.5, 0.185, 0.9), radius=0.1 * at.unit, fill=dark(hair, 0.12)
        )
    for side in (-1, 1):
        pen.rounded_rectangle(
            at.box(side * 0.185 - 0.045, 0.3, side * 0.185 + 0.045, 0.58),
            radius=0.04 * at.unit,
            fill=dark(shirt, 0.16),
        )
        pen.ellipse(at.box(side * 0.185 - 0.035, 0.265, side * 0.185 + 0.035, 0.335), fill=skin)
    pen.rounded_rectangle(
        at.box(-0.165, 0.25, 0.165, 0.61),
        radius=0.06 * at.unit,
        fill=shirt,
        outline=dark(shirt),
        width=2,
    )
    pen.rectangle(at.box(-0.045, 0.585, 0.045, 0.66), fill=dark(skin, 0.12))
    _head(pen, at, face, skin, hair)
    if figure.emblem is not None:
        paint_emblem(pen, figure)


def _head(pen: ImageDraw.ImageDraw, at: Frame, face: who.Face, skin: Colour, hair: Colour) -> None:
    if face.hair_style == "bun":
        pen.ellipse(at.box(-0.075, 0.88, 0.075, 1.0), fill=hair, outline=dark(hair), width=2)
    if face.hair_style == "curly":
        for i in range(9):
            angle = math.pi * i / 8
            x, y = 0.155 * math.cos(angle), 0.79 + 0.135 * math.sin(angle)
            pen.ellipse(at.box(x - 0.068, y - 0.068, x + 0.068, y + 0.068), fill=hair)
    else:
        pen.ellipse(at.box(-0.168, 0.64, 0.168, 0.95), fill=hair)
    pen.ellipse(at.box(-0.142, 0.62, 0.142, 0.885), fill=skin)
    if face.hair_style == "curly":
        pen.chord(at.box(-0.15, 0.72, 0.15, 0.96), 180, 360, fill=hair)
    else:
        pen.chord(at.box(-0.155, 0.66, 0.155, 0.945), 195, 345, fill=hair)
    if face.beard:
        pen.chord(at.box(-0.142, 0.605, 0.142, 0.86), 15, 165, fill=hair)
        pen.rounded_rectangle(at.box(-0.05, 0.672, 0.05, 0.69), radius=2, fill=(170, 74, 70))
    else:
        pen.arc(at.box(-0.055, 0.66, 0.055, 0.72), 20, 160, fill=(160, 66, 62), width=3)
    for side in (-1, 1):
        x = side * 0.06
        if face.glasses:
            pen.ellipse(
                at.box(x - 0.052, 0.732, x + 0.052, 0.83),
                fill=(236, 244, 250),
                outline=(24, 24, 28),
                width=4,
            )
        pen.ellipse(at.box(x - 0.017, 0.763, x + 0.017, 0.799), fill=(30, 26, 30))
    if face.glasses:
        pen.rectangle(at.box(-0.012, 0.775, 0.012, 0.788), fill=(24, 24, 28))
