"""Ways to ground the mentions of posts: none, ISR, directly, by solved examples, or two together.

Each takes mentions with their posts and says of each where it is in the post's picture, or that it
is not there. What it finds out it keeps in a folder of its own, so that a stopped run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from groundling.answers import Answer, answer_queries
from groundling.atomic import contents
from groundling.infer import map_batches
from groundling.models.base import GREEDY, DirectGrounder, ExpressionSampler, Grounder, Sampling
from groundling.progress import Progress
from groundling.records import (
    NO_PICTURE,
    Box,
    EntityType,
    FailedEntity,
    Failure,
    Mention,
    Post,
    PostPrediction,
    Prediction,
    Query,
)

Item = tuple[Post, Mention]

CHUNK = 64
"""Mentions a chunk of direct grounding: what a kill can cost."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a mention is (`box` in original pixels), or that it is not in the picture (None).

    `expression` are the words that led there, `score` a confidence in [0, 1], where there are any.
    `lost` says why another way, asked too, gave no answer.
    """

    box: Box | None
    expression: str | None = None
    score: float | None = None
    lost: Failure | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a way came to: `located` says of each mention, in order, where it is.

    `outcomes` are those of the questions: one a mention that was asked about, two where two ways
    were asked. `left_out` says why examples were not shown, by the paths of their pictures.
    """

    located: list[Located | Failure]
    outcomes: list[Located | Failure]
    left_out: dict[str, str] = field(default_factory=dict)


class Grounding(Protocol):
    """A way to ground mentions."""

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """Where each mention is; what has been found out is kept in the folder `work`."""
        ...


class NoGrounding:
    """Nothing is ever in a picture: the `-None` rows of published tables. No picture is needed."""

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """None for every mention; nobody is asked."""
        del work
        if progress is not None:
            progress.advance(len(items))
        return Found([Located(None) for _ in items], [])


class Exempting:
    """Another way, but for types that are never in a picture: about those nobody is asked."""

    def __init__(self, way: Grounding, never: Sequence[EntityType]) -> None:
        self._way, self._never = way, frozenset(never)

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """See `Grounding`."""
        asked = [item for item in items if item[1].type not in self._never]
        if progress is not None:
            progress.skip(len(items) - len(asked))
        found = self._way.locate(asked, work, progress)
        answers = iter(found.located)
        located = [
            Located(None) if mention.type in self._never else next(answers) for _, mention in items
        ]
        return replace(found, located=located)


class IsrGrounding:
    """A writer's words, then a grounder's box (ISR §4.3).

    `name` tells these models from others that may be at work in the same folder.
    """

    def __init__(
        self,
        writer: ExpressionSampler,
        grounder: Grounder,
        source: str,
        max_new_tokens: int,
        name: str = "",
    ) -> None:
        self._writer, self._grounder, self._source = writer, grounder, source
        self._name = name
        self._sampling = Sampling(GREEDY.temperature, max_new_tokens)

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """See `Grounding`."""
        places, queries = _queries(items)
        answers = answer_queries(
            self._writer,
            self._grounder,
            queries,
            source=self._source,
            sampling=self._sampling,
            folder=work / self._name,
            progress=progress,
        )
        return spread(len(items), places, [*map(_of_answer, answers)])


class DirectGrounding:
    """A model that answers with boxes (prompt A.3).

    `name` tells it, and how its boxes are read, from others that may be at work in the same folder.
    """

    def __init__(self, grounder: DirectGrounder, name: str) -> None:
        self._grounder, self._name = grounder, name

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """See `Grounding`."""

        def run(_: int, chunk: Sequence[Query]) -> list[Located | Failure]:
            found = dict(self._grounder.answer(chunk))
            return [_of_prediction(found[place]) for place in range(len(chunk))]

        places, queries = _queries(items)
        answers = map_batches(
            queries,
            run,
            chunk_size=CHUNK,
            folder=work,
            encode=lambda one: [one.box and list(one.box.xyxy), one.score],
            decode=lambda row: Located(row[0] and Box(*row[0]), None, row[1]),
            context=self._name,
            about=lambda query: contents(query.image),
            progress=progress,
        )
        return spread(len(items), places, answers)


class Agreement:
    """Two ways at once: where both agree the first one's answer, surely; else the preferred one's.

    They agree where both say that a mention is absent, and where their boxes overlap with
    IoU > 0.5. `score` is 1 where they agree and 0.5 where not. Where one fails the other's answer
    stands, with score 0.5 and the failure beside it; where both fail so does the mention. How ISR
    and in-context examples are to be combined is not published: this is ours.
    """

    def __init__(self, first: Grounding, second: Grounding, prefer_second: bool = False) -> None:
        self._ways = (first, second)
        self._preferred = int(prefer_second)

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """See `Grounding`."""
        if progress is not None:
            progress.expect(len(items))
        one, two = (
            way.locate(items, work / name, progress)
            for way, name in zip(self._ways, ("first", "second"), strict=True)
        )
        return Found(
            [self._combined(*pair) for pair in zip(one.located, two.located, strict=True)],
            one.outcomes + two.outcomes,
            one.left_out | two.left_out,
        )

    def _combined(self, one: Located | Failure, two: Located | Failure) -> Located | Failure:
        if isinstance(one, Failure):
            return two if isinstance(two, Failure) else replace(two, score=0.5, lost=one)
        if isinstance(two, Failure):
            return replace(one, score=0.5, lost=two)
        if agree(one.box, two.box):
            return replace(one, score=1.0)
        return replace((one, two)[self._preferred], score=0.5)


def agree(one: Box | None, two: Box | None) -> bool:
    """Whether two answers mean the same: both absent, or boxes with IoU > 0.5."""
    if one is None or two is None:
        return one is two
    return one.iou(two) > 0.5


def predictions_of(
    posts: Sequence[Post],
    mentions: Mapping[str, Sequence[Mention]],
    located: Mapping[tuple[str, int], Located | Failure],
) -> dict[str, PostPrediction]:
    """Each post's triples, and its mentions that failed."""
    return {
        post.id: PostPrediction.of(
            post.id,
            (
                _of_mention(post, mention, located[post.id, place])
                for place, mention in enumerate(mentions[post.id])
            ),
        )
        for post in posts
    }


def _of_mention(post: Post, mention: Mention, one: Located | Failure) -> Prediction | FailedEntity:
    name, kind, start, end = name_of(post, mention), mention.type, mention.start, mention.end
    if isinstance(one, Failure):
        return FailedEntity(name, kind, one, start, end)
    return Prediction(name, kind, one.box, start, end, one.expression, one.score)


def name_of(post: Post, mention: Mention) -> str:
    """The mention's tokens, joined by single spaces."""
    return " ".join(post.tokens[mention.start : mention.end])


def _queries(items: Sequence[Item]) -> tuple[list[int], list[Query]]:
    """A query for each mention whose post has a picture, and its place among the items."""
    found = [
        (place, Query(f"{post.id}#{m.start}-{m.end}", post.image, name_of(post, m), m.type))
        for place, (post, m) in enumerate(items)
        if post.image is not None
    ]
    return [place for place, _ in found], [query for _, query in found]


def spread(count: int, places: Sequence[int], outcomes: list[Located | Failure]) -> Found:
    """The outcomes of questions at their places among `count` mentions; others have no picture."""
    row: list[Located | Failure] = [NO_PICTURE] * count
    for place, one in zip(places, outcomes, strict=True):
        row[place] = one
    return Found(row, outcomes)


def _of_answer(answer: Answer | Failure) -> Located | Failure:
    if isinstance(answer, Failure):
        return answer
    return Located(answer.box, answer.expression.text, answer.score)


def _of_prediction(prediction: Prediction | Failure) -> Located | Failure:
    if isinstance(prediction, Failure):
        return prediction
    return Located(prediction.box, None, prediction.score)
