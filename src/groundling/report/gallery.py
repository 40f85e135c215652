"""Test pictures before and after: what was won, what was lost, what stayed as it was.

Examples are drawn at random with the run's seed, never picked by hand, and losses have the same
room as wins.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from groundling.errors import GroundlingError, ImageError
from groundling.images import load_image
from groundling.records import Box, Entity, Post, PostPrediction, Prediction, Query
from groundling.report.record import Gold, Meaning, RunRecord
from groundling.scoring.isr import assign_answers, judge

SIDE_PX = 320
"""Longest side of an embedded picture."""
QUALITY = 85
WINDOW = 9
"""Tokens of the post shown on each side of the name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A group of examples, and how many of each sort it shows at most."""

    key: str
    title: str
    lead: str
    was_right: bool
    is_right: bool
    groundable: int
    absent: int


KINDS = (
    Kind("won", "Wrong, then right", "Answers that were won.", False, True, 4, 2),
    Kind("lost", "Right, then wrong", "Answers that were lost.", True, False, 4, 2),
    Kind("kept", "Right both times", "Answers that stayed right.", True, True, 2, 1),
    Kind("missed", "Wrong both times", "Answers that stayed wrong.", False, False, 2, 1),
)


MEANINGS = {
    "exact": "the words fit the entity alone",
    "ambiguous": "the words fit something else too",
    "wrong": "the words fit something else or nothing",
    "not understood": "the words are not understood",
}
"""What an expression's meaning in the scene is called beside an example."""


@dataclass(frozen=True, slots=True)
class Side:
    """One stage's answer to a query. `iou` is the best with any gold box."""

    right: bool
    expression: str | None
    absent: bool
    box: Box | None
    iou: float | None
    meaning: str | None
    failure: str | None = None

    @property
    def note(self) -> str:
        """What the words mean, where that is known, and whether the box is where they lead."""
        words = MEANINGS.get(self.meaning or "", "")
        if self.iou is None:
            return words
        box = f"the box {'fits' if self.right else 'misses it'} (IoU {self.iou:.2f})"
        if not words:
            return box
        opposed = (self.meaning == "exact") != self.right
        return f"{words}, {'but' if opposed else 'and'} {box}"


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its picture as a data URI, its gold boxes, and both answers."""

    query: Query
    groundable: bool
    text: tuple[str, str, str]
    picture: str
    size_wh_px: tuple[int, int]
    gold: tuple[Box, ...]
    before: Side
    after: Side

    def words(self, side: Side) -> str:
        """What the drawing of one side shows, for those who cannot see it."""
        where = "in the picture" if self.groundable else "not in the picture"
        said = "said to be absent" if side.absent else "no answer" if side.box is None else "boxed"
        verdict = "right" if side.right else "wrong"
        return f"{self.query.name} ({self.query.type}), {where}: {said}, {verdict}"


@dataclass(frozen=True, slots=True)
class Group:
    """The examples of one kind, out of `count` queries that are of it."""

    kind: Kind
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class _Query:
    """A test query with everything known about it but its picture."""

    post: Post
    entity: Entity
    query: Query
    before: Side
    after: Side


def gallery(record: RunRecord, before: str, after: str) -> tuple[Group, ...]:
    """Examples of every kind between two stages; empty where gold or answers are not at hand."""
    if record.gold is None:
        return ()
    try:
        systems = [record.predictions(name) for name in (before, after)]
        queries = list(_queries(record.gold, systems))
    except (GroundlingError, OSError):
        return ()
    groups = []
    for kind in KINDS:
        found = [
            query
            for query in queries
            if (query.before.right, query.after.right) == (kind.was_right, kind.is_right)
        ]
        rng = random.Random(f"{record.config['seed']} {kind.key}")
        groups.append(Group(kind, len(found), tuple(_draw(found, kind, rng))))
    return tuple(groups)


def _queries(gold: Gold, systems: Sequence[Sequence[PostPrediction]]) -> Iterator[_Query]:
    """Every test query with the answers of both systems."""
    sides = [_sides(gold, predictions) for predictions in systems]
    for post in gold.posts:
        for query, entity in zip(post.queries(), post.entities, strict=True):
            yield _Query(post, entity, query, *(answers[query.id] for answers in sides))


def _sides(gold: Gold, predictions: Sequence[PostPrediction]) -> dict[str, Side]:
    """One system's answer to each query, judged."""
    right = {verdict.query_id: verdict.right for verdict in judge(gold.posts, predictions)}
    said = {post.id: post for post in predictions}
    sides: dict[str, Side] = {}
    for post in gold.posts:
        found = said.get(post.id, PostPrediction(post.id))
        answers = assign_answers(post.entities, found.predictions)
        for query, entity, answer in zip(post.queries(), post.entities, answers, strict=True):
            if answer is None:
                reason = _why_none(found, entity)
                sides[query.id] = Side(False, None, False, None, None, None, reason)
            else:
                sides[query.id] = _side(query, entity, answer, right[query.id], gold.meaning)
    return sides


def _why_none(found: PostPrediction, entity: Entity) -> str:
    """Why an entity has no answer."""
    if found.failure is not None:
        return found.failure.reason
    for one in found.failed:
        placed = one.start is None or (one.start, one.end) == (entity.start, entity.end)
        if placed and one.name == entity.name:
            return one.failure.reason
    return "no answer"


def _side(
    query: Query, entity: Entity, answer: Prediction, right: bool, meaning: Meaning | None
) -> Side:
    box = answer.box
    iou = max(box.iou(gold) for gold in entity.boxes) if box and entity.boxes else None
    text = answer.expression
    says = meaning(query.id, text) if meaning and text and box and entity.groundable else None
    return Side(right, text, box is None, box, iou, says)


def _draw(found: Sequence[_Query], kind: Kind, rng: random.Random) -> Iterator[Example]:
    """Up to the wanted number of each sort, from different pictures; one may stand in for other."""
    order = rng.sample(list(found), len(found))
    wanted: Mapping[bool, int] = {True: kind.groundable, False: kind.absent}
    chosen: list[_Query] = []
    for groundable, room in wanted.items():
        sort = [query for query in order if query.entity.groundable is groundable]
        chosen += _apart(sort, room, chosen)
    rest = [query for query in order if query not in chosen]
    chosen += _apart(rest, sum(wanted.values()) - len(chosen), chosen)
    for query in sorted(chosen, key=lambda query: not query.entity.groundable):
        example = _example(query)
        if example is not None:
            yield example


def _apart(queries: Sequence[_Query], room: int, taken: Sequence[_Query]) -> list[_Query]:
    """The first `room` queries whose pictures are on disk and not used yet."""
    seen = {query.post.id for query in taken}
    picked: list[_Query] = []
    for query in queries:
        if len(picked) == room:
            break
        if query.post.image is not None and query.post.id not in seen:
            seen.add(query.post.id)
            picked.append(query)
    return picked


def _example(query: _Query) -> Example | None:
    """The query with its picture; None where that cannot be read."""
    try:
        picture, size = _embedded(str(query.post.image))
    except ImageError:
        return None
    return Example(
        query=query.query,
        groundable=query.entity.groundable,
        text=_context(query.post, query.entity),
        picture=picture,
        size_wh_px=size,
        gold=query.entity.boxes,
        before=query.before,
        after=query.after,
    )


def _embedded(path: str) -> tuple[str, tuple[int, int]]:
    """A picture as a data URI, made small enough for a page, and its size before that."""
    picture = load_image(path)
    size = picture.size
    picture.thumbnail((SIDE_PX, SIDE_PX))
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode(), size


def _context(post: Post, entity: Entity) -> tuple[str, str, str]:
    """The post's words before, of and after the name, cut at both ends."""
    if entity.start is None:
        return "", entity.name, ""
    tokens, (start, end) = post.tokens, entity.span
    first, last = max(0, start - WINDOW), min(len(tokens), end + WINDOW)
    before = ("… " if first else "") + " ".join(tokens[first:start])
    after = " ".join(tokens[end:last]) + (" …" if last < len(tokens) else "")
    return before, " ".join(tokens[start:end]), after
