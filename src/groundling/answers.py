"""Inference as the paper draws it (Figure 1b): words first, then a box, or neither."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from groundling.atomic import contents
from groundling.infer import map_batches
from groundling.models.base import GREEDY, ExpressionSampler, Grounder, Sampling
from groundling.progress import Progress
from groundling.records import (
    NO_PICTURE,
    Box,
    Entity,
    Expression,
    FailedEntity,
    Failure,
    Grounded,
    Post,
    PostPrediction,
    Prediction,
    Query,
)
from groundling.replies import ReplyError, spoken

T = TypeVar("T")

WRITE_CHUNK = 512
"""Queries a chunk of writing: what a kill can cost."""

GROUND_CHUNK = 512
"""Expressions a chunk of grounding."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was written for a query and where it led; `box` None means that it is absent."""

    expression: Expression
    box: Box | None
    score: float | None = None


def write_all(
    writer: ExpressionSampler,
    queries: Sequence[Query],
    k: int,
    sampling: Sampling,
    seed: int,
    source: str,
    folder: Path | None,
    progress: Progress | None = None,
) -> list[list[Expression] | Failure]:
    """K expressions a query, in chunks that survive a kill."""

    def run(_: int, chunk: Sequence[Query]) -> list[list[Expression] | Failure]:
        return writer.sample(chunk, k, sampling, seed, source)

    return map_batches(
        queries,
        run,
        chunk_size=WRITE_CHUNK,
        folder=folder,
        encode=lambda row: [[e.text, e.logprob] for e in row],
        decode=lambda row: [Expression(text, source, logprob) for text, logprob in row],
        context=f"{k} {sampling} {seed} {source}",
        about=_picture_of(lambda query: query.image),
        progress=progress,
    )


def ground_all(
    grounder: Grounder,
    requests: Sequence[tuple[str, str]],
    folder: Path | None,
    progress: Progress | None = None,
) -> dict[tuple[str, str], Grounded | Failure]:
    """A box for every distinct (image, expression); those of one picture go together."""
    by_image: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for request in dict.fromkeys(requests):
        by_image[request[0]].append(request)
    distinct = [request for group in by_image.values() for request in group]
    found = map_batches(
        distinct,
        lambda _, chunk: grounder.ground(chunk),
        chunk_size=GROUND_CHUNK,
        folder=folder,
        encode=lambda grounded: [*grounded.box.xyxy, grounded.score],
        decode=_grounded,
        about=_picture_of(lambda request: request[0]),
        progress=progress,
    )
    return dict(zip(distinct, found, strict=True))


def answer_queries(
    writer: ExpressionSampler,
    grounder: Grounder,
    queries: Sequence[Query],
    *,
    source: str,
    sampling: Sampling = GREEDY,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[Answer | Failure]:
    """Write the likeliest expression for each query and ground it, unless it says ABSENT."""
    parts = (None, None) if folder is None else (folder / "words", folder / "boxes")
    rows = write_all(writer, queries, 1, sampling, 0, source, parts[0], progress)
    written = [row if isinstance(row, Failure) else _said(row[0]) for row in rows]
    requests = [
        (query.image, expression.text)
        for query, expression in zip(queries, written, strict=True)
        if isinstance(expression, Expression) and not expression.absent
    ]
    boxes = ground_all(grounder, requests, parts[1])
    return [_answer(query, words, boxes) for query, words in zip(queries, written, strict=True)]


def predictions_of(
    posts: Sequence[Post], queries: Sequence[Query], answers: Sequence[Answer | Failure]
) -> list[PostPrediction]:
    """Answers gathered by post, failures beside them.

    Entities that were not asked about (their picture is missing) failed: never "absent".
    """
    by_query = dict(zip((query.id for query in queries), answers, strict=True))
    return [
        PostPrediction.of(
            post.id,
            (
                _of_entity(entity, by_query.get(query.id, NO_PICTURE))
                for query, entity in zip(post.queries(), post.entities, strict=True)
            ),
        )
        for post in posts
    ]


def _of_entity(entity: Entity, said: Answer | Failure) -> Prediction | FailedEntity:
    name, kind, start, end = entity.name, entity.type, entity.start, entity.end
    if isinstance(said, Failure):
        return FailedEntity(name, kind, said, start, end)
    return Prediction(name, kind, said.box, start, end, said.expression.text, said.score)


def _said(words: Expression) -> Expression | Failure:
    """A writer's words as they are grounded; a Failure where they decline or only think."""
    try:
        text = spoken(words.text)
    except ReplyError as fault:
        return fault.failure("write")
    return words if text == words.text else Expression(text, words.source)


def _answer(
    query: Query,
    words: Expression | Failure,
    boxes: dict[tuple[str, str], Grounded | Failure],
) -> Answer | Failure:
    if isinstance(words, Failure):
        return words
    if words.absent:
        return Answer(words, None)
    found = boxes[(query.image, words.text)]
    return found if isinstance(found, Failure) else Answer(words, found.box, found.score)


def _picture_of(path: Callable[[T], str]) -> Callable[[T], str]:
    """What is in an item's picture: another picture under the same name is another question."""
    seen = cache(contents)
    return lambda item: seen(path(item))


def _grounded(row: Any) -> Grounded:
    x1, y1, x2, y2, score = row
    return Grounded(Box(x1, y1, x2, y2), score)
