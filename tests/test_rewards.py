from __future__ import annotations

import pytest

from groundling.records import ABSENT, Box, Entity, Expression, Failure, Grounded
from groundling.rewards import RewardBox, asks_grounder, reward

SMALL, LARGE = Box(0, 0, 10, 10), Box(50, 50, 90, 90)
THERE = Entity("Ann", "PER", 0, 1, (SMALL, LARGE))
GONE = Entity("Ann", "PER", 0, 1)
MISHAP = Failure("no connection", "api")
NO_BOX = Failure("not a box: [7]", "parse")


def said(text: str) -> Expression:
    return Expression(text, "writer:x/0")


@pytest.mark.parametrize(
    ("entity", "text", "grounded", "boxes", "expected"),
    [
        # not in the picture: right iff the writer says so; the grounder has no say
        (GONE, ABSENT, None, "largest", 1),
        (GONE, f"  {ABSENT.upper()}. ", None, "largest", 1),
        (GONE, "the man", None, "largest", 0),
        (GONE, "the man", Grounded(LARGE), "any", 0),
        (GONE, "", None, "largest", 0),
        # in the picture: right iff the words lead to the box
        (THERE, "the man", Grounded(LARGE), "largest", 1),
        (THERE, "the man", Grounded(LARGE), "any", 1),
        (THERE, "the man", Grounded(SMALL), "largest", 0),
        (THERE, "the man", Grounded(SMALL), "any", 1),
        (THERE, "the man", Grounded(Box(20, 20, 40, 40)), "any", 0),
        (THERE, ABSENT, None, "largest", 0),
        (THERE, ABSENT, Grounded(LARGE), "largest", 0),
        (THERE, " ", None, "largest", 0),
        (THERE, "the man", NO_BOX, "largest", 0),
        (THERE, "the man", NO_BOX, "any", 0),
        # nothing is known
        (THERE, "the man", MISHAP, "largest", MISHAP),
        (THERE, "the man", MISHAP, "any", MISHAP),
        (THERE, ABSENT, MISHAP, "largest", 0),
        (GONE, "the man", MISHAP, "largest", 0),
    ],
)
def test_equation_5(
    entity: Entity,
    text: str,
    grounded: Grounded | Failure | None,
    boxes: RewardBox,
    expected: int | Failure,
) -> None:
    assert reward(entity, said(text), grounded, boxes) == expected


@pytest.mark.parametrize(("shift", "expected"), [(1, 1), (3, 1), (4, 0), (10, 0)])
def test_iou_must_be_greater_than_a_half(shift: int, expected: int) -> None:
    """10 × 12 boxes s apart have IoU (12 − s) / (12 + s): exactly 0.5 at 4, not enough."""
    gold, found = Box(0, 0, 10, 12), Box(0, shift, 10, 12 + shift)
    assert found.iou(gold) == pytest.approx((12 - shift) / (12 + shift))
    entity = Entity("Ann", "PER", 0, 1, (gold,))
    assert reward(entity, said("the man"), Grounded(found)) == expected


def test_of_equally_large_boxes_the_first_counts() -> None:
    twin = Box(100, 100, 110, 110)
    entity = Entity("Ann", "PER", 0, 1, (SMALL, twin))
    assert reward(entity, said("the man"), Grounded(SMALL)) == 1
    assert reward(entity, said("the man"), Grounded(twin)) == 0


def test_the_largest_box_is_what_is_asked_for_unless_told() -> None:
    assert reward(THERE, said("the man"), Grounded(SMALL)) == 0


@pytest.mark.parametrize(
    ("entity", "text", "asks"),
    [
        (THERE, "the man", True),
        (THERE, ABSENT, False),
        (THERE, ABSENT + ".", False),
        (THERE, "  ", False),
        (GONE, "the man", False),
        (GONE, ABSENT, False),
    ],
)
def test_the_grounder_is_asked_only_where_it_decides(entity: Entity, text: str, asks: bool) -> None:
    assert asks_grounder(entity, said(text)) == asks
    if asks:
        with pytest.raises(ValueError, match="needs the grounder"):
            reward(entity, said(text), None)
    else:
        verdicts = {reward(entity, said(text), g) for g in (None, Grounded(LARGE), MISHAP)}
        assert len(verdicts) == 1


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't identify people in images.",
        "Ann does not appear in the picture.",
        "<think>Who is it?</think> the man",
        "<think>Who is",
    ],
)
def test_field_e1_words_that_are_no_expression_have_no_reward(text: str) -> None:
    """A grounder draws a box for any words; such words must not become what is preferred."""
    assert not asks_grounder(THERE, said(text))
    assert reward(THERE, said(text), Grounded(LARGE)) == 0
    assert reward(GONE, said(text), None) == 0
