from __future__ import annotations

import pytest

from groundling.errors import InputError
from groundling.models.taggers.labels import Labels
from groundling.records import CCKS, TWITTER, Entity, Post

LABELS = Labels(TWITTER.types)
O, B_PER, I_PER, B_LOC, I_LOC = range(5)  # noqa: E741


def post(*entities: tuple[int, int, str], words: int = 6) -> Post:
    tokens = tuple(f"w{i}" for i in range(words))
    named = [Entity(" ".join(tokens[a:b]), kind, a, b) for a, b, kind in entities]
    return Post("p", tokens, tuple(named))


def test_labels_and_spans_are_each_others_inverse() -> None:
    marked = post((0, 2, "PER"), (2, 3, "PER"), (4, 6, "LOC"))
    assert LABELS.encode(marked) == [B_PER, I_PER, B_PER, O, B_LOC, I_LOC]
    assert LABELS.decode(LABELS.encode(marked)) == [(0, 2, "PER"), (2, 3, "PER"), (4, 6, "LOC")]
    assert LABELS.encode(post(words=0)) == []


def test_of_entities_that_overlap_the_first_and_longest_counts() -> None:
    marked = post((1, 2, "LOC"), (0, 2, "PER"), (0, 3, "LOC"), (3, 4, "PER"))
    assert LABELS.decode(LABELS.encode(marked)) == [(0, 3, "LOC"), (3, 4, "PER")]


def test_an_inside_that_continues_nothing_begins_a_span() -> None:
    assert LABELS.decode([I_PER, I_LOC, I_LOC, O, I_PER]) == [
        (0, 1, "PER"),
        (1, 3, "LOC"),
        (4, 5, "PER"),
    ]


def test_what_the_scheme_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"post p: entity 'w0' has type PER; wanted one of air"):
        Labels(CCKS.types).encode(post((0, 1, "PER")))
    with pytest.raises(InputError, match=r"words 5 to 7 of 6"):
        LABELS.encode(post((5, 7, "PER")))


def test_the_rules_of_bio() -> None:
    start, follow = LABELS.may_start(), LABELS.may_follow()
    assert start.tolist() == [True, True, False, True, False, True, False, True, False]
    for before in range(len(LABELS)):
        for after in range(len(LABELS)):
            inside = after > 0 and after % 2 == 0
            assert follow[before, after] == (not inside or before in (after, after - 1))
