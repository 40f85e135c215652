"""The rule of RiVEG's statistic.py.

A triple is right if a gold entity of the same picture has the same `name(TYPE)` string and either
both are absent or IoU ≥ 0.5 with any of its boxes. Each gold entity is used up by the first
prediction that fits it, in file order, and every prediction counts in the denominator. EEG leaves
the type out of the string.
"""

from __future__ import annotations

from functools import partial

from groundling.metrics import Counts
from groundling.scoring.align import AnsweredPost
from groundling.scoring.match import link_agrees, match_in_order
from groundling.scoring.rule import Task, TripleRule, Unit, eligible_gold

_agrees = partial(link_agrees, strict=False)


def count_post(post: AnsweredPost, task: Task, unit: Unit) -> Counts:
    """Right, predicted and gold entities of one post."""
    eligible = eligible_gold(post, task, unit, _agrees)
    return Counts(match_in_order(eligible), len(eligible), len(post.gold))


RULE = TripleRule(
    "riveg",
    "name",
    "IoU >= 0.5 with any gold box; same name and type; each gold used once, in order",
    count_post,
)
