"""An oracle in the multimodal LLM's place: it knows the gold entities and errs at a stated rate.

Whether it errs about a mention, and how, is drawn by a digest of seed, post and mention, and never
by the tagger's confidence: it is no better where the tagger is unsure. What it errs about at one
accuracy it errs about at every lower one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from groundling.records import Failure, Mention, Post, Scheme
from groundling.refinement import read_refinement
from groundling.routing import Outcome

Said = tuple[int, int, str] | None
"""Tokens [start, end) and a type, or that there is no entity."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Right with probability `accuracy`; ends move by at most `reach` words."""

    scheme: Scheme
    accuracy: float
    reach: int
    seed: int = 0

    def ask(self, post: Post, mention: Mention) -> Outcome:
        """What a mention should be: the oracle's answer, read as an LLM's is."""
        told = json.dumps([self.seed, post.id, mention.start, mention.end, mention.type])
        digest = hashlib.blake2b(told.encode(), digest_size=16).digest()
        rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
        said = truth(post, mention, self.reach)
        if rng.random() >= self.accuracy:
            wrong = mistakes(post, mention, said, self)
            kind = wrong[rng.integers(len(wrong))]
            said = kind[rng.integers(len(kind))]
        try:
            return read_refinement(_written(said, post), post, mention, self.scheme, self.reach)[0]
        except ValueError as fault:  # a name without letters cannot be told
            return Failure(str(fault), "parse")


def truth(post: Post, mention: Mention, reach: int) -> Said:
    """The gold entity that refinement can make of a mention: the nearest of those that share a
    word with it and whose ends are within `reach`; None where there is none.
    """
    near = [
        (abs(gold.start - mention.start) + abs(gold.end - mention.end), gold.start, gold)
        for gold in post.entities
        if gold.start < mention.end
        and mention.start < gold.end
        and max(abs(gold.start - mention.start), abs(gold.end - mention.end)) <= reach
    ]
    if not near:
        return None
    gold = min(near, key=lambda one: one[:2])[2]
    return gold.start, gold.end, gold.type


def mistakes(post: Post, mention: Mention, said: Said, oracle: Oracle) -> list[list[Said]]:
    """The kinds of wrong answers about a mention, each of which is as likely as another.

    What is no entity is confirmed. An entity is dropped, or gets another type, or is left as the
    tagger marked it; where that is right, its last word is lost or the next one taken in.
    """
    marked = (mention.start, mention.end, mention.type)
    if said is None:
        return [[marked]]
    start, end, kind = said
    retyped: list[Said] = [(start, end, other) for other in oracle.scheme.types if other != kind]
    if marked != said:
        return [[None], retyped, [marked]]
    ends = [end - 1] * (end - start > 1) + [end + 1] * (end < len(post.tokens))
    moved: list[Said] = [(start, one, kind) for one in ends if oracle.reach]
    return [[None], retyped, moved] if moved else [[None], retyped]


def _written(said: Said, post: Post) -> str:
    """The answer as JSON, in the form that `refinement.ASK` wants."""
    name = None if said is None else " ".join(post.tokens[said[0] : said[1]])
    kind = None if said is None else said[2]
    return json.dumps({"reasoning": "The gold entities.", "entity": name, "type": kind})
