"""Gold of one annotator as predictions, to be scored against another's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from groundling.records import Box, Entity, Post, PostPrediction, Prediction

PredBoxes = Literal["largest", "all"]


def as_predictions(posts: Iterable[Post], boxes: PredBoxes = "largest") -> list[PostPrediction]:
    """Every entity as an answer with its largest box, or with `all` as one for each of its boxes.

    An entity without boxes is an answer that it is absent.
    """
    return [
        PostPrediction(
            post.id,
            tuple(
                Prediction(entity.name, entity.type, box, entity.start, entity.end)
                for entity in post.entities
                for box in _answers(entity, boxes)
            ),
        )
        for post in posts
    ]


def _answers(entity: Entity, boxes: PredBoxes) -> Iterator[Box | None]:
    if boxes == "all" and entity.boxes:
        yield from entity.boxes
    else:
        yield entity.largest_box
