"""A tagger's mentions of two splits, put to oracles in the order of uncertainty and at random."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from routing_oracle import Oracle

from groundling.config_gmner import RefinementConfig
from groundling.data.jsonl import read_predictions
from groundling.errors import DataError
from groundling.metrics import Counts, Floats
from groundling.records import Mention, Post, Scheme
from groundling.refine import apply
from groundling.routing import (
    Curve,
    Key,
    Outcome,
    Routing,
    ask_order,
    choose_routing,
    chosen,
    routing_curve,
    span_counts,
)
from groundling.tagging import read_split

REACH = RefinementConfig().reach


@dataclass(frozen=True, slots=True)
class Tagged:
    """A split, and what the tagger found in it, by post."""

    posts: tuple[Post, ...]
    mentions: dict[str, list[Mention]]

    @property
    def total(self) -> int:
        """Mentions."""
        return sum(map(len, self.mentions.values()))

    def counts(self, mentions: Mapping[str, Sequence[Mention]]) -> Counts:
        """Right, said and gold mentions, by span and type, were `mentions` the tagger's."""
        rows = [span_counts(post.entities, mentions[post.id]) for post in self.posts]
        right, said, gold = (
            sum(getattr(row, name) for row in rows) for name in ("right", "predicted", "gold")
        )
        return Counts(right, said, gold)


@dataclass(frozen=True, slots=True)
class Draw:
    """One oracle's answers about every mention of a split, and the two curves they give."""

    outcomes: dict[Key, Outcome]
    by_uncertainty: Curve
    at_random: Curve


@dataclass(frozen=True, slots=True)
class Study:
    """The draws of an accuracy on both splits; the n-th of dev and of test are one oracle."""

    accuracy: float
    dev: list[Draw]
    test: list[Draw]


def read_tagged(run: Path, source: Path, split: str, scheme: Scheme) -> Tagged:
    """A split and the run's mentions of it. Raises DataError where they do not belong together."""
    posts = read_split(source, split, scheme=scheme)
    path, scores = run / f"predictions/{split}.jsonl", run / f"scores/{split}.json"
    if not scores.is_file():
        raise DataError(scores, "is not there yet; `groundling tagger fit` goes on with the run")
    said = {one.id: one for one in read_predictions(path, scheme)}
    if said.keys() != {post.id for post in posts} or not all(one.whole for one in said.values()):
        raise DataError(path, f"does not tag the {len(posts)} posts of {split} of {source}")
    found = {
        key: [Mention(p.start or 0, p.end or 0, p.type, p.score) for p in one.predictions]
        for key, one in said.items()
    }
    tagged = Tagged(posts, found)
    stored = json.loads(scores.read_text(encoding="utf-8"))
    f1 = stored["rules"]["span"]["mner"]["f1"]
    if abs(100 * tagged.counts(found).f1 - f1) > 0.005:
        raise DataError(path, f"has another F1 than the run says ({f1}); was {source} changed?")
    return tagged


def ask_everything(tagged: Tagged, oracle: Oracle) -> Draw:
    """Put every mention to the oracle; its seed also draws the random order."""
    outcomes = {
        (post.id, place): oracle.ask(post, mention)
        for post in tagged.posts
        for place, mention in enumerate(tagged.mentions[post.id])
    }
    orders = ask_order(tagged.mentions), ask_order(tagged.mentions, "random", oracle.seed)
    curves = [routing_curve(tagged.posts, tagged.mentions, outcomes, order) for order in orders]
    return Draw(outcomes, *curves)


def study(dev: Tagged, test: Tagged, scheme: Scheme, accuracy: float, draws: int) -> Study:
    """As many oracles of an accuracy as `draws`, each asked about both splits."""
    oracles = [Oracle(scheme, accuracy, REACH, seed) for seed in range(draws)]
    on_dev, on_test = (
        [ask_everything(tagged, oracle) for oracle in oracles] for tagged in (dev, test)
    )
    return Study(accuracy, on_dev, on_test)


def applied(test: Tagged, draw: Draw, routing: Routing) -> tuple[float, float]:
    """The share of test's mentions that a routing asks about, and F1 with what that brings."""
    keys = chosen(test.mentions, routing)
    after = apply(test.mentions, {key: draw.outcomes[key] for key in keys})
    return len(keys) / test.total, test.counts(after).f1


@dataclass(frozen=True, slots=True)
class Used:
    """The mean over draws of a threshold that dev chose, and what it came to on test: calls in
    percent of the mentions, F1 in percent, and F1 of as many calls in random order.
    """

    threshold: float
    calls: float
    f1: float
    at_random: float


def within(test: Tagged, one: Study, budget: float) -> Used:
    """Choose the threshold on dev within a budget of calls, and use it on test, draw by draw."""
    rows = []
    for on_dev, on_test in zip(one.dev, one.test, strict=True):
        routing = choose_routing(on_dev.by_uncertainty, budget)
        share, f1 = applied(test, on_test, routing)
        rows.append((routing.threshold, 100 * share, 100 * f1, 100 * on_test.at_random.at(share)))
    return Used(*map(float, np.mean(rows, axis=0)))


def mean_curve(curves: Sequence[Curve]) -> Floats:
    """(mentions + 1,) F1 in percent, the mean of curves over one corpus."""
    return 100 * np.mean([curve.f1 for curve in curves], axis=0)
