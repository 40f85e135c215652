"""How well confidences say how often they are right: arithmetic only, no files and no models.

An answer has a confidence in [0, 1] and is right or wrong. What was missed has no confidence and
does not count here; recall is for the scoring rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from groundling.metrics import Floats

Bools = npt.NDArray[np.bool_]
BINS = 15
"""Bins of equal width (Guo et al. 2017)."""
_COLDEST, _HOTTEST = 0.05, 20.0
_SURE = 1e-6


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence lies in (low, high], the first bin's in [low, high]."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean confidence; 0 in an empty bin."""
    accuracy: float
    """Share that is right; 0 in an empty bin."""


def reliability(confidence: Floats, right: Bools, bins: int = BINS) -> list[Bin]:
    """The reliability diagram: `bins` bins of equal width, empty ones too."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(place, minlength=bins)
    filled = np.maximum(counts, 1)
    means = np.bincount(place, weights=confidence, minlength=bins) / filled
    shares = np.bincount(place, weights=right, minlength=bins) / filled
    rows = zip(edges[:-1], edges[1:], counts, means, shares, strict=True)
    return [Bin(float(a), float(b), int(n), float(c), float(s)) for a, b, n, c, s in rows]


def expected_calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float | None:
    """ECE: |accuracy − mean confidence| of each bin, weighed by its count; None without answers."""
    if not len(confidence):
        return None
    gaps = [abs(b.accuracy - b.confidence) * b.count for b in reliability(confidence, right, bins)]
    return sum(gaps) / len(confidence)


def brier_score(confidence: Floats, right: Bools) -> float | None:
    """Mean squared difference of confidence and rightness (0 or 1); None without answers."""
    return float(np.mean((confidence - right) ** 2)) if len(confidence) else None


def negative_log_likelihood(confidence: Floats, right: Bools) -> float | None:
    """Mean −log of what was given to what came true, in nats; None without answers.

    Confidences are taken as within [1e-6, 1 − 1e-6], so that one sure mistake is not infinite.
    """
    if not len(confidence):
        return None
    bounded = np.clip(confidence, _SURE, 1.0 - _SURE)
    return float(-np.mean(np.log(np.where(right, bounded, 1.0 - bounded))))


def risk_coverage(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """(coverage, risk), each (n,): the share of answers kept, the surest first, and their errors.

    Risk k is the share of wrong ones among the k surest. Answers of one confidence come in no
    order: each bears their mean error, so that the curve does not depend on how they were listed.
    """
    if not len(confidence):
        return np.zeros(0), np.zeros(0)
    levels, level_of = np.unique(-confidence, return_inverse=True)
    errors = np.bincount(level_of, weights=~right, minlength=len(levels))
    counts = np.bincount(level_of, minlength=len(levels))
    kept = np.arange(1, len(confidence) + 1)
    risk = np.cumsum(np.repeat(errors / counts, counts)) / kept
    return kept / len(confidence), risk


def area_under_risk_coverage(confidence: Floats, right: Bools) -> float | None:
    """AURC: the mean risk over all coverages (Geifman and El-Yaniv 2017); None without answers."""
    _, risk = risk_coverage(confidence, right)
    return float(risk.mean()) if len(risk) else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """All figures of one set of answers."""

    answers: int
    accuracy: float | None
    confidence: float | None
    ece: float | None
    brier: float | None
    nll: float | None
    aurc: float | None
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, object]:
        """The figures as JSON values, rounded to four decimals; of the bins those with answers."""
        figures = {
            name: getattr(self, name)
            for name in ("accuracy", "confidence", "ece", "brier", "nll", "aurc")
        }
        rounded = {name: None if v is None else round(v, 4) for name, v in figures.items()}
        rows = [{k: round(v, 4) for k, v in asdict(one).items()} for one in self.bins if one.count]
        return {"answers": self.answers, **rounded, "bins": rows}


def measure(confidence: Floats, right: Bools) -> Calibration:
    """Every figure at once."""
    some = len(confidence) > 0
    return Calibration(
        answers=len(confidence),
        accuracy=float(right.mean()) if some else None,
        confidence=float(confidence.mean()) if some else None,
        ece=expected_calibration_error(confidence, right),
        brier=brier_score(confidence, right),
        nll=negative_log_likelihood(confidence, right),
        aurc=area_under_risk_coverage(confidence, right),
        bins=tuple(reliability(confidence, right)),
    )


def choose_temperature(confidences: Callable[[float], Floats], right: Bools) -> float:
    """The temperature of least negative log likelihood, between 0.05 and 20 (Guo et al. 2017).

    `confidences(temperature)` gives the answers' confidences in the order of `right`. 1 where all
    answers are right, all wrong, or none there: the best temperature would be the coldest or
    hottest one allowed, whatever the model.
    """
    if right.all() or not right.any():
        return 1.0

    def cost(log_temperature: float) -> float:
        return negative_log_likelihood(confidences(float(np.exp(log_temperature))), right) or 0.0

    bounds = (float(np.log(_COLDEST)), float(np.log(_HOTTEST)))
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    best = float(np.exp(found.x))
    return best if cost(float(found.x)) < cost(0.0) else 1.0
