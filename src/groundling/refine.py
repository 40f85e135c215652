"""The refinement stage of ReFineG: confident mentions stay, uncertain ones are asked about.

    mentions → routing (by uncertainty, within a budget) → questions → outcomes → mentions

Each outcome is in a journal as soon as it is there. Where a call fails the tagger's mention stands
and the record says why; the next run asks again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groundling.asking import ask_all
from groundling.collect import kind_of
from groundling.config_gmner import RefinementConfig
from groundling.models.base import Assistant, Question
from groundling.progress import Progress
from groundling.records import Failure, Mention, Post, Scheme
from groundling.refinement import read_refinement, refinement_messages, refinement_schema
from groundling.routing import (
    Curve,
    Key,
    Outcome,
    Routing,
    ask_order,
    choose_routing,
    chosen,
    refined,
    routing_curve,
)

RANDOM_ORDERS = 5
"""Random orders of asking that the order by uncertainty is compared with."""

Change = Literal["confirmed", "edited", "retyped", "edited and retyped", "dropped", "failed"]
"""What asking about a mention came to."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A mention that was asked about, what came of it, and the reasons given."""

    post_id: str
    mention: Mention
    outcome: Outcome
    reasons: str = ""

    @property
    def change(self) -> Change:
        """The outcome beside the mention."""
        after = self.outcome
        if after is None:
            return "dropped"
        if isinstance(after, Failure):
            return "failed"
        edited = (after.start, after.end) != (self.mention.start, self.mention.end)
        if after.type == self.mention.type:
            return "edited" if edited else "confirmed"
        return "edited and retyped" if edited else "retyped"

    def to_json(self) -> dict[str, Any]:
        """A line of the refinement's record."""
        told: dict[str, Any] = {"id": self.post_id, "mention": _plain(self.mention)}
        told["change"] = self.change
        if isinstance(self.outcome, Failure):
            error = self.outcome.to_json()
            return {**told, "error": error}
        after = None if self.outcome is None else _plain(self.outcome)
        return {**told, "after": after, "reasoning": self.reasons}


@dataclass(frozen=True, slots=True)
class Refinery:
    """Who is asked, about which types, in what manner; `journal` holds all outcomes."""

    assistant: Assistant
    scheme: Scheme
    settings: RefinementConfig
    journal: Path

    def ask(
        self,
        posts: Sequence[Post],
        mentions: Mapping[str, Sequence[Mention]],
        keys: Sequence[Key],
        progress: Progress | None = None,
    ) -> list[Asked]:
        """Ask about the mentions that `keys` name, one question each."""
        by_id = {post.id: post for post in posts}
        items = [(by_id[post_id], mentions[post_id][place]) for post_id, place in keys]
        if progress is not None:
            progress.expect(len(items))
        answers = ask_all(
            self.assistant,
            items,
            self._question,
            journal=self.journal,
            key=self._key,
            encode=lambda answer: [answer[0] and _plain(answer[0]), answer[1]],
            decode=lambda stored: (stored[0] and Mention(**stored[0]), stored[1]),
            tries=self.settings.tries,
            progress=progress,
        )
        return [
            Asked(post.id, mention, answer)
            if isinstance(answer, Failure)
            else Asked(post.id, mention, *answer)
            for (post, mention), answer in zip(items, answers, strict=True)
        ]

    def _shown(self, post: Post) -> tuple[str, ...]:
        return (post.image,) if self.settings.picture and post.image is not None else ()

    def _question(self, item: tuple[Post, Mention]) -> Question[tuple[Mention | None, str]]:
        post, mention = item
        pictures, reach = self._shown(post), self.settings.reach
        messages = refinement_messages(post, mention, self.scheme, reach, picture=bool(pictures))
        return Question(
            messages=lambda _: messages,
            read=lambda text, _: read_refinement(text, post, mention, self.scheme, reach),
            pictures=pictures,
            max_tokens=self.settings.max_tokens,
            schema=refinement_schema(self.scheme),
        )

    def _key(self, item: tuple[Post, Mention]) -> list[object]:
        post, mention = item
        (turn,) = self._question(item).messages(())
        return [post.id, turn["content"][-1]["text"], _plain(mention)]


def refine(
    refinery: Refinery,
    posts: Sequence[Post],
    mentions: Mapping[str, Sequence[Mention]],
    routing: Routing,
    progress: Progress | None = None,
) -> tuple[dict[str, list[Mention]], list[Asked]]:
    """Every post's mentions after refinement, by post id, and what was asked about."""
    keys = chosen(mentions, routing)
    asked = refinery.ask(posts, mentions, keys, progress)
    return apply(mentions, dict(zip(keys, (one.outcome for one in asked), strict=True))), asked


def apply(
    mentions: Mapping[str, Sequence[Mention]], outcomes: Mapping[Key, Outcome]
) -> dict[str, list[Mention]]:
    """Every post's mentions with those outcomes in place."""
    by_post: dict[str, dict[int, Outcome]] = {post_id: {} for post_id in mentions}
    for (post_id, place), outcome in outcomes.items():
        by_post[post_id][place] = outcome
    return {post_id: refined(row, by_post[post_id]) for post_id, row in mentions.items()}


@dataclass(frozen=True, slots=True)
class Validated:
    """The routing that validation posts speak for, F1 on them, and what was asked about.

    `by_chance` are the curves of random orders (the control), where all mentions were asked about.
    """

    routing: Routing
    curve: Curve
    asked: list[Asked]
    by_chance: tuple[Curve, ...] = ()


def validate(
    refinery: Refinery,
    posts: Sequence[Post],
    mentions: Mapping[str, Sequence[Mention]],
    progress: Progress | None = None,
) -> Validated:
    """The routing to use: the best within the budget on validation posts, with its curve.

    Asks about the least certain mentions of these posts, as many as the budget allows, or about
    all if the whole curve is wanted.
    """
    settings = refinery.settings
    share = 1.0 if settings.whole_curve else settings.budget
    keys = ask_order(mentions)[: math.floor(share * sum(map(len, mentions.values())) + 1e-9)]
    asked = refinery.ask(posts, mentions, keys, progress)
    outcomes = dict(zip(keys, (one.outcome for one in asked), strict=True))
    curve = routing_curve(posts, mentions, outcomes, ask_order(mentions))
    by_chance = tuple(
        routing_curve(posts, mentions, outcomes, ask_order(mentions, "random", seed))
        for seed in range(RANDOM_ORDERS if settings.whole_curve else 0)
    )
    if settings.threshold is not None:
        return Validated(Routing(settings.threshold, settings.budget), curve, asked, by_chance)
    return Validated(choose_routing(curve, settings.budget), curve, asked, by_chance)


def summary(asked: Sequence[Asked], total: int) -> dict[str, Any]:
    """How many of `total` mentions were asked about, and what that came to."""
    changes = Counter(one.change for one in asked)
    failed = Counter(kind_of(one.outcome) for one in asked if isinstance(one.outcome, Failure))
    told = {"mentions": total, "asked": len(asked), "changes": dict(sorted(changes.items()))}
    return {**told, "failed": dict(failed.most_common())}


def record(asked: Sequence[Asked]) -> bytes:
    """What was asked about and what came of it, as JSON lines."""
    return b"".join(json.dumps(one.to_json(), ensure_ascii=False).encode() + b"\n" for one in asked)


def _plain(mention: Mention) -> dict[str, object]:
    return {
        "start": mention.start,
        "end": mention.end,
        "type": mention.type,
        "confidence": mention.confidence,
    }
