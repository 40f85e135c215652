"""Counts, and the figures made from them: arithmetic only, no files and no models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """`right` answers out of `total` asked."""

    right: int
    total: int

    @property
    def value(self) -> float | None:
        """The share in [0, 1]; None where nothing was asked."""
        return self.right / self.total if self.total else None

    @property
    def percent(self) -> float | None:
        """The share in percent with two decimals; None where nothing was asked."""
        return round(100 * self.right / self.total, 2) if self.total else None


@dataclass(frozen=True, slots=True)
class Counts:
    """What precision, recall and F1 are made from: numbers of entities."""

    right: int = 0
    predicted: int = 0
    gold: int = 0

    @property
    def precision(self) -> float:
        """Right over predicted, in [0, 1]; 0 where nothing was predicted."""
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Right over gold, in [0, 1]; 0 where there is no gold."""
        return self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, in [0, 1]; 0 where both counts are 0.

        >>> Counts(right=1, predicted=2, gold=4).f1
        0.3333333333333333
        """
        either = self.predicted + self.gold
        return 2 * self.right / either if either else 0.0


def ratios(counts: Floats) -> Floats:
    """`Ratio.value` over the last axis (right, total): (..., 2) → (...); nan where total is 0."""
    right, total = counts[..., 0], counts[..., 1]
    shares = np.full(right.shape, np.nan)
    np.divide(right, total, out=shares, where=total > 0)
    return shares


def f1_scores(counts: Floats) -> Floats:
    """`Counts.f1` over the last axis (right, predicted, gold): (..., 3) → (...)."""
    right, either = counts[..., 0], counts[..., 1] + counts[..., 2]
    scores = np.zeros(right.shape)
    np.divide(2 * right, either, out=scores, where=either > 0)
    return scores
