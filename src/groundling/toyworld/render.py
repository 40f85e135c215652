"""Draws a scene with Pillow: twice the size, then reduced, so that edges are smooth."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from groundling.toyworld import identities as who
from groundling.toyworld.scene import (
    SIZE_PX,
    WIDTH_SHARE,
    Figure,
    Scene,
    emblem_box,
    shape_of,
)

Colour = tuple[int, int, int]
SCALE = 2

PAINT: dict[str, Colour] = {
    "red": (214, 45, 48),
    "blue": (44, 92, 212),
    "green": (44, 158, 76),
    "yellow": (245, 204, 52),
    "purple": (138, 62, 184),
    "white": (246, 246, 242),
    "black": (34, 34, 40),
    "orange": (243, 134, 42),
    "grey": (146, 148, 154),
    "brown": (122, 76, 42),
    "blond": (238, 206, 112),
}
HAIR: dict[str, Colour] = PAINT | {"red": (204, 72, 32), "grey": (176, 178, 184)}
SKIN: dict[str, Colour] = {"light": (250, 216, 188), "tan": (214, 160, 112), "dark": (122, 78, 52)}
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((148, 200, 240), (224, 240, 250)),
    ((250, 190, 140), (252, 228, 196)),
    ((176, 176, 226), (230, 222, 244)),
    ((160, 214, 206), (228, 244, 238)),
    ((206, 214, 222), (238, 240, 242)),
    ((240, 196, 210), (250, 232, 236)),
)
GROUNDS: tuple[Colour, ...] = (
    (150, 190, 116),
    (198, 178, 134),
    (164, 168, 176),
    (126, 170, 140),
    (186, 150, 126),
    (170, 196, 206),
)


def render(scene: Scene) -> Image.Image:
    """Return the picture of a scene, RGB, SIZE_PX square; the same scene gives the same pixels."""
    canvas = _backdrop(scene)
    pen = ImageDraw.Draw(canvas)
    for figure in scene.figures:
        _shadow(pen, figure)
        _DRAWERS[figure.kind](pen, figure)
    return canvas.reduce(SCALE)


def _backdrop(scene: Scene) -> Image.Image:
    top, bottom = SKIES[scene.backdrop.sky]
    size, horizon = SIZE_PX * SCALE, scene.backdrop.horizon * SCALE
    blend = np.linspace(0.0, 1.0, horizon)[:, None]
    sky = np.array(top) * (1 - blend) + np.array(bottom) * blend
    shade = np.linspace(0.92, 1.06, size - horizon)[:, None]
    ground = np.array(GROUNDS[scene.backdrop.ground]) * shade
    column = np.clip(np.concatenate([sky, ground]), 0, 255).astype(np.uint8)[:, None, :]
    canvas = Image.fromarray(column).resize((size, size), Image.Resampling.NEAREST)
    _clouds(ImageDraw.Draw(canvas), scene.backdrop.horizon, bottom)
    return canvas


def _clouds(pen: ImageDraw.ImageDraw, horizon: int, tint: Colour) -> None:
    colour = _mix(tint, (255, 255, 255), 0.6)
    for i in range(2):
        x = (horizon * 37 + i * 251) % (SIZE_PX * SCALE)
        y = 24 + (horizon * 13 + i * 61) % 70
        for dx, r in ((-30, 14), (0, 20), (28, 13)):
            pen.ellipse((x + dx - r * 1.5, y - r, x + dx + r * 1.5, y + r), fill=colour)


def _shadow(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    share = 0.3 if figure.kind == "sign" else WIDTH_SHARE[shape_of(figure)]
    half = figure.height * share * 0.55 * SCALE
    x, y = figure.centre_x * SCALE, figure.base_y * SCALE
    box = (x - half, y - 7, x + half, y + 7)
    pen.ellipse(box, fill=(112, 118, 112))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(p * (1 - share) + q * share) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def _dark(colour: Colour, share: float = 0.28) -> Colour:
    return _mix(colour, (0, 0, 0), share)


def _light(colour: Colour, share: float = 0.3) -> Colour:
    return _mix(colour, (255, 255, 255), share)


class _Frame:
    """Maps a figure's own units (1 = its height, origin at its feet) to canvas pixels."""

    def __init__(self, figure: Figure) -> None:
        self.x = figure.centre_x * SCALE
        self.y = figure.base_y * SCALE
        self.unit = figure.height * SCALE

    def box(self, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
        """A box from its left, bottom, right and top in own units (y grows upwards)."""
        return (
            self.x + x1 * self.unit,
            self.y - y2 * self.unit,
            self.x + x2 * self.unit,
            self.y - y1 * self.unit,
        )

    def points(self, *xy: tuple[float, float]) -> list[tuple[float, float]]:
        """Canvas points from own units."""
        return [(self.x + x * self.unit, self.y - y * self.unit) for x, y in xy]


# --------------------------------------------------------------------------------------- people


def _person(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    assert isinstance(figure.look, who.Face)
    assert figure.cloth is not None
    face, at = figure.look, _Frame(figure)
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
            at.box(-0.185, 0.5, 0.185, 0.9), radius=0.1 * at.unit, fill=_dark(hair, 0.12)
        )
    for side in (-1, 1):
        pen.rounded_rectangle(
            at.box(side * 0.185 - 0.045, 0.3, side * 0.185 + 0.045, 0.58),
            radius=0.04 * at.unit,
            fill=_dark(shirt, 0.16),
        )
        pen.ellipse(at.box(side * 0.185 - 0.035, 0.265, side * 0.185 + 0.035, 0.335), fill=skin)
    pen.rounded_rectangle(
        at.box(-0.165, 0.25, 0.165, 0.61),
        radius=0.06 * at.unit,
        fill=shirt,
        outline=_dark(shirt),
        width=2,
    )
    pen.rectangle(at.box(-0.045, 0.585, 0.045, 0.66), fill=_dark(skin, 0.12))
    _head(pen, at, face, skin, hair)
    if figure.emblem is not None:
        _emblem(pen, figure)


def _head(pen: ImageDraw.ImageDraw, at: _Frame, face: who.Face, skin: Colour, hair: Colour) -> None:
    if face.hair_style == "bun":
        pen.ellipse(at.box(-0.075, 0.88, 0.075, 1.0), fill=hair, outline=_dark(hair), width=2)
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


# ---------------------------------------------------------------------------------------- logos


def _sign(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    assert figure.cloth is not None
    at, board = _Frame(figure), _light(PAINT[figure.cloth], 0.55)
    pen.rectangle(at.box(-0.035, 0.0, 0.035, 0.5), fill=(116, 84, 62))
    box = emblem_box(figure)
    frame = tuple(v * SCALE for v in box.xyxy)
    pen.rounded_rectangle(frame, radius=8, fill=board, outline=(92, 78, 70), width=4)
    _emblem(pen, figure)


def _emblem(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
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
        [(cx + x * r, cy + y * r) for x, y in unit], fill=fill, outline=_light(fill, 0.75), width=2
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


# ------------------------------------------------------------------------------------- buildings


def _landmark(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    assert isinstance(figure.look, who.Landmark)
    _BUILDINGS[figure.look.kind](pen, _Frame(figure), PAINT[figure.look.colour])


def _windmill(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.4)
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
        pen.polygon(at.points(*blade), fill=_light(paint, 0.15), outline=edge)
    pen.ellipse(at.box(-0.035, 0.625, 0.035, 0.695), fill=edge)


def _dome(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.35)
    pen.pieslice(at.box(-0.36, 0.1, 0.36, 0.88), 180, 360, fill=paint, outline=edge, width=2)
    pen.rectangle(at.box(-0.43, 0.0, 0.43, 0.48), fill=_light(paint, 0.25), outline=edge, width=2)
    pen.rectangle(at.box(-0.015, 0.86, 0.015, 1.0), fill=edge)
    for x in (-0.29, 0.29):
        pen.rounded_rectangle(at.box(x - 0.07, 0.14, x + 0.07, 0.36), radius=6, fill=edge)
    pen.rounded_rectangle(at.box(-0.09, 0.0, 0.09, 0.32), radius=8, fill=(70, 52, 46))


def _pyramid(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    pen.polygon(at.points((-0.5, 0), (0.0, 1.0), (0.18, 0)), fill=paint)
    pen.polygon(at.points((0.18, 0), (0.0, 1.0), (0.5, 0)), fill=_dark(paint, 0.25))
    for y in (0.25, 0.5, 0.75):
        pen.line(
            at.points((-0.5 * (1 - y), y), (0.18 * (1 - y), y)), fill=_dark(paint, 0.15), width=2
        )


def _castle(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.35)
    pen.rectangle(at.box(-0.27, 0.0, 0.27, 0.62), fill=paint, outline=edge, width=2)
    for x in (-0.335, 0.335):
        pen.rectangle(
            at.box(x - 0.115, 0.0, x + 0.115, 0.88), fill=_dark(paint, 0.12), outline=edge, width=2
        )
        for dx in (-0.085, 0.0, 0.085):
            pen.rectangle(at.box(x + dx - 0.03, 0.88, x + dx + 0.03, 1.0), fill=_dark(paint, 0.12))
        pen.rectangle(at.box(x - 0.025, 0.5, x + 0.025, 0.66), fill=edge)
    for x in (-0.15, 0.0, 0.15):
        pen.rectangle(at.box(x - 0.04, 0.6, x + 0.04, 0.7), fill=paint)
    pen.rounded_rectangle(at.box(-0.1, 0.0, 0.1, 0.36), radius=10, fill=(70, 52, 46))


def _lighthouse(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.35)
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
            fill=_mix(paint, (250, 250, 250), 0.55) if paint != PAINT["white"] else (196, 200, 206),
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


# --------------------------------------------------------------------------------------- objects


def _item(pen: ImageDraw.ImageDraw, figure: Figure) -> None:
    assert isinstance(figure.look, who.Item)
    _OBJECTS[figure.look.kind](pen, _Frame(figure), PAINT[figure.look.colour])


def _trophy(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.35)
    for side in (-1, 1):
        pen.ellipse(
            at.box(side * 0.27 - 0.15, 0.55, side * 0.27 + 0.15, 0.92), outline=edge, width=7
        )
    pen.pieslice(at.box(-0.3, 0.35, 0.3, 1.55), 0, 180, fill=paint, outline=edge, width=2)
    pen.rectangle(at.box(-0.3, 0.93, 0.3, 1.0), fill=_light(paint), outline=edge)
    pen.rectangle(at.box(-0.05, 0.16, 0.05, 0.42), fill=edge)
    pen.rounded_rectangle(at.box(-0.24, 0.0, 0.24, 0.18), radius=4, fill=_dark(paint, 0.5))


def _mug(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.35)
    pen.ellipse(at.box(0.12, 0.25, 0.5, 0.78), outline=edge, width=9)
    pen.rounded_rectangle(
        at.box(-0.5, 0.0, 0.3, 0.94), radius=12, fill=paint, outline=edge, width=2
    )
    pen.ellipse(at.box(-0.5, 0.84, 0.3, 1.0), fill=_light(paint), outline=edge, width=2)
    pen.ellipse(at.box(-0.42, 0.87, 0.22, 0.97), fill=(92, 60, 44))


def _phone(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    pen.rounded_rectangle(
        at.box(-0.28, 0.0, 0.28, 1.0), radius=12, fill=paint, outline=_dark(paint, 0.4), width=2
    )
    pen.rectangle(at.box(-0.21, 0.16, 0.21, 0.88), fill=(152, 214, 246))
    pen.polygon(
        at.points((-0.21, 0.5), (0.21, 0.82), (0.21, 0.88), (-0.21, 0.88)), fill=(196, 234, 252)
    )
    pen.ellipse(at.box(-0.06, 0.03, 0.06, 0.13), fill=_mix(paint, (128, 128, 128), 0.5))


def _car(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    edge = _dark(paint, 0.35)
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


def _ball(pen: ImageDraw.ImageDraw, at: _Frame, paint: Colour) -> None:
    line = _dark(paint, 0.45)
    pen.ellipse(at.box(-0.5, 0.0, 0.5, 1.0), fill=paint, outline=line, width=3)
    pen.arc(at.box(-1.15, 0.0, -0.1, 1.0), 300, 60, fill=line, width=4)
    pen.arc(at.box(0.1, 0.0, 1.15, 1.0), 120, 240, fill=line, width=4)
    pen.line(at.points((-0.5, 0.5), (0.5, 0.5)), fill=line, width=4)
    pen.ellipse(at.box(-0.28, 0.66, -0.08, 0.84), fill=_light(paint, 0.6))


_OBJECTS = {"trophy": _trophy, "mug": _mug, "phone": _phone, "car": _car, "ball": _ball}
_DRAWERS = {"person": _person, "sign": _sign, "landmark": _landmark, "item": _item}
