from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.prompts import as_text
from groundling.records import CCKS, TWITTER, Mention, Post
from groundling.refinement import locate, read_refinement, refinement_messages

POST = Post("1", ("Meeting", "New", "York", "Times", "staff", "in", "New", "York", "today"))
MENTION = Mention(1, 3, "LOC", 0.4)


def answer(entity: object, kind: object, reasoning: object = "It is a newspaper.") -> str:
    return json.dumps({"reasoning": reasoning, "entity": entity, "type": kind})


def read(text: str, reach: int = 2) -> Mention | None:
    return read_refinement(text, POST, MENTION, TWITTER, reach)[0]


def test_the_question_names_the_mention_the_types_and_the_form() -> None:
    (turn,) = refinement_messages(POST, MENTION, TWITTER, 2, picture=True)
    assert turn["content"][0] == {"type": "image"}
    text = as_text([turn])
    for words in (
        "Post: Meeting New York Times staff in New York today",
        "Marked part: New York\nMarked as: LOC",
        f"- ORG: {TWITTER.descriptions['ORG']}",
        '"type": "PER | LOC | ORG | MISC"',
        "what does the picture show",
        "at most 2 words",
    ):
        assert words in text
    without = as_text(refinement_messages(POST, MENTION, CCKS, 2, picture=False))
    assert "picture" not in without
    assert "{image}" not in without
    assert "- aircraft: " in without


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (answer("New York Times", "ORG"), Mention(1, 4, "ORG", 0.4)),
        (answer("new  york times", "ORG"), Mention(1, 4, "ORG", 0.4)),
        (answer("New York", "ORG"), Mention(1, 3, "ORG", 0.4)),
        (answer("York", "LOC"), Mention(2, 3, "LOC", 0.4)),
        ("```json\n" + answer("New York", "LOC") + "\n```", MENTION),
        (answer(None, None), None),
    ],
)
def test_answers_and_what_they_mean(text: str, wanted: Mention | None) -> None:
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is a newspaper.", "not one JSON object"),
        (answer("New York", "LOC") + " I hope this helps!", "not one JSON object"),
        ('["New York"]', "wanted a JSON object with the keys"),
        (answer("New York", "LOC", "\ud800"), "holds half a surrogate pair"),
        ('{"entity": null, "type": null}', "wanted a JSON object with the keys"),
        (answer("New York", None), "both be text, or both null"),
        (answer("New York", "CITY"), "unknown type 'CITY'; wanted one of PER, LOC, ORG, MISC"),
        (answer("New York", "LOC", ""), '"reasoning" is empty'),
        (answer("NYT", "ORG"), "'NYT' is not in the post within 2 words"),
        (answer("Meeting New York Times staff in", "ORG"), "is not in the post within 2 words"),
        (answer("", "ORG"), "is not in the post"),
    ],
)
def test_what_is_no_answer_says_how_to_mend_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read(text)


def test_the_reach_limits_both_ends() -> None:
    assert locate("New York Times", POST.tokens, MENTION, 0) is None
    assert locate("New York Times", POST.tokens, MENTION, 1) == (1, 4)
    assert locate("New York", POST.tokens, MENTION, 8) == (1, 3), "the nearest of two"
    assert locate("New York", POST.tokens, Mention(5, 6, "LOC"), 8) == (6, 8)


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=8),
    st.data(),
)
def test_a_copied_name_is_found_where_it_was_copied(tokens: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    found = locate(" ".join(tokens[start:end]), tokens, Mention(start, end, "PER"), 2)
    assert found == (start, end)
