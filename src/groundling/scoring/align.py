"""Puts what was predicted beside the gold posts, and says what is missing on either side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from groundling.errors import InputError
from groundling.records import Entity, Post, PostPrediction, Prediction


@dataclass(frozen=True, slots=True)
class AnsweredPost:
    """One post's gold entities and predictions.

    `predictions` None: nothing was said of this post, because it is absent from the file or its
    record is an error, or because every entity in it is one. That is a wrong answer under every
    rule; an empty tuple is an answer. Entities with an error are no predictions.
    """

    id: str
    gold: tuple[Entity, ...]
    predictions: tuple[Prediction, ...] | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """Every gold post in order with its predictions, then posts that only the predictions have."""

    posts: tuple[AnsweredPost, ...]
    foreign: tuple[AnsweredPost, ...]
    absent: int
    failed: int

    @property
    def predictions(self) -> Iterator[Prediction]:
        """Every prediction, those for foreign posts too."""
        for post in (*self.posts, *self.foreign):
            yield from post.predictions or ()

    @property
    def spanless(self) -> int:
        """How many predictions do not carry both `start` and `end`."""
        return sum(not carries_span(prediction) for prediction in self.predictions)

    @property
    def spans_given(self) -> bool:
        """Whether there are predictions, and they and all of gold carry `start` and `end`."""
        if self.spanless or not any(True for _ in self.predictions):
            return False
        return all(carries_span(entity) for post in self.posts for entity in post.gold)


def carries_span(mention: Prediction | Entity) -> bool:
    """Whether a mention says which tokens it means: both `start` and `end`."""
    return mention.start is not None and mention.end is not None


def align(posts: Sequence[Post], predictions: Sequence[PostPrediction]) -> Alignment:
    """Pair gold posts with predictions by post id.

    Raises InputError where an id occurs twice on either side: no rule says which one counts.
    """
    said: dict[str, PostPrediction] = {}
    for prediction in predictions:
        if prediction.id in said:
            raise InputError(f"post {prediction.id!r} is predicted twice; keep one line a post")
        said[prediction.id] = prediction
    rows: list[AnsweredPost] = []
    absent = failed = 0
    for post in posts:
        answer = said.pop(post.id, None)
        if answer is None:
            absent += 1
        elif answer.silent:
            failed += 1
        spoken = answer is not None and not answer.silent
        rows.append(
            AnsweredPost(post.id, post.entities, answer.predictions if spoken and answer else None)
        )
    if len({post.id for post in posts}) != len(rows):
        raise InputError("a post id occurs twice in the gold posts; ids must be unique")
    foreign = tuple(
        AnsweredPost(extra.id, (), extra.predictions) for extra in said.values() if not extra.silent
    )
    return Alignment(tuple(rows), foreign, absent, failed)


def align_pair(
    posts: Sequence[Post], first: Sequence[PostPrediction], second: Sequence[PostPrediction]
) -> tuple[Alignment, Alignment]:
    """Align two systems so that their rows, foreign posts too, stand for the same posts."""
    pair = align(posts, first), align(posts, second)
    ids = list(dict.fromkeys(post.id for side in pair for post in side.foreign))
    left, right = (_with_foreign(side, ids) for side in pair)
    return left, right


def _with_foreign(side: Alignment, ids: Sequence[str]) -> Alignment:
    said = {post.id: post for post in side.foreign}
    rows = tuple(said.get(post_id) or AnsweredPost(post_id, (), None) for post_id in ids)
    return replace(side, foreign=rows)
