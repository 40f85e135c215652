"""What a rule for (name, type, box) triples is, and the three tasks that every one scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from groundling.metrics import Counts
from groundling.records import Box, Entity, PostPrediction, Prediction, Scheme
from groundling.scoring.align import AnsweredPost

Unit = Literal["name", "span"]
"""What makes two mentions the same: their surface string, or their tokens [start, end)."""

LinkAgrees: TypeAlias = Callable[[Box | None, tuple[Box, ...]], bool]


@dataclass(frozen=True, slots=True)
class Task:
    """What has to be right: always the mention; `typed` its type; `boxed` its box or absence."""

    name: Literal["gmner", "eeg", "mner"]
    typed: bool
    boxed: bool


GMNER = Task("gmner", typed=True, boxed=True)
EEG = Task("eeg", typed=False, boxed=True)
MNER = Task("mner", typed=True, boxed=False)
TASKS = (GMNER, EEG, MNER)


@dataclass(frozen=True, slots=True)
class TripleRule:
    """One published or strict way to count right triples, post by post.

    `unit` is what the rule itself compares mentions by. `count` returns one post's counts;
    precision, recall and F1 are micro averages over the sums. `ignores_unknown` where predictions
    of types outside the scheme are not counted at all.
    """

    name: str
    unit: Unit
    summary: str
    count: Callable[[AnsweredPost, Task, Unit], Counts]
    ignores_unknown: bool = False


def counted(
    rule: TripleRule, predictions: Sequence[PostPrediction], scheme: Scheme
) -> Sequence[PostPrediction]:
    """The predictions that a rule looks at, by their types."""
    if not rule.ignores_unknown:
        return predictions
    return [
        replace(post, predictions=tuple(a for a in post.predictions if a.type in scheme.types))
        for post in predictions
    ]


def mention_key(mention: Entity | Prediction, task: Task, unit: Unit) -> tuple[object, ...] | None:
    """What must be equal for two mentions to be the same one; None where it is not known."""
    if unit == "name":
        place: tuple[object, ...] = (mention.name,)
    elif mention.start is None or mention.end is None:
        return None
    else:
        place = (mention.start, mention.end)
    return (*place, mention.type) if task.typed else place


def eligible_gold(
    post: AnsweredPost, task: Task, unit: Unit, agrees: LinkAgrees
) -> list[list[int]]:
    """For each prediction of a post, the gold entities it would be right for, in order.

    A gold entity whose boxes nobody knows agrees with no box and with no absence.
    """
    gold_by_key: dict[tuple[object, ...], list[int]] = {}
    for index, entity in enumerate(post.gold):
        key = mention_key(entity, task, unit)
        if key is not None:
            gold_by_key.setdefault(key, []).append(index)
    eligible: list[list[int]] = []
    for prediction in post.predictions or ():
        key = mention_key(prediction, task, unit)
        same = gold_by_key.get(key, []) if key is not None else []
        if task.boxed:
            known = [i for i in same if post.gold[i].boxes_known]
            same = [i for i in known if agrees(prediction.box, post.gold[i].boxes)]
        eligible.append(same)
    return eligible
