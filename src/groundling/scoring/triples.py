"""Precision, recall and F1 of (name, type, box) triples under one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundling.metrics import Counts, Floats, f1_scores
from groundling.records import TWITTER, Post, PostPrediction, Scheme
from groundling.scoring.align import Alignment, align
from groundling.scoring.resample import Interval, bootstrap_sums, percentile_interval
from groundling.scoring.rule import GMNER, TASKS, Task, TripleRule, Unit, counted


@dataclass(frozen=True, slots=True)
class TaskScore:
    """Micro-averaged counts of one task, the 95 % interval of F1 (shares of 1), and the unit."""

    counts: Counts
    f1_interval: Interval | None
    unit: Unit

    def to_json(self) -> dict[str, Any]:
        """Percent with two decimals, and the counts behind them."""
        pair = self.f1_interval
        return {
            "precision": round(100 * self.counts.precision, 2),
            "recall": round(100 * self.counts.recall, 2),
            "f1": round(100 * self.counts.f1, 2),
            "right": self.counts.right,
            "predicted": self.counts.predicted,
            "gold": self.counts.gold,
            "f1_interval": None if pair is None else [round(100 * end, 2) for end in pair],
        }


@dataclass(frozen=True, slots=True)
class TripleScore:
    """GMNER, EEG and MNER under one rule.

    EEG and MNER compare token spans where every prediction carries them, else names; `by_name`
    repeats them by name where they were compared by span under a rule that itself compares names.
    """

    rule: TripleRule
    tasks: Mapping[str, TaskScore]
    by_name: Mapping[str, TaskScore]

    def to_json(self) -> dict[str, Any]:
        """The score as JSON values: percent with two decimals, and what mentions went by."""
        return {
            "rule": self.rule.name,
            **{name: task.to_json() for name, task in self.tasks.items()},
            "compared_by": {name: task.unit for name, task in self.tasks.items()},
            "by_name": {name: task.to_json() for name, task in self.by_name.items()},
        }


def score_triples(
    posts: Sequence[Post],
    predictions: Sequence[PostPrediction],
    rule: TripleRule,
    *,
    resamples: int = 1000,
    seed: int = 0,
    scheme: Scheme = TWITTER,
) -> TripleScore:
    """Score predictions by `rule`; `resamples` 0 leaves the intervals out (None).

    Predictions for posts that are not in `posts` count as wrong ones. Raises InputError where a
    post id occurs twice, and where the rule compares tokens and a gold entity has none.
    """
    if rule.unit == "span":
        for entity in (entity for post in posts for entity in post.entities):
            _ = entity.span
    aligned = align(posts, counted(rule, predictions, scheme))
    units = task_units(rule, aligned.spans_given)
    tasks = _score_tasks(aligned, rule, units, resamples, seed)
    again = {task: rule.unit for task in TASKS if units[task] != rule.unit == "name"}
    by_name = _score_tasks(aligned, rule, again, resamples, seed)
    return TripleScore(rule, tasks, by_name)


def task_units(rule: TripleRule, spans_given: bool) -> dict[Task, Unit]:
    """What each task compares mentions by: GMNER as the rule says, the others by span if given."""
    other: Unit = "span" if spans_given else "name"
    return {task: rule.unit if task is GMNER else other for task in TASKS}


def triple_counts(aligned: Alignment, rule: TripleRule, units: Mapping[Task, Unit]) -> Floats:
    """Per-post (right, predicted, gold) for each task of `units`: shape (posts, tasks, 3)."""
    posts = (*aligned.posts, *aligned.foreign)
    counts = np.zeros((len(posts), len(units), 3))
    for row, post in enumerate(posts):
        for column, (task, unit) in enumerate(units.items()):
            found = rule.count(post, task, unit)
            counts[row, column] = found.right, found.predicted, found.gold
    return counts


def _score_tasks(
    aligned: Alignment, rule: TripleRule, units: Mapping[Task, Unit], resamples: int, seed: int
) -> dict[str, TaskScore]:
    counts = triple_counts(aligned, rule, units)
    sums = counts.sum(axis=0).astype(int)
    intervals: list[Interval | None] = [None] * len(units)
    if units and resamples > 0 and counts.shape[0]:
        figures = f1_scores(bootstrap_sums(counts, resamples, seed))
        intervals = [percentile_interval(figures[:, column]) for column in range(len(units))]
    return {
        task.name: TaskScore(Counts(*map(int, sums[column])), intervals[column], unit)
        for column, (task, unit) in enumerate(units.items())
    }
