from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageChops

from groundling.records import Box
from groundling.toyworld import identities as who
from groundling.toyworld.render import render
from groundling.toyworld.scene import (
    SIZE_PX,
    WIDTH_SHARE,
    Backdrop,
    Figure,
    Scene,
    draw_scene,
    emblem_box,
    figure_box,
    shape_of,
)

BACKDROP = Backdrop(2, 3, 130)
SHADOW_PX = 5
"""Half the height of a shadow, and a pixel for its smoothed edge."""
SLACK_PX = 3
"""How far an outline may stray from its box."""

PEOPLE = [
    Figure("person", who.Face(colour, style, beard, glasses, skin), shirt, emblem, 112, 205, 130)
    for (style, beard, glasses), colour, skin, shirt, emblem in zip(
        itertools.product(who.HAIR_STYLES, (False, True), (False, True)),
        itertools.cycle(who.HAIR_COLOURS),
        itertools.cycle(who.SKINS),
        itertools.cycle(who.SHIRTS),
        itertools.cycle((None, who.Emblem("star", "purple"))),
        strict=False,
    )
]
SIGNS = [
    Figure("sign", None, "white", who.Emblem(shape, colour), 112, 205, 100)
    for shape, colour in zip(who.SHAPES, itertools.cycle(who.EMBLEM_COLOURS), strict=False)
]
THINGS = [
    *(Figure("landmark", who.Landmark(k, "red"), None, None, 112, 205, 100) for k in who.LANDMARKS),
    *(Figure("item", who.Item(k, "blue"), None, None, 112, 205, 50) for k in who.ITEMS),
]


def changed(one: Scene, other: Scene) -> np.ndarray:
    """(S, S) bool: pixels that differ between the pictures of two scenes."""
    difference = ImageChops.difference(render(one), render(other))
    return np.asarray(difference).any(axis=-1)


def extent(pixels: np.ndarray) -> Box:
    """The box of the pixels that are set, counted from 1 like annotations."""
    rows, columns = np.nonzero(pixels)
    return Box(columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)


def without_shadow(pixels: np.ndarray, figure: Figure) -> np.ndarray:
    """`pixels` but for the ellipse at the figure's feet."""
    share = 0.3 if figure.kind == "sign" else WIDTH_SHARE[shape_of(figure)]
    half = figure.height * share * 0.55 + 1
    y, x = np.mgrid[1 : SIZE_PX + 1, 1 : SIZE_PX + 1]
    shade = (abs(x - figure.centre_x - 0.5) <= half + 1) & (abs(y - figure.base_y) <= SHADOW_PX)
    return pixels & ~shade


def inside(pixels: np.ndarray, box: Box, slack: float) -> bool:
    """Whether all pixels lie in the box, give or take `slack`."""
    found = extent(pixels)
    return bool(
        found.x1 >= box.x1 - slack
        and found.y1 >= box.y1 - slack
        and found.x2 <= box.x2 + slack
        and found.y2 <= box.y2 + slack
    )


def test_the_same_scene_gives_the_same_pixels() -> None:
    rng = np.random.default_rng(0)
    pictures = [draw_scene(rng, "train") for _ in range(10)]
    first = [render(scene).tobytes() for scene in pictures]
    assert [render(scene).tobytes() for scene in pictures] == first
    assert len(set(first)) == 10
    assert render(pictures[0]).size == (SIZE_PX, SIZE_PX)
    assert render(pictures[0]).mode == "RGB"


@pytest.mark.parametrize("figure", PEOPLE + THINGS, ids=lambda f: f"{shape_of(f)}-{f.look}")
def test_a_figure_is_where_its_box_says(figure: Figure) -> None:
    """With and without it, what changes lies in its box, fills it, and else is its shadow."""
    pixels = changed(Scene((figure,), BACKDROP), Scene((), BACKDROP))
    box = figure_box(figure)
    own = without_shadow(pixels, figure)
    assert inside(own, box, SLACK_PX)
    above = replace(box, y2=figure.base_y - SHADOW_PX)
    assert extent(own).iou(above) > 0.8
    shadow = pixels & ~own
    assert abs(extent(shadow).y2 - figure.base_y) <= SHADOW_PX


@pytest.mark.parametrize("figure", SIGNS, ids=lambda f: f.emblem.shape)
def test_a_sign_is_its_board_and_a_pole(figure: Figure) -> None:
    own = without_shadow(changed(Scene((figure,), BACKDROP), Scene((), BACKDROP)), figure)
    board = emblem_box(figure)
    y, x = np.mgrid[1 : SIZE_PX + 1, 1 : SIZE_PX + 1]
    pole = (abs(x - figure.centre_x) <= 0.035 * figure.height + 2) & (y > board.y2)
    assert inside(own & ~pole, board, 1)
    assert extent(own & ~pole).iou(board) > 0.9
    assert (own & pole).any()


@pytest.mark.parametrize("shape", who.SHAPES)
@pytest.mark.parametrize("kind", ["person", "sign"])
def test_a_logo_is_where_its_box_says(kind: str, shape: str) -> None:
    worn = who.Emblem(shape, "purple")
    figure = replace(PEOPLE[0] if kind == "person" else SIGNS[0], cloth="white", emblem=worn)
    other = replace(figure, emblem=replace(worn, colour="black"))
    pixels = changed(Scene((figure,), BACKDROP), Scene((other,), BACKDROP))
    assert inside(pixels, emblem_box(figure), 1)
    assert extent(pixels).iou(emblem_box(figure)) > (0.5 if kind == "person" else 0.2)


@pytest.mark.parametrize(
    ("figure", "look"),
    [
        (PEOPLE[0], {"hair_colour": "red"}),
        (PEOPLE[0], {"hair_style": "long"}),
        (PEOPLE[0], {"hair_style": "bun"}),
        (PEOPLE[0], {"hair_style": "curly"}),
        (PEOPLE[0], {"beard": True}),
        (PEOPLE[0], {"glasses": True}),
        (PEOPLE[0], {"skin": "dark"}),
        (THINGS[0], {"colour": "green"}),
        (THINGS[-1], {"colour": "green"}),
    ],
)
def test_every_feature_shows(figure: Figure, look: dict[str, object]) -> None:
    """What a name or an expression can hang on can be seen, within the figure's own box."""
    assert figure.look is not None
    other = replace(figure, look=replace(figure.look, **look))
    pixels = changed(Scene((figure,), BACKDROP), Scene((other,), BACKDROP))
    assert pixels.sum() > 30
    assert inside(pixels, figure_box(figure), SLACK_PX)


def test_every_colour_can_be_told_apart() -> None:
    """No two shirts, boards, landmarks or items of different colours are painted alike."""
    for figure, field, colours in (
        (PEOPLE[0], "cloth", who.SHIRTS),
        (SIGNS[0], "cloth", ("white", "yellow", "blue", "green")),
    ):
        figures = [replace(figure, **{field: colour}) for colour in colours]
        assert len({render(Scene((f,), BACKDROP)).tobytes() for f in figures}) == len(colours)
    for figure, colours in ((THINGS[0], who.LANDMARK_COLOURS), (THINGS[-1], who.ITEM_COLOURS)):
        assert isinstance(figure.look, who.Landmark | who.Item)
        figures = [replace(figure, look=replace(figure.look, colour=c)) for c in colours]
        assert len({render(Scene((f,), BACKDROP)).tobytes() for f in figures}) == len(colours)


def test_figures_in_company_stand_where_their_boxes_say() -> None:
    """In drawn scenes too: taking the last figure away changes its box and its shadow only."""
    rng = np.random.default_rng(6)
    for _ in range(25):
        scene = draw_scene(rng, "test")
        last = scene.figures[-1]
        less = Scene(scene.figures[:-1], scene.backdrop)
        own = without_shadow(changed(scene, less), last)
        box = emblem_box(last) if last.kind == "sign" else figure_box(last)
        if last.kind == "sign":
            own[int(box.y2) :] = False  # the pole
        assert inside(own, box, SLACK_PX)
