"""Which mentions are uncertain enough to ask about, and what asking about them brings.

ReFineG keeps a tagger's confident mentions and hands the others to a multimodal LLM; its page
defines neither uncertainty nor threshold. Ours: the uncertainty of a mention is 1 − its calibrated
probability, and the threshold is the one with the best F1 on validation within a budget of calls.

Arithmetic only: no files, no models, no network.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from groundling.metrics import Counts, Floats
from groundling.records import Entity, Failure, Mention, Post

Order = Literal["uncertainty", "random"]
"""Who is asked about first: the least certain mention, or (the control) any."""

Outcome = Mention | Failure | None
"""What came of asking about a mention: what it should be, nothing (None), or a failed call."""

Key = tuple[str, int]
"""A mention of a corpus: its post's id and its place among the post's mentions."""


def uncertainty(mention: Mention) -> float:
    """1 − confidence, in [0, 1]; 1 where the tagger does not say."""
    return 1.0 if mention.confidence is None else 1.0 - mention.confidence


@dataclass(frozen=True, slots=True)
class Routing:
    """A rule for asking: of the mentions less certain than `threshold`, at most a share `budget`.

    `threshold` is an uncertainty: a mention is asked about iff its own lies above it.
    """

    threshold: float
    budget: float = 1.0


def ask_order(
    mentions: Mapping[str, Sequence[Mention]], order: Order = "uncertainty", seed: int = 0
) -> list[Key]:
    """Every mention of a corpus (by post id), the one to ask about first in front.

    Equal uncertainties and the random order go by a digest of seed, post and place, so that the
    order does not depend on that of the posts.
    """
    keys = [(post, place) for post, row in mentions.items() for place in range(len(row))]

    def rank(key: Key) -> tuple[float, bytes]:
        told = hashlib.blake2b(f"{seed}\n{key[0]}\n{key[1]}".encode(), digest_size=8).digest()
        mention = mentions[key[0]][key[1]]
        return (-uncertainty(mention) if order == "uncertainty" else 0.0, told)

    return sorted(keys, key=rank)


def chosen(mentions: Mapping[str, Sequence[Mention]], routing: Routing) -> list[Key]:
    """The mentions to ask about, the least certain first."""
    uncertain = [
        (post, place)
        for post, place in ask_order(mentions)
        if uncertainty(mentions[post][place]) > routing.threshold
    ]
    total = sum(map(len, mentions.values()))
    return uncertain[: math.floor(routing.budget * total + 1e-9)]


def refined(mentions: Sequence[Mention], outcomes: Mapping[int, Outcome]) -> list[Mention]:
    """A post's mentions after asking, by place: corrected, dropped, or as they were.

    Those that were not asked about stay, whatever a correction runs into. Of the others that come
    to overlap, a corrected one stays before one that is as it was, and of two the first.
    """
    after: list[tuple[int, Mention]] = []
    for place, mention in enumerate(mentions):
        outcome = outcomes.get(place, mention)
        if isinstance(outcome, Failure):
            outcome = mention
        if outcome is not None:
            rank = 0 if place not in outcomes else 1 if outcome != mention else 2
            after.append((rank, outcome))
    kept: list[Mention] = []
    for _, mention in sorted(after, key=lambda pair: (pair[0], pair[1].start)):
        if not any(mention.start < one.end and one.start < mention.end for one in kept):
            kept.append(mention)
    return sorted(kept, key=lambda one: one.start)


def span_counts(entities: Sequence[Entity], mentions: Sequence[Mention]) -> Counts:
    """A post's counts for span and type F1: both must be exactly right."""
    gold = {(*entity.span, entity.type) for entity in entities}
    said = {(mention.start, mention.end, mention.type) for mention in mentions}
    return Counts(len(gold & said), len(said), len(gold))


@dataclass(frozen=True, slots=True)
class Curve:
    """Span and type F1 in [0, 1] when the first 0, 1, 2 … mentions of an order are asked about.

    `uncertainties` are those of all mentions in that order, also where `f1` stops before.
    """

    f1: Floats
    uncertainties: Floats

    @property
    def total(self) -> int:
        """Mentions of the corpus."""
        return len(self.uncertainties)

    def at(self, share: float) -> float:
        """F1 where a share of all mentions is asked about, rounded down to whole mentions."""
        return float(self.f1[min(math.floor(share * self.total + 1e-9), len(self.f1) - 1)])

    @property
    def area(self) -> float:
        """The mean F1 over shares from 0 to the last one asked about (trapezoids)."""
        if len(self.f1) == 1:
            return float(self.f1[0])
        return float(np.mean((self.f1[1:] + self.f1[:-1]) / 2))


def routing_curve(
    posts: Sequence[Post],
    mentions: Mapping[str, Sequence[Mention]],
    outcomes: Mapping[Key, Outcome],
    order: Sequence[Key],
) -> Curve:
    """F1 as one mention after the other of `order` is replaced by its outcome.

    `order` holds every mention; the curve ends before the first one without an outcome.
    """
    by_id = {post.id: post for post in posts}
    counts = {post.id: span_counts(post.entities, mentions.get(post.id, ())) for post in posts}
    sums = np.array([_numbers(one) for one in counts.values()]).reshape(-1, 3).sum(axis=0)
    asked: dict[str, dict[int, Outcome]] = {}
    rows = [sums.copy()]
    for post_id, place in itertools.takewhile(outcomes.__contains__, order):
        mine = asked.setdefault(post_id, {})
        mine[place] = outcomes[post_id, place]
        now = span_counts(by_id[post_id].entities, refined(mentions[post_id], mine))
        sums = sums + _numbers(now) - _numbers(counts[post_id])
        counts[post_id] = now
        rows.append(sums.copy())
    f1 = np.array([Counts(*map(int, row)).f1 for row in rows])
    return Curve(f1, np.array([uncertainty(mentions[post][place]) for post, place in order]))


def choose_routing(curve: Curve, budget: float) -> Routing:
    """The threshold with the best F1 of a curve in order of uncertainty, within a budget of calls.

    `budget` is a share of all mentions. Of equally good ones the one with the fewest calls is
    taken, and only thresholds that tell the last mention asked about from the next one.
    """
    most = min(math.floor(budget * curve.total + 1e-9), len(curve.f1) - 1)
    best, threshold = float(curve.f1[0]), 1.0
    for asked in range(1, most + 1):
        last = float(curve.uncertainties[asked - 1])
        following = float(curve.uncertainties[asked]) if asked < len(curve.uncertainties) else 0.0
        if following < last and curve.f1[asked] > best:
            best, threshold = float(curve.f1[asked]), (last + following) / 2
    return Routing(threshold, budget)


def _numbers(counts: Counts) -> Floats:
    return np.array([counts.right, counts.predicted, counts.gold], dtype=np.float64)
