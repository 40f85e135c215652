"""Our strict rule: token spans, IoU > 0.5, and no luck of the order.

A triple is right if a gold entity has the same tokens [start, end) and the same type, and either
both are absent or IoU > 0.5 with any of its boxes. Gold and predictions are paired one to one so
that as many as possible are right. A prediction that does not say its tokens is wrong.
"""

from __future__ import annotations

from functools import partial

from groundling.metrics import Counts
from groundling.scoring.align import AnsweredPost
from groundling.scoring.match import link_agrees, match_best
from groundling.scoring.rule import Task, TripleRule, Unit, eligible_gold

_agrees = partial(link_agrees, strict=True)


def count_post(post: AnsweredPost, task: Task, unit: Unit) -> Counts:
    """Right, predicted and gold entities of one post."""
    eligible = eligible_gold(post, task, unit, _agrees)
    return Counts(match_best(eligible), len(eligible), len(post.gold))


RULE = TripleRule(
    "span",
    "span",
    "IoU > 0.5 with any gold box; same tokens and type; best one-to-one pairing",
    count_post,
)
