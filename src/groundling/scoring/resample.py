"""How sure a figure is: intervals and paired tests that resample whole posts.

Entities of one post share a picture and a text, so the post is the unit that is drawn (a cluster
bootstrap). Every function takes counts per post and a seed; the same seed gives the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from groundling.metrics import Floats

Interval: TypeAlias = tuple[float, float]
Statistic: TypeAlias = Callable[[Floats], Floats]
"""Counts (..., k) → figures (...), nan where a figure is undefined."""

LEVEL = 0.95
_ROUNDING = 1e-12
"""Below this, differences are equal."""
_CELLS = 2_000_000
"""Draws held in memory at a time, about 50 MB."""


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second system: the difference and its 95 % interval (both shares of 1).

    The interval leaves out 0 exactly where `p_value` is below 0.05.
    `p_value` is two-sided, for "the two systems are exchangeable, post by post".
    """

    value: float | None
    interval: Interval | None
    p_value: float | None


def bootstrap_sums(counts: Floats, resamples: int, seed: int) -> Floats:
    """Sums of per-post counts over posts drawn with replacement: (P, …) → (resamples, …)."""
    posts = counts.shape[0]
    table = counts.reshape(posts, -1)
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, table.shape[1]))
    for rows in _chunks(resamples, posts):
        drawn = rng.integers(posts, size=(len(rows), posts), dtype=np.int64)
        drawn += posts * np.arange(len(rows))[:, None]
        times = np.bincount(drawn.ravel(), minlength=len(rows) * posts)
        sums[rows.start : rows.stop] = times.reshape(len(rows), posts).astype(float) @ table
    return sums.reshape(resamples, *counts.shape[1:])


def percentile_interval(figures: npt.ArrayLike) -> Interval | None:
    """The middle 95 % of resampled figures; undefined ones are left out, None if all are."""
    values = np.asarray(figures, dtype=float)
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def paired_difference(
    first: Floats, second: Floats, statistic: Statistic, rounds: int, seed: int
) -> Difference:
    """Compare two systems on the same posts; `first` and `second` are per-post counts (P, k).

    p value: approximate randomisation (Noreen 1989), swapping the systems' answers for each post by
    a fair coin and counting differences at least as large as the one seen; (1 + hits) / (1 +
    rounds). Interval: the same test turned round, the difference seen ± the largest one that the
    swaps do not reject. So it leaves out 0 exactly where p < 0.05 (docs/decisions/016).
    """
    seen = statistic(first.sum(axis=0)) - statistic(second.sum(axis=0))
    if rounds < 1 or not first.shape[0] or np.isnan(seen):
        return Difference(None if np.isnan(seen) else float(seen), None, None)
    swapped = _swapped_sums(second - first, rounds, seed)
    null = statistic(first.sum(axis=0) + swapped) - statistic(second.sum(axis=0) - swapped)
    null = np.abs(null)
    hits = int((null >= abs(seen) - _ROUNDING).sum())
    half = _half_width(null)
    interval = (max(-1.0, float(seen) - half), min(1.0, float(seen) + half))
    return Difference(float(seen), interval, (1 + hits) / (1 + rounds))


def _half_width(null: Floats) -> float:
    """The largest absolute difference that is not rejected, given those of the swaps.

    One of x is rejected where (1 + swaps of at least x) / (1 + swaps) < 1 - LEVEL: where fewer than
    `most` are as large. With too few swaps for that nothing is, and the width is that of all.
    """
    defined = np.sort(null[~np.isnan(null)])[::-1]
    most = math.ceil(round((1 - LEVEL) * (1 + null.size) - 1, 9))
    if most < 1 or defined.size < most:
        return 2.0 if most < 1 else 0.0
    return float(defined[most - 1]) + _ROUNDING if defined[most - 1] else 0.0


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p value from the queries that just one system got right.

    A fair-coin binomial test on the discordant queries; 1 where there are none. It takes queries
    as independent, which those of one post are not: read it beside the test over posts.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _swapped_sums(change: Floats, rounds: int, seed: int) -> Floats:
    """What swapping a random half of the posts adds to the first system: (P, k) → (rounds, k)."""
    posts = change.shape[0]
    rng = np.random.default_rng([seed, 1])
    sums = np.empty((rounds, *change.shape[1:]))
    for rows in _chunks(rounds, posts):
        coins = rng.integers(2, size=(len(rows), posts), dtype=np.int8)
        sums[rows.start : rows.stop] = coins.astype(float) @ change
    return sums


def _chunks(rounds: int, posts: int) -> Iterator[range]:
    step = max(1, _CELLS // max(1, posts))
    for start in range(0, rounds, step):
        yield range(start, min(start + step, rounds))
