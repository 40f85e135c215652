"""Draws objects: what makes a thing."""

from __future__ import annotations

from PIL import ImageDraw

from groundling.toyworld import identities as who
from groundling.toyworld.paint import PAINT, Colour, Frame, dark, light, mix
from groundling.toyworld.scene import Figure


def paint_item(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    """Draw an object of its kind, in its colour."""
    assert isinstance(figure.look, who.Item)
    _OBJECTS[figure.look.kind](pen, Frame(figure), PAINT[figure.look.colour])


def _trophy(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.35)
    for side in (-1, 1):
        pen.ellipse(
            at.box(side * 0.27 - 0.15, 0.55, side * 0.27 + 0.15, 0.92), outline=edge, width=7
        )
    pen.pieslice(at.box(-0.3, 0.35, 0.3, 1.55), 0, 180, fill=paint, outline=edge, width=2)
    pen.rectangle(at.box(-0.3, 0.93, 0.3, 1.0), fill=light(paint), outline=edge)
    pen.rectangle(at.box(-0.05, 0.16, 0.05, 0.42), fill=edge)
    pen.rounded_rectangle(at.box(-0.24, 0.0, 0.24, 0.18), radius=4, fill=dark(paint, 0.5))


def _mug(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.35)
    pen.ellipse(at.box(0.12, 0.25, 0.5, 0.78), outline=edge, width=9)
    pen.rounded_rectangle(
        at.box(-0.5, 0.0, 0.3, 0.94), radius=12, fill=paint, outline=edge, width=2
    )
    pen.ellipse(at.box(-0.5, 0.84, 0.3, 1.0), fill=light(paint), outline=edge, width=2)
    pen.ellipse(at.box(-0.42, 0.87, 0.22, 0.97), fill=(92, 60, 44))


def _phone(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    pen.rounded_rectangle(
        at.box(-0.28, 0.0, 0.28, 1.0), radius=12, fill=paint, outline=dark(paint, 0.4), width=2
    )
    pen.rectangle(at.box(-0.21, 0.16, 0.21, 0.88), fill=(152, 214, 246))
    pen.polygon(
        at.points((-0.21, 0.5), (0.21, 0.82), (0.21, 0.88), (-0.21, 0.88)), fill=(196, 234, 252)
    )
    pen.ellipse(at.box(-0.06, 0.03, 0.06, 0.13), fill=mix(paint, (128, 128, 128), 0.5))


def _car(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.35)
    roof = at.points((-0.5, 0.58), (-0.3, 1.0), (0.28, 1.0), (0.52, 0.58))
    pen.polygon(roof, fill=paint, outline=edge, width=2)
    pen.polygon(
        at.points((-0.38, 0.6), (-0.25, 0.9), (-0.04, 0.9), (-0.04, 0.6)), fill=(190, 228, 246)
    )
    pen.polygon(at.points((0.03, 0.6), (0.03, 0.9), (0.23, 0.9), (0.38, 0.6)), fill=(190, 228, 246))
    pen.rounded_rectangle(
        at.box(-0.85, 0.2, 0.85, 0.62), radius=12, fill=paint, outline=edge, width=2
    )
    for x in (-0.5, 0.5):
        pen.ellipse(at.box(x - 0.2, 0.0, x + 0.2, 0.4), fill=(32, 32, 36))
        pen.ellipse(at.box(x - 0.09, 0.11, x + 0.09, 0.29), fill=(206, 208, 212))
    pen.rectangle(at.box(0.77, 0.4, 0.85, 0.52), fill=(255, 240, 170))


def _ball(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    line = dark(paint, 0.45)
    pen.ellipse(at.box(-0.5, 0.0, 0.5, 1.0), fill=paint, outline=line, width=3)
    pen.arc(at.box(-1.15, 0.0, -0.1, 1.0), 300, 60, fill=line, width=4)
    pen.arc(at.box(0.1, 0.0, 1.15, 1.0), 120, 240, fill=line, width=4)
    pen.line(at.points((-0.5, 0.5), (0.5, 0.5)), fill=line, width=4)
    pen.ellipse(at.box(-0.28, 0.66, -0.08, 0.84), fill=light(paint, 0.6))


_OBJECTS = {"trophy": _trophy, "mug": _mug, "phone": _phone, "car": _car, "ball": _ball}
