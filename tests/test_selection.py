from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.selection import View, at_random, joined, nearest


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 0, rows / np.maximum(lengths, 1e-30), 0.0)


def by_the_book(views: list[View]) -> np.ndarray:
    """Cosines of all pairs, each view scaled to [0, 1] as a whole, weighted and added."""
    total = np.zeros((len(views[0].questions), len(views[0].examples)))
    for view in views:
        one, two = unit(view.questions.astype(float)), unit(view.examples.astype(float))
        there = np.outer(one.any(axis=1), two.any(axis=1))
        cosines = one @ two.T
        if there.any() and np.ptp(cosines[there]) > 1e-6:
            low, high = cosines[there].min(), cosines[there].max()
            total += view.weight * np.where(there, (cosines - low) / (high - low), 0.0)
    return total


def random_views(seed: int, n: int = 7, m: int = 40) -> list[View]:
    rng = np.random.default_rng(seed)
    views = []
    for weight, width in ((0.4, 16), (0.2, 5), (0.6, 16)):
        questions = rng.normal(size=(n, width)).astype(np.float32)
        examples = rng.normal(size=(m, width)).astype(np.float32) * rng.uniform(0.1, 9, (m, 1))
        views.append(View(weight, questions, examples.astype(np.float32)))
    views[1].questions[2] = 0  # a picture that could not be read
    views[1].examples[::5] = 0  # and examples without one
    return views


@pytest.mark.parametrize("seed", range(5))
def test_inner_products_are_the_scaled_and_weighted_sums(seed: int) -> None:
    views = random_views(seed)
    questions, examples = joined(views)
    np.testing.assert_allclose(questions @ examples.T, by_the_book(views), atol=2e-6)


def test_a_view_without_differences_has_no_part() -> None:
    flat = View(0.9, np.ones((3, 2), np.float32), np.ones((4, 2), np.float32))
    views = random_views(0, 3, 4)
    alone, both = joined(views), joined([*views, flat])
    np.testing.assert_allclose(both[0] @ both[1].T, alone[0] @ alone[1].T, atol=1e-6)
    empty = View(0.9, np.zeros((3, 2), np.float32), np.ones((4, 2), np.float32))
    assert not (joined([empty])[0] @ joined([empty])[1].T).any()


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(1, 8), st.booleans())
def test_the_nearest_are_those_of_a_full_stable_sort(seed: int, k: int, m: int, bar: bool) -> None:
    rng = np.random.default_rng(seed)
    questions = rng.integers(-2, 3, size=(3, 2)).astype(np.float32)  # many ties
    examples = rng.integers(-2, 3, size=(m, 2)).astype(np.float32)
    barred = [frozenset(rng.choice(m, size=min(2, m)).tolist()) for _ in range(3)] if bar else []
    found = nearest(questions, examples, k, barred)
    for row, scores in enumerate((questions @ examples.T).tolist()):
        allowed = [i for i in range(m) if not bar or i not in barred[row]]
        assert found[row] == sorted(allowed, key=lambda i: (-scores[i], i))[:k]


def test_random_examples_keep_to_the_same_rules() -> None:
    barred = [frozenset({row}) for row in range(50)]
    found = at_random(50, 50, 3, seed=1, barred=barred)
    assert all(len(set(row)) == 3 and place not in row for place, row in enumerate(found))
    assert found == at_random(50, 50, 3, seed=1, barred=barred)
    assert found[:10] == at_random(10, 50, 3, seed=1, barred=barred[:10])
    assert found != at_random(50, 50, 3, seed=2, barred=barred)
    counts = np.bincount(np.concatenate([at_random(2000, 10, 1, seed=0)]).ravel(), minlength=10)
    assert counts.min() > 140, "no example is preferred"


def test_an_index_finds_nearly_all_of_the_nearest() -> None:
    pytest.importorskip("faiss", reason="needs the extra ann")
    from groundling.models.faiss_index import approximately_nearest

    views = random_views(3, 200, 3000)
    vectors = joined(views)
    barred = [frozenset({row, row + 1}) for row in range(200)]
    exact, found = (search(*vectors, 3, barred) for search in (nearest, approximately_nearest))
    hits = sum(len(set(one) & set(two)) for one, two in zip(exact, found, strict=True))
    assert hits / 600 > 0.95
    assert not any(set(row) & set(banned) for row, banned in zip(found, barred, strict=True))
