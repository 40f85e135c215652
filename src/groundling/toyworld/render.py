"""Draws a scene with Pillow: twice the size, then reduced, so that edges are smooth."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from groundling.toyworld.buildings import paint_landmark
from groundling.toyworld.logos import paint_sign
from groundling.toyworld.objects import paint_item
from groundling.toyworld.paint import SCALE, Colour, mix
from groundling.toyworld.people import paint_person
from groundling.toyworld.scene import SIZE_PX, WIDTH_SHARE, Figure, Scene, shape_of

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
        _PAINTERS[figure.kind](pen, figure)
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
    colour = mix(tint, (255, 255, 255), 0.6)
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


_PAINTERS = {
    "person": paint_person,
    "sign": paint_sign,
    "landmark": paint_landmark,
    "item": paint_item,
}
