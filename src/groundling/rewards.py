"""The outcome reward of ISR (§3.4.2, eq. 4–5): did the words lead the grounder to the box?"""

from __future__ import annotations

from typing import Literal

from groundling.records import Entity, Expression, Failure, Grounded
from groundling.replies import ReplyError, spoken

RewardBox = Literal["largest", "any"]
IOU_THRESHOLD = 0.5
"""A box is right iff its IoU with gold is greater than this (ISR §4.1)."""

NO_BOX = ("ground", "parse")
"""Stages of a grounder's Failure that say: it answered, and the answer was no box."""


def asks_grounder(entity: Entity, expression: Expression) -> bool:
    """Whether eq. 5 needs a box: only a groundable entity that the writer says is there.

    A text that declines, or thinks aloud, says nothing of the kind, whatever a grounder would make
    of it: its reward is 0, so that it can never become what a writer is taught.
    """
    text = expression.text
    return entity.groundable and not expression.absent and bool(text.strip()) and _plain(text)


def _plain(text: str) -> bool:
    try:
        return spoken(text) == text
    except ReplyError:
        return False


def reward(
    entity: Entity,
    expression: Expression,
    grounded: Grounded | Failure | None,
    boxes: RewardBox = "largest",
) -> int | Failure:
    """Eq. 5: 1 or 0; a Failure where the grounder could not be asked, for then nothing is known.

    An answer that is no box (stages NO_BOX) is not the gold box: 0.

    `grounded` is the answer to eq. 4, None where `asks_grounder` says that none is needed.
    `boxes` decides which gold box counts where there are several: the largest (footnote 2) or any.
    """
    if not entity.groundable:
        return int(expression.absent)
    if not asks_grounder(entity, expression):
        return 0
    if grounded is None:
        raise ValueError(f"{entity.name}: eq. 5 needs the grounder's answer, got None")
    if isinstance(grounded, Failure):
        return 0 if grounded.stage in NO_BOX else grounded
    largest = entity.largest_box
    gold = entity.boxes if boxes == "any" or largest is None else (largest,)
    return int(any(grounded.box.iou(box) > IOU_THRESHOLD for box in gold))
