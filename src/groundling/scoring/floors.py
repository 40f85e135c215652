"""Answers that need no model: what a figure has to beat before it means anything.

`none`          every entity is absent.
`whole`         the whole picture, [1, 1, width, height], for every entity.
`mean-person`   for PER the average place of a person in the train split, for the rest absent.
`oracle-whole`  told by gold whether an entity is in the picture, then [0, 0, width, height].

A post whose picture size is not known gets no answer where a box is wanted, which is wrong. In
Twitter-GMNER only posts with a groundable entity have a recorded size, so an unknown size already
says "absent": floors may know that, models may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from groundling.records import TWITTER, Box, Entity, Post, PostPrediction, Prediction, Scheme
from groundling.scoring.isr import IsrScore, score_isr

Floor = Literal["none", "whole", "mean-person", "oracle-whole"]
FLOORS: tuple[Floor, ...] = ("none", "whole", "mean-person", "oracle-whole")

Sizes: TypeAlias = Mapping[str, tuple[int, int]]
"""Picture (width, height) in pixels by post id."""


def mean_person_norm(posts: Sequence[Post], sizes_wh_px: Sizes) -> Box | None:
    """The mean of the largest gold box of each PER entity, as fractions of its picture.

    One box for each groundable PER mention of a post of known size; None where there is none.
    """
    corners = [
        (box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height)
        for post in posts
        if (size := sizes_wh_px.get(post.id)) is not None
        for width, height in [size]
        for entity in post.entities
        if entity.type == "PER" and (box := entity.largest_box) is not None
    ]
    return Box(*np.mean(corners, axis=0).tolist()) if corners else None


def floor_predictions(
    floor: Floor, posts: Sequence[Post], sizes_wh_px: Sizes, person_norm: Box | None = None
) -> list[PostPrediction]:
    """What a floor answers, in the form of any other system's predictions.

    `person_norm` is `mean_person_norm` of the train split; without it `mean-person` answers no
    PER entity.
    """
    return [
        PostPrediction(post.id, tuple(_answers(floor, post, sizes_wh_px.get(post.id), person_norm)))
        for post in posts
    ]


def score_floors(
    posts: Sequence[Post], sizes_wh_px: Sizes, person_norm: Box | None, scheme: Scheme = TWITTER
) -> dict[Floor, IsrScore]:
    """Every floor under the rule `isr`, without intervals; no `mean-person` without its box."""
    return {
        floor: score_isr(
            posts,
            floor_predictions(floor, posts, sizes_wh_px, person_norm),
            resamples=0,
            scheme=scheme,
        )
        for floor in FLOORS
        if floor != "mean-person" or person_norm is not None
    }


def _answers(
    floor: Floor, post: Post, size_wh_px: tuple[int, int] | None, person_norm: Box | None
) -> Iterator[Prediction]:
    for entity in post.entities:
        if _says_absent(floor, entity):
            box = None
        elif size_wh_px is None:
            continue
        else:
            box = _floor_box(floor, size_wh_px, person_norm)
            if box is None:
                continue
        yield Prediction(entity.name, entity.type, box, entity.start, entity.end)


def _says_absent(floor: Floor, entity: Entity) -> bool:
    return (
        floor == "none"
        or (floor == "mean-person" and entity.type != "PER")
        or (floor == "oracle-whole" and not entity.groundable)
    )


def _floor_box(floor: Floor, size_wh_px: tuple[int, int], person_norm: Box | None) -> Box | None:
    width, height = size_wh_px
    if floor == "whole":
        return Box(1, 1, width, height)
    if floor == "oracle-whole":
        return Box(0, 0, width, height)
    if person_norm is None:
        return None
    x1, y1, x2, y2 = person_norm.xyxy
    return Box(x1 * width, y1 * height, x2 * width, y2 * height)
