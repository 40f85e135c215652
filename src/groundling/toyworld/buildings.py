"""Draws buildings: what makes a place."""

from __future__ import annotations

import math

from PIL import ImageDraw

from groundling.toyworld import identities as who
from groundling.toyworld.paint import PAINT, Colour, Frame, dark, light, mix
from groundling.toyworld.scene import Figure


def paint_landmark(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    """Draw a building of its kind, in its colour."""
    assert isinstance(figure.look, who.Landmark)
    _BUILDINGS[figure.look.kind](pen, Frame(figure), PAINT[figure.look.colour])


def _windmill(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.4)
    pen.polygon(
        at.points((-0.19, 0), (0.19, 0), (0.11, 0.66), (-0.11, 0.66)),
        fill=paint,
        outline=edge,
        width=2,
    )
    pen.pieslice(at.box(-0.11, 0.57, 0.11, 0.75), 180, 360, fill=edge)
    pen.rectangle(at.box(-0.05, 0.0, 0.05, 0.16), fill=(84, 60, 48))
    for angle in (0.25, 0.75, 1.25, 1.75):
        c, s = math.cos(angle * math.pi), math.sin(angle * math.pi)
        hub, tip = (0.0, 0.66), (0.44 * c, 0.66 + 0.44 * s)
        pen.line(at.points(hub, tip), fill=edge, width=5)
        wide = 0.07
        blade = [(0.12 * c, 0.66 + 0.12 * s), tip, (tip[0] - wide * s, tip[1] + wide * c)]
        blade.append((0.12 * c - wide * s, 0.66 + 0.12 * s + wide * c))
        pen.polygon(at.points(*blade), fill=light(paint, 0.15), outline=edge)
    pen.ellipse(at.box(-0.035, 0.625, 0.035, 0.695), fill=edge)


def _dome(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.35)
    pen.pieslice(at.box(-0.36, 0.1, 0.36, 0.88), 180, 360, fill=paint, outline=edge, width=2)
    pen.rectangle(at.box(-0.43, 0.0, 0.43, 0.48), fill=light(paint, 0.25), outline=edge, width=2)
    pen.rectangle(at.box(-0.015, 0.86, 0.015, 1.0), fill=edge)
    for x in (-0.29, 0.29):
        pen.rounded_rectangle(at.box(x - 0.07, 0.14, x + 0.07, 0.36), radius=6, fill=edge)
    pen.rounded_rectangle(at.box(-0.09, 0.0, 0.09, 0.32), radius=8, fill=(70, 52, 46))


def _pyramid(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    pen.polygon(at.points((-0.5, 0), (0.0, 1.0), (0.18, 0)), fill=paint)
    pen.polygon(at.points((0.18, 0), (0.0, 1.0), (0.5, 0)), fill=dark(paint, 0.25))
    for y in (0.25, 0.5, 0.75):
        pen.line(
            at.points((-0.5 * (1 - y), y), (0.18 * (1 - y), y)), fill=dark(paint, 0.15), width=2
        )


def _castle(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.35)
    pen.rectangle(at.box(-0.27, 0.0, 0.27, 0.62), fill=paint, outline=edge, width=2)
    for x in (-0.335, 0.335):
        pen.rectangle(
            at.box(x - 0.115, 0.0, x + 0.115, 0.88), fill=dark(paint, 0.12), outline=edge, width=2
        )
        for dx in (-0.085, 0.0, 0.085):
            pen.rectangle(at.box(x + dx - 0.03, 0.88, x + dx + 0.03, 1.0), fill=dark(paint, 0.12))
        pen.rectangle(at.box(x - 0.025, 0.5, x + 0.025, 0.66), fill=edge)
    for x in (-0.15, 0.0, 0.15):
        pen.rectangle(at.box(x - 0.04, 0.6, x + 0.04, 0.7), fill=paint)
    pen.rounded_rectangle(at.box(-0.1, 0.0, 0.1, 0.36), radius=10, fill=(70, 52, 46))


def _lighthouse(pen: ImageDraw.ImageDraw, at: Frame, paint: Colour) -> None:
    edge = dark(paint, 0.35)
    pen.polygon(
        at.points((-0.19, 0), (0.19, 0), (0.1, 0.76), (-0.1, 0.76)),
        fill=paint,
        outline=edge,
        width=2,
    )
    for y in (0.2, 0.5):
        w1, w2 = 0.19 - 0.118 * y, 0.19 - 0.118 * (y + 0.12)
        band = at.points((-w1, y), (w1, y), (w2, y + 0.12), (-w2, y + 0.12))
        pen.polygon(
            band,
            fill=mix(paint, (250, 250, 250), 0.55) if paint != PAINT["white"] else (196, 200, 206),
        )
    pen.rectangle(at.box(-0.13, 0.75, 0.13, 0.79), fill=edge)
    pen.rectangle(at.box(-0.08, 0.79, 0.08, 0.9), fill=(255, 236, 150), outline=edge, width=2)
    pen.pieslice(at.box(-0.11, 0.8, 0.11, 1.0), 180, 360, fill=edge)


_BUILDINGS = {
    "windmill": _windmill,
    "dome": _dome,
    "pyramid": _pyramid,
    "castle": _castle,
    "lighthouse": _lighthouse,
}
