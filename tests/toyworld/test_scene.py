from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from groundling.toyworld import identities as who
from groundling.toyworld.posts import draw_posts
from groundling.toyworld.scene import (
    SIZE_PX,
    Backdrop,
    Figure,
    Pool,
    Scene,
    draw_scene,
    emblem_box,
    figure_box,
)

POOLS: tuple[Pool, ...] = get_args(Pool)
BACKDROP = Backdrop(sky=0, ground=0, horizon=130)
MARA = Figure("person", who.PEOPLE["Mara Quill"], "blue", None, 60, 200, 120)
SIGN = Figure("sign", None, "white", who.ORGANISATIONS["Novalis"], 160, 200, 90)


def scenes(pool: Pool, seed: int, count: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, pool) for _ in range(count)]


def test_what_the_models_were_pretrained_on_never_meets_a_post() -> None:
    """Four seeds on either side, each against each."""
    pretraining = {s.key() for seed in range(4) for s in scenes("pretraining", seed, 250)}
    assert len(pretraining) > 900
    keys = {
        split: {drawn.scene.key() for seed in range(4) for drawn in draw_posts(split, 300, seed)}
        for split in ("train", "dev", "test")
    }
    assert all(len(found) > 300 for found in keys.values())
    assert not pretraining & set.union(*keys.values())
    assert not keys["train"] & keys["dev"]
    assert not keys["train"] & keys["test"]
    assert not keys["dev"] & keys["test"]


@pytest.mark.parametrize("pool", POOLS)
def test_a_scene_is_drawn_from_the_pool_asked_for(pool: Pool) -> None:
    assert {scene.pool() for scene in scenes(pool, 7, 40)} == {pool}


def test_the_key_is_that_of_the_composition() -> None:
    """It decides which pool a scene is in; the shipped models rely on its very value."""
    scene = Scene((MARA, SIGN), BACKDROP)
    assert scene.key() == "81c274c08da04461f3b9479833e0ca7ed130f8432719bbd5c36ac00902507d62"
    assert scene.pool() == "pretraining"


@pytest.mark.parametrize("field", ["centre_x", "base_y", "height"])
def test_jitter_and_backdrop_do_not_count(field: str) -> None:
    scene = Scene((MARA, SIGN), BACKDROP)
    moved = replace(SIGN, **{field: getattr(SIGN, field) + 3})
    assert Scene((MARA, moved), Backdrop(5, 4, 140)).key() == scene.key()


@pytest.mark.parametrize(
    "figures",
    [
        (SIGN, MARA),
        (MARA,),
        (replace(MARA, cloth="red"), SIGN),
        (replace(MARA, look=who.PEOPLE["Tobin Ash"]), SIGN),
        (replace(MARA, emblem=who.ORGANISATIONS["Novalis"]), SIGN),
        (MARA, replace(SIGN, emblem=who.ORGANISATIONS["Brightforge"])),
        (MARA, replace(SIGN, cloth="blue")),
    ],
)
def test_whoever_stands_there_counts(figures: tuple[Figure, ...]) -> None:
    assert Scene(figures, BACKDROP).key() != Scene((MARA, SIGN), BACKDROP).key()


def test_another_seed_draws_other_scenes() -> None:
    first, again, other = scenes("train", 1, 30), scenes("train", 1, 30), scenes("train", 2, 30)
    assert first == again
    assert not {scene.key() for scene in first} & {scene.key() for scene in other}


def test_scenes_are_what_their_annotations_say() -> None:
    """Boxes lie inside the picture, in whole pixels from 1; figures go from left to right."""
    for scene in scenes("test", 3, 300):
        assert 2 <= len(scene.figures) <= 4
        centres = [figure.centre_x for figure in scene.figures]
        assert centres == sorted(centres)
        assert [r.figure for r in scene.referents()] == sorted(r.figure for r in scene.referents())
        for referent in scene.referents():
            box = referent.box
            assert all(value == int(value) for value in box.xyxy)
            assert 1 <= box.x1 < box.x2 <= SIZE_PX
            assert 1 <= box.y1 < box.y2 <= SIZE_PX
        looks = [f.look for f in scene.figures if f.look is not None]
        assert len(looks) == len(set(looks))  # no doubles: a name means one figure


def test_a_scene_has_a_referent_for_every_figure_and_every_logo() -> None:
    worn = replace(MARA, emblem=who.ORGANISATIONS["Medora"])
    found = Scene((worn, SIGN), BACKDROP).referents()
    assert [(r.kind, r.figure, r.name) for r in found] == [
        ("person", 0, "Mara Quill"),
        ("logo", 0, "Medora"),
        ("logo", 1, "Novalis"),
    ]
    assert [r.box for r in found] == [figure_box(worn), emblem_box(worn), emblem_box(SIGN)]
    stranger = replace(MARA, look=who.Face("grey", "bun", True, True, "tan"))
    assert Scene((stranger,), BACKDROP).referents()[0].name is None
