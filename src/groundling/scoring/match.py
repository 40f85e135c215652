"""When a box agrees with gold, and how mentions are paired: pieces that the rules share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from groundling.records import Box

IOU = 0.5
"""The threshold of every rule. Rules differ in whether it is strict."""


def overlaps(box: Box, gold: Box, *, strict: bool) -> bool:
    """Whether IoU > 0.5 (`strict`) or IoU ≥ 0.5 between two boxes in the same pixels."""
    iou = box.iou(gold)
    return iou > IOU if strict else iou >= IOU


def link_agrees(box: Box | None, gold_boxes: Sequence[Box], *, strict: bool) -> bool:
    """Whether an answer fits gold boxes: None fits no boxes, a box fits if it overlaps any."""
    if box is None:
        return not gold_boxes
    return any(overlaps(box, gold, strict=strict) for gold in gold_boxes)


def match_in_order(eligible: Iterable[Sequence[int]]) -> int:
    """How many rows get a column when each, in order, takes the first free one it may have.

    `eligible[row]` lists the columns that a row may take, in order.
    """
    taken: set[int] = set()
    for columns in eligible:
        free = next((column for column in columns if column not in taken), None)
        if free is not None:
            taken.add(free)
    return len(taken)


def match_best(eligible: Sequence[Sequence[int]]) -> int:
    """The largest number of rows that can have a column each (maximum bipartite matching).

    Augmenting paths (Kuhn); a post has a handful of mentions, so no faster method pays.
    """
    holder: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column in eligible[row]:
            if column in tried:
                continue
            tried.add(column)
            if column not in holder or place(holder[column], tried):
                holder[column] = row
                return True
        return False

    return sum(place(row, set()) for row in range(len(eligible)))
