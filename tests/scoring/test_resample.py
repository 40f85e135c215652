import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest

from groundling.metrics import Counts, Floats, Ratio, f1_scores, ratios
from groundling.scoring.resample import (
    bootstrap_sums,
    mcnemar_exact,
    paired_difference,
    percentile_interval,
)


def coins(posts: int, chance: float, seed: int) -> Floats:
    """Per-post (right, total) of one to three queries each."""
    rng = np.random.default_rng(seed)
    total = rng.integers(1, 4, posts)
    return np.stack([rng.binomial(total, chance), total], axis=1).astype(float)


def test_sums_are_those_of_the_posts_drawn() -> None:
    counts = coins(7, 0.5, 3)
    drawn = np.random.default_rng(11).integers(7, size=(50, 7), dtype=np.int64)
    expected = np.array([sum(counts[post] for post in row) for row in drawn])
    np.testing.assert_array_equal(bootstrap_sums(counts, 50, 11), expected)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = coins(30, 0.5, 1), coins(30, 0.6, 1)
    whole = bootstrap_sums(first, 100, 5), paired_difference(first, second, ratios, 100, 5)
    monkeypatch.setattr("groundling.scoring.resample._CELLS", 64)
    np.testing.assert_array_equal(bootstrap_sums(first, 100, 5), whole[0])
    assert paired_difference(first, second, ratios, 100, 5) == whole[1]


def test_seed_decides() -> None:
    counts = coins(30, 0.5, 1)
    assert np.array_equal(bootstrap_sums(counts, 20, 5), bootstrap_sums(counts, 20, 5))
    assert not np.array_equal(bootstrap_sums(counts, 20, 5), bootstrap_sums(counts, 20, 6))


def test_interval_leaves_undefined_figures_out() -> None:
    assert percentile_interval([np.nan, np.nan]) is None
    assert percentile_interval([]) is None
    assert percentile_interval([np.nan, *np.linspace(0, 1, 41)]) == pytest.approx((0.025, 0.975))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        interval = percentile_interval(ratios(bootstrap_sums(coins(150, 0.7, seed), 200, seed)))
        assert interval is not None
        covered += interval[0] <= 0.7 <= interval[1]
    assert 0.90 <= covered / 200 <= 0.985


def test_posts_are_drawn_whole() -> None:
    """Ten equal queries to a post tell no more than one: the interval must be as wide."""
    one = np.stack([np.arange(100) % 2, np.ones(100)], axis=1).astype(float)
    narrow = percentile_interval(ratios(bootstrap_sums(one, 500, 0)))
    assert percentile_interval(ratios(bootstrap_sums(10 * one, 500, 0))) == narrow


def test_identical_systems() -> None:
    counts = coins(40, 0.6, 2)
    same = paired_difference(counts, counts, ratios, 200, 0)
    assert (same.value, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert mcnemar_exact(0, 0) == 1.0


def test_swapping_the_systems_turns_the_sign_only() -> None:
    first, second = coins(60, 0.5, 1), coins(60, 0.7, 1)
    second[:, 1] = first[:, 1]
    second[:, 0] = np.minimum(second[:, 0], first[:, 1])
    there = paired_difference(first, second, ratios, 300, 4)
    back = paired_difference(second, first, ratios, 300, 4)
    assert there.value is not None
    assert there.interval is not None
    assert there.value < 0
    assert back.value == -there.value
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.p_value == there.p_value


def test_randomisation_p_value_by_enumeration() -> None:
    """Six posts have 64 swaps; the sampled p value must come near the exact one."""
    first = np.array([[1, 1], [1, 1], [1, 1], [1, 1], [0, 1], [1, 1]], dtype=float)
    second = np.array([[0, 1], [0, 1], [0, 1], [1, 1], [1, 1], [0, 1]], dtype=float)
    seen = abs(first[:, 0].sum() - second[:, 0].sum())
    hits = 0
    for mask in range(64):
        swap = np.array([mask >> bit & 1 for bit in range(6)], dtype=bool)
        ours = np.where(swap, second[:, 0], first[:, 0]).sum()
        theirs = np.where(swap, first[:, 0], second[:, 0]).sum()
        hits += abs(ours - theirs) >= seen
    found = paired_difference(first, second, ratios, 20_000, 0)
    assert found.p_value == pytest.approx(hits / 64, abs=0.015)


def test_p_value_is_fair_when_nothing_differs() -> None:
    low = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 7])
        right = rng.binomial(1, 0.5, (2, 80)).astype(float)
        first, second = (np.stack([row, np.ones(80)], axis=1) for row in right)
        p_value = paired_difference(first, second, ratios, 199, seed).p_value
        assert p_value is not None
        low += p_value <= 0.05
    assert low <= 20  # about 10 expected; 21 or more has a chance of 0.1 %


@pytest.mark.parametrize("rounds", [1, 10, 19, 39, 100, 199, 500, 2000])
def test_field_r11_an_interval_leaves_out_zero_exactly_where_its_test_rejects(rounds: int) -> None:
    rejected = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 3])
        right = rng.binomial(1, [[0.5], [0.5 + 0.01 * seed]], (2, 60)).astype(float)
        for statistic, extra in ((ratios, 1), (f1_scores, 2)):
            columns = [np.stack([row, *[np.ones(60)] * extra], axis=1) for row in right]
            found = paired_difference(*columns, statistic, rounds, seed)
            assert found.interval is not None
            assert found.p_value is not None
            low, high = found.interval
            assert (found.p_value < 0.05) == (not low <= 0 <= high), (seed, found)
            rejected += found.p_value < 0.05
    assert bool(rejected) == (rounds >= 39)


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 5])
        right = rng.binomial(1, [[0.6], [0.5]], (2, 150)).astype(float)
        first, second = (np.stack([row, np.ones(150)], axis=1) for row in right)
        interval = paired_difference(first, second, ratios, 299, seed).interval
        assert interval is not None
        covered += interval[0] <= 0.1 <= interval[1]
    assert covered / 200 >= 0.91


def test_a_clear_difference_is_found() -> None:
    first = np.tile([[1.0, 1.0, 1.0]], (50, 1))
    second = np.tile([[0.0, 1.0, 1.0]], (50, 1))
    found = paired_difference(first, second, f1_scores, 499, 0)
    assert (found.value, found.p_value) == (1.0, 1 / 500)
    assert found.interval is not None
    assert 0.4 < found.interval[0] < 0.9 < found.interval[1] == 1.0


def test_nothing_to_compare() -> None:
    empty = np.zeros((3, 2))
    assert paired_difference(empty, empty, ratios, 50, 0).value is None
    none = paired_difference(np.zeros((0, 3)), np.zeros((0, 3)), f1_scores, 50, 0)
    assert (none.value, none.interval, none.p_value) == (0.0, None, None)
    unasked = paired_difference(coins(5, 0.5, 0), coins(5, 0.5, 0), ratios, 0, 0)
    assert (unasked.value, unasked.interval, unasked.p_value) == (0.0, None, None)


@pytest.mark.parametrize(("here", "there"), [(0, 1), (5, 5), (3, 9), (0, 40), (812, 760), (7, 2)])
def test_mcnemar_is_the_binomial_test(here: int, there: int) -> None:
    expected = binomtest(here, here + there, 0.5).pvalue
    assert mcnemar_exact(here, there) == pytest.approx(expected, rel=1e-9)


def test_two_thousand_resamples_of_a_test_split_take_under_a_second() -> None:
    counts = np.ones((1500, 4, 5, 2))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        bootstrap_sums(counts, 2000, 0)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0


def test_counts_agree_with_their_arrays() -> None:
    for right, predicted, gold in [(0, 0, 0), (0, 3, 0), (2, 4, 3), (5, 5, 5)]:
        counts = Counts(right, predicted, gold)
        harmonic = 0.0
        if counts.precision + counts.recall:
            harmonic = 2 * counts.precision * counts.recall / (counts.precision + counts.recall)
        assert counts.f1 == pytest.approx(harmonic)
        assert f1_scores(np.array([right, predicted, gold], dtype=float)) == counts.f1
    assert ratios(np.array([2.0, 3.0])) == Ratio(2, 3).value
    assert np.isnan(ratios(np.zeros(2)))
    assert (Ratio(2, 3).percent, Ratio(0, 0).percent) == (66.67, None)


def test_mcnemar_is_the_binomial_test_at_any_size() -> None:
    """The sum over binomial coefficients, exactly; and no such sum where there are many."""
    for first in range(12):
        for second in range(12):
            count = first + second
            tail = sum(math.comb(count, k) for k in range(min(first, second) + 1))
            wanted = min(1.0, 2 * tail / 2**count)
            assert mcnemar_exact(first, second) == pytest.approx(wanted, rel=1e-12)
    assert mcnemar_exact(20_000, 18_000) == pytest.approx(1.1e-24, rel=0.2)


def test_mcnemar_sums_no_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "comb", None)
    assert mcnemar_exact(5, 5) == 1
