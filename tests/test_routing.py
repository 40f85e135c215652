from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.metrics import Counts
from groundling.records import Entity, Failure, Mention, Post
from groundling.routing import (
    Outcome,
    Routing,
    ask_order,
    choose_routing,
    chosen,
    refined,
    routing_curve,
    span_counts,
    uncertainty,
)

TYPES = ("PER", "LOC")


def mention(start: int, end: int, confidence: float | None = 0.5, kind: str = "PER") -> Mention:
    return Mention(start, end, kind, confidence)


def post(name: str, *spans: tuple[int, int, str]) -> Post:
    entities = tuple(Entity("x", kind, start, end) for start, end, kind in spans)
    return Post(name, ("w",) * 8, entities)


SAID = {
    "a": [mention(0, 1, 0.9), mention(2, 3, 0.2)],
    "b": [mention(0, 2, 0.6), mention(4, 5, None)],
}


def test_the_least_certain_are_asked_about_first() -> None:
    assert ask_order(SAID) == [("b", 1), ("a", 1), ("b", 0), ("a", 0)]
    assert uncertainty(mention(0, 1, None)) == 1.0


def test_the_random_order_does_not_look_at_confidence_or_at_the_posts_order() -> None:
    keys = ask_order(SAID, "random", seed=3)
    assert sorted(keys) == sorted(ask_order(SAID))
    turned = {name: SAID[name] for name in reversed(SAID)}
    assert ask_order(turned, "random", seed=3) == keys
    surer = {name: [mention(m.start, m.end, 1.0) for m in row] for name, row in SAID.items()}
    assert ask_order(surer, "random", seed=3) == keys
    assert len({tuple(ask_order(SAID, "random", seed=s)) for s in range(20)}) > 10


@pytest.mark.parametrize(
    ("routing", "wanted"),
    [
        (Routing(0.0), [("b", 1), ("a", 1), ("b", 0), ("a", 0)]),
        (Routing(0.4), [("b", 1), ("a", 1)]),  # above the threshold, not at it
        (Routing(0.0, budget=0.25), [("b", 1)]),
        (Routing(0.0, budget=0.24), []),
        (Routing(1.0), []),
    ],
)
def test_threshold_and_budget(routing: Routing, wanted: list[tuple[str, int]]) -> None:
    assert chosen(SAID, routing) == wanted


@pytest.mark.parametrize(
    ("outcomes", "wanted"),
    [
        ({}, [(0, 2), (3, 4)]),
        ({0: None}, [(3, 4)]),
        ({0: Failure("timeout", "api")}, [(0, 2), (3, 4)]),
        ({0: mention(0, 1)}, [(0, 1), (3, 4)]),
        ({0: mention(0, 4)}, [(3, 4)]),  # what was not asked about stays
        ({0: mention(0, 4), 1: mention(3, 4, 0.3)}, [(0, 4)]),  # what was confirmed gives way
        ({0: mention(0, 4), 1: Failure("timeout", "api")}, [(0, 4)]),
        ({0: mention(2, 4), 1: mention(3, 5)}, [(2, 4)]),
        ({1: mention(3, 4)}, [(0, 2), (3, 4)]),
    ],
)
def test_what_a_post_holds_after_asking(
    outcomes: dict[int, Outcome], wanted: list[tuple[int, int]]
) -> None:
    after = refined([mention(0, 2, 0.8), mention(3, 4, 0.3)], outcomes)
    assert [(one.start, one.end) for one in after] == wanted


def test_a_confident_mention_stays_whatever_runs_into_it() -> None:
    sure, unsure = mention(0, 2, 0.9), mention(3, 5, 0.2)
    assert refined([sure, unsure], {1: mention(1, 5)}) == [sure]
    assert refined([sure, unsure], {1: mention(0, 2, kind="LOC")}) == [sure]


spans = st.tuples(st.integers(0, 6), st.integers(1, 2), st.sampled_from(TYPES))


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[Post], dict[str, list[Mention]], dict]:
    posts, said, outcomes = [], {}, {}
    for name in ("a", "b", "c"):
        gold = [(s, s + n, t) for s, n, t in draw(st.lists(spans, max_size=3))]
        posts.append(post(name, *gold))
        found: list[Mention] = []
        for start, length, kind in draw(st.lists(spans, max_size=4)):
            sure = draw(st.sampled_from([0.1, 0.5, 0.5, 0.9]))
            if all(one.end <= start or start + length <= one.start for one in found):
                found.append(Mention(start, start + length, kind, sure))
        said[name] = sorted(found, key=lambda one: one.start)
        for place in range(len(found)):
            start, length, kind = draw(spans)
            options = st.sampled_from(
                [None, Failure("x", "api"), Mention(start, start + length, kind)]
            )
            outcomes[name, place] = draw(options)
    return posts, said, outcomes


@given(corpora())
def test_a_curve_is_the_f1_of_each_prefix_counted_from_scratch(corpus: tuple) -> None:
    posts, said, outcomes = corpus
    order = ask_order(said)
    curve = routing_curve(posts, said, outcomes, order)
    assert len(curve.f1) == len(order) + 1
    for asked in range(len(order) + 1):
        total = np.zeros(3)
        for one in posts:
            mine = {place: outcomes[name, place] for name, place in order[:asked] if name == one.id}
            counts = span_counts(one.entities, refined(said[one.id], mine))
            total += [counts.right, counts.predicted, counts.gold]
        assert curve.f1[asked] == pytest.approx(Counts(*map(int, total)).f1)


@given(corpora(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_the_chosen_threshold_is_the_best_one_within_the_budget(
    corpus: tuple, budget: float
) -> None:
    posts, said, outcomes = corpus
    order = ask_order(said)
    curve = routing_curve(posts, said, outcomes, order)
    routing = choose_routing(curve, budget)
    reached = len(chosen(said, routing))
    assert reached <= budget * curve.total + 1e-9
    best = curve.f1[reached]
    for threshold in (0.05, 0.3, 0.7, 0.95, 1.0):
        other = len(chosen(said, Routing(threshold)))
        if other <= budget * curve.total:
            assert curve.f1[other] <= best + 1e-12


def test_the_area_is_the_mean_over_shares() -> None:
    posts = [post("a", (0, 1, "PER"), (2, 3, "LOC")), post("b")]
    outcomes = {("a", 1): mention(2, 3, kind="LOC"), ("b", 1): None, ("b", 0): None, ("a", 0): None}
    order = ask_order(SAID)
    curve = routing_curve(posts, SAID, outcomes, order)
    assert list(curve.f1) == pytest.approx([2 / 6, 2 / 5, 4 / 5, 4 / 4, 2 / 3])
    middles = [(a + b) / 2 for a, b in itertools.pairwise(curve.f1)]
    assert curve.area == pytest.approx(sum(middles) / 4)
    assert (curve.at(0.0), curve.at(0.6), curve.at(1.0)) == tuple(curve.f1[[0, 2, 4]])
    assert choose_routing(curve, 1.0) == Routing(pytest.approx(0.25), 1.0)
    assert choose_routing(curve, 0.5).threshold == pytest.approx(0.6)
    assert choose_routing(curve, 0.2).threshold == 1.0


def test_a_curve_ends_before_what_was_not_asked_about() -> None:
    """With two of four answers; the threshold still tells the second from the third mention."""
    posts = [post("a", (0, 1, "PER"), (2, 3, "LOC")), post("b")]
    outcomes = {("a", 1): mention(2, 3, kind="LOC"), ("b", 1): None}
    curve = routing_curve(posts, SAID, outcomes, ask_order(SAID))
    assert list(curve.f1) == pytest.approx([2 / 6, 2 / 5, 4 / 5])
    assert choose_routing(curve, 0.5) == Routing(pytest.approx((0.8 + 0.4) / 2), 0.5)
