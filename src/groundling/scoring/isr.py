"""The rule of ISR §4.1: entity grounding accuracy over given gold entities, Acc@0.5.

Each gold entity is a query. If it is in the picture, an answer is right iff its box has IoU > 0.5
with the gold box; otherwise it is right iff the answer is "absent". Where an entity has several
gold boxes the paper does not say which one counts, so two figures are given: `any` of them (the
headline) and the `largest` (its footnote 2). No answer is a wrong answer, also for entities that
are not in the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from groundling.errors import InputError
from groundling.metrics import Floats, Ratio, ratios
from groundling.records import (
    TWITTER,
    Entity,
    EntityType,
    Post,
    PostPrediction,
    Prediction,
    Scheme,
)
from groundling.scoring.align import Alignment, align, carries_span
from groundling.scoring.match import link_agrees
from groundling.scoring.resample import Interval, bootstrap_sums, percentile_interval

GoldBoxes = Literal["any", "largest"]
ROWS = ("accuracy", "largest", "groundable", "ungroundable")
SUMMARY = "IoU > 0.5 with any gold box, or absent when there is none; gold entities given"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One query's verdict. `right` counts any gold box, `right_largest` only the largest."""

    query_id: str
    type: EntityType
    groundable: bool
    answered: bool
    right: bool
    right_largest: bool


@dataclass(frozen=True, slots=True)
class IsrScore:
    """Acc@0.5 by type of the scheme and in `all`, with 95 % intervals over posts (shares of 1).

    `groundable` and `ungroundable` split `accuracy` by gold. `always_absent` is the floor of a
    system that never finds anything: a gain must show on groundable queries. `unanswered` counts
    gold entities without an answer, `unused` predictions that answer no gold entity.
    """

    accuracy: Mapping[str, Ratio]
    largest: Mapping[str, Ratio]
    groundable: Mapping[str, Ratio]
    ungroundable: Mapping[str, Ratio]
    always_absent: Mapping[str, Ratio]
    interval: Mapping[str, Interval | None]
    unanswered: int
    unused: int

    def to_json(self) -> dict[str, Any]:
        """The score as JSON values: percent with two decimals, null where nothing was asked."""
        table = {row: _percents(getattr(self, row)) for row in ROWS}
        total = self.accuracy["all"]
        return {
            "rule": "isr",
            **table,
            "interval": {name: _percent_pair(pair) for name, pair in self.interval.items()},
            "floors": {"none": _percents(self.always_absent)},
            "right": total.right,
            "queries": total.total,
            "unanswered": self.unanswered,
            "unused": self.unused,
        }


def assign_answers(
    entities: Sequence[Entity], predictions: Sequence[Prediction]
) -> list[Prediction | None]:
    """The prediction that answers each gold entity, or None.

    A prediction answers an entity of the same name; where both carry `start` and `end` they must
    name the same tokens too. Its type does not matter: it is given. Each prediction is used once,
    in order, those with tokens first. So repeated names need an answer each, and where an entity is
    answered twice the first answer counts and the other is unused.
    """
    answers: list[Prediction | None] = [None] * len(entities)
    left = list(predictions)
    for fits in (_same_tokens, _same_name):
        left = [answer for answer in left if not _place(answer, entities, answers, fits)]
        if not left:
            break
    return answers


def judge(posts: Sequence[Post], predictions: Sequence[PostPrediction]) -> list[Judgement]:
    """One verdict for each gold entity, in order of `posts`. Raises InputError as `align` does."""
    return [verdict for post in judge_posts(align(posts, predictions)) for verdict in post]


def isr_correct(
    posts: Sequence[Post],
    predictions: Sequence[PostPrediction],
    *,
    boxes: GoldBoxes = "any",
) -> dict[str, bool]:
    """Whether each query was answered rightly, by query id, in order of `posts`."""
    return {
        verdict.query_id: verdict.right if boxes == "any" else verdict.right_largest
        for verdict in judge(posts, predictions)
    }


def score_isr(
    posts: Sequence[Post],
    predictions: Sequence[PostPrediction],
    *,
    resamples: int = 1000,
    seed: int = 0,
    scheme: Scheme = TWITTER,
) -> IsrScore:
    """Score predictions by the rule of ISR §4.1; `resamples` 0 leaves the intervals out (None).

    Predictions for posts that are not in `posts` answer no query and count as unused.
    Raises InputError where a post id occurs twice or a gold type is none of the scheme's.
    """
    aligned = align(posts, predictions)
    verdicts = judge_posts(aligned)
    columns = (*scheme.types, "all")
    counts = isr_counts(verdicts, scheme)
    sums = counts.sum(axis=0).astype(int)
    rows = {
        row: {
            column: Ratio(int(sums[i, j, 0]), int(sums[i, j, 1]))
            for j, column in enumerate(columns)
        }
        for i, row in enumerate(ROWS)
    }
    absent = {
        column: Ratio(rows["ungroundable"][column].total, rows["accuracy"][column].total)
        for column in columns
    }
    answered = sum(verdict.answered for post in verdicts for verdict in post)
    said = sum(len(post.predictions or ()) for post in (*aligned.posts, *aligned.foreign))
    return IsrScore(
        accuracy=rows["accuracy"],
        largest=rows["largest"],
        groundable=rows["groundable"],
        ungroundable=rows["ungroundable"],
        always_absent=absent,
        interval=_intervals(counts, columns, resamples, seed),
        unanswered=rows["accuracy"]["all"].total - answered,
        unused=said - answered,
    )


def isr_counts(verdicts: Sequence[Sequence[Judgement]], scheme: Scheme = TWITTER) -> Floats:
    """Per-post (right, total) for each of ROWS, by type and in all: (posts, 4, types + 1, 2)."""
    column_of = {kind: column for column, kind in enumerate(scheme.types)}
    cells: list[tuple[int, int, int, int]] = []
    for post, judged in enumerate(verdicts):
        for verdict in judged:
            if verdict.type not in column_of:
                fault = f"entity {verdict.query_id} has type {verdict.type!r}"
                raise InputError(f"{fault}; wanted those of scheme {scheme.name}")
            column = column_of[verdict.type]
            part = 2 if verdict.groundable else 3
            cells.append((post, 0, column, verdict.right))
            cells.append((post, 1, column, verdict.right_largest))
            cells.append((post, part, column, verdict.right))
    counts = np.zeros((len(verdicts), len(ROWS), len(column_of) + 1, 2))
    if cells:
        post_index, row, column_index, right = np.array(cells).T
        np.add.at(counts, (post_index, row, column_index, 0), right)
        np.add.at(counts, (post_index, row, column_index, 1), 1)
    counts[:, :, -1] = counts[:, :, :-1].sum(axis=2)
    return counts


def judge_posts(aligned: Alignment) -> list[list[Judgement]]:
    """The verdicts of each gold post, in order; predictions for other posts are not looked at."""
    judged: list[list[Judgement]] = []
    for post in aligned.posts:
        answers = assign_answers(post.gold, post.predictions or ())
        judged.append(
            [
                _judge_entity(f"{post.id}#{index}", entity, answer)
                for index, (entity, answer) in enumerate(zip(post.gold, answers, strict=True))
            ]
        )
    return judged


def _judge_entity(query_id: str, entity: Entity, answer: Prediction | None) -> Judgement:
    right = right_largest = False
    if answer is not None:
        right = link_agrees(answer.box, entity.gold_boxes, strict=True)
        largest = entity.largest_box
        right_largest = link_agrees(answer.box, () if largest is None else (largest,), strict=True)
    return Judgement(
        query_id, entity.type, entity.groundable, answer is not None, right, right_largest
    )


def _place(
    answer: Prediction,
    entities: Sequence[Entity],
    answers: list[Prediction | None],
    fits: Callable[[Prediction, Entity], bool],
) -> bool:
    """Give an answer to the first unanswered entity that it fits; whether there was one."""
    for index, entity in enumerate(entities):
        if answers[index] is None and fits(answer, entity):
            answers[index] = answer
            return True
    return False


def _same_tokens(answer: Prediction, entity: Entity) -> bool:
    return (answer.name, answer.start, answer.end) == (entity.name, entity.start, entity.end)


def _same_name(answer: Prediction, entity: Entity) -> bool:
    return answer.name == entity.name and not (carries_span(answer) and carries_span(entity))


def _intervals(
    counts: Floats, columns: Sequence[str], resamples: int, seed: int
) -> dict[str, Interval | None]:
    """Intervals of every accuracy by type, and of the other rows over all types."""
    names = (*columns, *ROWS[1:])
    if resamples < 1 or not counts.shape[0]:
        return dict.fromkeys(names)
    figures = ratios(bootstrap_sums(counts, resamples, seed))
    by_name = {column: figures[:, 0, j] for j, column in enumerate(columns)}
    by_name |= {row: figures[:, i, -1] for i, row in enumerate(ROWS) if i}
    return {name: percentile_interval(by_name[name]) for name in names}


def _percents(row: Mapping[str, Ratio]) -> dict[str, float | None]:
    return {column: ratio.percent for column, ratio in row.items()}


def _percent_pair(pair: Interval | None) -> list[float] | None:
    return None if pair is None else [round(100 * end, 2) for end in pair]
