from __future__ import annotations

import numpy as np
import pytest

from groundling.calibration import (
    area_under_risk_coverage,
    brier_score,
    choose_temperature,
    expected_calibration_error,
    measure,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)
from groundling.metrics import Floats


def answers(*pairs: tuple[float, bool]) -> tuple[Floats, np.ndarray]:
    return np.array([c for c, _ in pairs], dtype=float), np.array([r for _, r in pairs], dtype=bool)


def drawn(count: int, seed: int = 0, sharpness: float = 1.0) -> tuple[Floats, np.ndarray]:
    """Answers that are right as often as their true probability says, told too sharply or not."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 1.5, count)
    right = rng.random(count) < 1 / (1 + np.exp(-logits))
    return 1 / (1 + np.exp(-sharpness * logits)), right


FOUR = answers((0.9, True), (0.8, False), (0.3, False), (0.25, True))


def test_reliability_by_hand() -> None:
    low, high = reliability(*FOUR, bins=2)
    assert (low.low, low.high, low.count, low.accuracy) == (0.0, 0.5, 2, 0.5)
    assert low.confidence == pytest.approx(0.275)
    assert (high.count, high.accuracy) == (2, 0.5)
    assert high.confidence == pytest.approx(0.85)
    assert expected_calibration_error(*FOUR, bins=2) == pytest.approx(0.5 * 0.225 + 0.5 * 0.35)


def test_a_border_belongs_to_the_lower_bin_and_both_ends_to_some_bin() -> None:
    confidence, right = answers((0.0, False), (0.5, True), (0.51, True), (1.0, True))
    assert [one.count for one in reliability(confidence, right, bins=2)] == [2, 2]
    assert [one.count for one in reliability(confidence, right, bins=4)] == [1, 1, 1, 1]


def test_scores_by_hand() -> None:
    assert brier_score(*FOUR) == pytest.approx((0.01 + 0.64 + 0.09 + 0.5625) / 4)
    expected = -np.mean(np.log([0.9, 0.2, 0.7, 0.25]))
    assert negative_log_likelihood(*FOUR) == pytest.approx(expected)
    sure = negative_log_likelihood(*answers((1.0, False)))
    assert sure == pytest.approx(-np.log(1e-6))


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = risk_coverage(*FOUR)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3, 2 / 4])
    assert area_under_risk_coverage(*FOUR) == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 4)


def test_a_perfect_order_beats_all_others() -> None:
    right = np.array([True] * 6 + [False] * 4)
    best = area_under_risk_coverage(np.linspace(1, 0, 10), right)
    worst = area_under_risk_coverage(np.linspace(0, 1, 10), right)
    assert best is not None
    assert worst is not None
    assert best < 0.4 < worst
    assert best == pytest.approx(sum((k - 6) / k for k in range(7, 11)) / 10)


def test_ties_do_not_depend_on_the_order_of_the_answers() -> None:
    tied = [(0.5, True), (0.5, False), (0.5, False), (0.9, True)]
    curves = [risk_coverage(*answers(*order))[1].tolist() for order in (tied, tied[::-1])]
    assert curves[0] == curves[1] == pytest.approx([0, (2 / 3) / 2, (4 / 3) / 3, 2 / 4])
    constant = area_under_risk_coverage(*answers(*[(0.7, k < 3) for k in range(4)]))
    assert constant == pytest.approx(0.25)


def test_without_answers_there_are_no_figures() -> None:
    empty = answers()
    assert expected_calibration_error(*empty) is None
    told = measure(*empty).to_json()
    assert told["answers"] == 0
    assert told["bins"] == []
    assert {told[name] for name in ("ece", "brier", "nll", "aurc", "accuracy")} == {None}


def test_all_figures_at_once() -> None:
    told = measure(*FOUR)
    assert (told.answers, told.accuracy, told.confidence) == (4, 0.5, pytest.approx(0.5625))
    assert told.ece == expected_calibration_error(*FOUR)
    assert sum(one.count for one in told.bins) == 4
    rows = told.to_json()["bins"]
    assert isinstance(rows, list)
    assert [row["count"] for row in rows] == [1, 1, 1, 1]


def test_honest_confidences_have_little_error_and_sharpened_ones_much() -> None:
    honest, sharp = drawn(20_000), drawn(20_000, sharpness=4.0)
    fair, unfair = (expected_calibration_error(*one) for one in (honest, sharp))
    assert fair is not None
    assert unfair is not None
    assert fair < 0.02 < 0.1 < unfair


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_sharpened_the_scores(sharpness: float) -> None:
    confidence, right = drawn(20_000, sharpness=sharpness)
    logits = np.log(confidence / (1 - confidence))

    def at(temperature: float) -> Floats:
        return np.asarray(1 / (1 + np.exp(-logits / temperature)))

    found = choose_temperature(at, right)
    assert found == pytest.approx(sharpness, rel=0.1)
    assert negative_log_likelihood(at(found), right) <= negative_log_likelihood(at(1.0), right)  # type: ignore[operator]


@pytest.mark.parametrize("right", [[], [True, True], [False]])
def test_answers_that_teach_nothing_leave_the_temperature_alone(right: list[bool]) -> None:
    assert choose_temperature(lambda _: np.full(len(right), 0.7), np.array(right, dtype=bool)) == 1


def test_the_same_as_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    calibration = pytest.importorskip("sklearn.calibration")
    confidence, right = drawn(500, seed=3)
    confidence[:5] = [0.0, 1.0, 0.2, 0.4, 0.6]  # borders too
    assert brier_score(confidence, right) == pytest.approx(
        metrics.brier_score_loss(right, confidence)
    )
    assert negative_log_likelihood(confidence[5:], right[5:]) == pytest.approx(
        metrics.log_loss(right[5:], confidence[5:])
    )
    for bins in (5, 10, 15):
        shares, means = calibration.calibration_curve(right, confidence, n_bins=bins)
        filled = [one for one in reliability(confidence, right, bins) if one.count]
        assert [one.accuracy for one in filled] == pytest.approx(list(shares))
        assert [one.confidence for one in filled] == pytest.approx(list(means))
