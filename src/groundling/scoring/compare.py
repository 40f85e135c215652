"""Two systems on the same posts: is one really better, or luckier?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundling.metrics import f1_scores, ratios
from groundling.records import TWITTER, Post, PostPrediction, Scheme
from groundling.scoring.align import align, align_pair
from groundling.scoring.isr import ROWS, isr_counts, judge_posts
from groundling.scoring.resample import Difference, mcnemar_exact, paired_difference
from groundling.scoring.rule import TripleRule, counted
from groundling.scoring.triples import task_units, triple_counts

METHOD = (
    "difference = this minus other, in points; p_value: two-sided approximate randomisation over "
    "posts; interval: 95 %, the same test turned round: it leaves out 0 where p_value < 0.05"
)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Queries that just one of two systems got right, and the exact two-sided p value."""

    only_this: int
    only_other: int

    @property
    def p_value(self) -> float:
        """See `resample.mcnemar_exact`."""
        return mcnemar_exact(self.only_this, self.only_other)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences by figure: `accuracy`, `largest`, `groundable`, `ungroundable`, or the tasks."""

    differences: Mapping[str, Difference]
    mcnemar: McNemar | None = None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values, differences in points with two decimals."""
        values: dict[str, Any] = {
            name: _difference_json(difference) for name, difference in self.differences.items()
        }
        if self.mcnemar is not None:
            values["mcnemar"] = {
                "only_this": self.mcnemar.only_this,
                "only_other": self.mcnemar.only_other,
                "p_value": float(f"{self.mcnemar.p_value:.4g}"),
            }
        return {**values, "method": METHOD}


def compare_isr(
    posts: Sequence[Post],
    this: Sequence[PostPrediction],
    other: Sequence[PostPrediction],
    *,
    resamples: int = 1000,
    seed: int = 0,
    scheme: Scheme = TWITTER,
) -> Comparison:
    """Compare accuracies (over all types) under the rule `isr`, and McNemar's test on queries."""
    judged = [judge_posts(align(posts, system)) for system in (this, other)]
    first, second = (isr_counts(verdicts, scheme)[:, :, -1] for verdicts in judged)
    differences = {
        row: paired_difference(first[:, i], second[:, i], ratios, resamples, seed)
        for i, row in enumerate(ROWS)
    }
    flat = [[verdict.right for post in verdicts for verdict in post] for verdicts in judged]
    pairs = list(zip(*flat, strict=True))
    return Comparison(differences, McNemar(pairs.count((True, False)), pairs.count((False, True))))


def compare_triples(
    posts: Sequence[Post],
    this: Sequence[PostPrediction],
    other: Sequence[PostPrediction],
    rule: TripleRule,
    *,
    resamples: int = 1000,
    seed: int = 0,
    scheme: Scheme = TWITTER,
) -> Comparison:
    """Compare F1 of GMNER, EEG and MNER under `rule`.

    EEG and MNER go by token span only where both systems carry spans. Predictions for posts that
    are not in `posts` count against their system in every resample.
    """
    this, other = (counted(rule, said, scheme) for said in (this, other))
    first, second = align_pair(posts, this, other)
    units = task_units(rule, first.spans_given and second.spans_given)
    counts = [triple_counts(side, rule, units) for side in (first, second)]
    return Comparison(
        {
            task.name: paired_difference(
                counts[0][:, column], counts[1][:, column], f1_scores, resamples, seed
            )
            for column, task in enumerate(units)
        }
    )


def _difference_json(difference: Difference) -> dict[str, Any]:
    pair = difference.interval
    value, p_value = difference.value, difference.p_value
    return {
        "difference": None if value is None else round(100 * value, 2),
        "interval": None if pair is None else [round(100 * end, 2) for end in pair],
        "p_value": None if p_value is None else float(f"{p_value:.4g}"),
    }
