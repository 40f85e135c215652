from __future__ import annotations

import json
import re

import pytest

from groundling.knowledge_prompt import Explanation, knowledge_messages, read_explanation
from groundling.prompts import as_text
from groundling.records import CCKS, TWITTER, Entity, Post
from groundling.replies import json_value

POST = Post("1", ("Ann", "of", "the", "Old", "Club", "# OldClub"), image="1.png")
EXAMPLE = Post(
    "2",
    ("Ben", "and", "Ben", "in", "Pécs"),
    (Entity("Ben", "PER", 0, 1), Entity("Ben", "PER", 2, 3), Entity("Pécs", "LOC", 4, 5)),
    knowledge="Pécs is a town.",
)


def test_the_question_shows_annotated_posts_and_then_the_post() -> None:
    plain = Post("3", ("nothing", "here"), image="3.png")
    messages = knowledge_messages(POST, [EXAMPLE, plain], TWITTER, 40)
    (turn,) = messages
    assert turn["role"] == "user"
    text = as_text(messages)
    assert (
        "\nExample 1, as annotators marked it\nPost: Ben and Ben in Pécs\n"
        'Marked: [{"name": "Ben", "type": "PER"}, {"name": "Pécs", "type": "LOC"}]\n'
        "Why: Pécs is a town.\n"
        "\nExample 2, as annotators marked it\n{image}Post: nothing here\nMarked: []\n"
        "\nThe post to explain\n{image}Post: Ann of the Old Club # OldClub\n"
    ) in text
    assert "in at most 40 words" in text
    assert "what in the text and the picture tells so" in text
    assert '"type": "PER | LOC | ORG | MISC"' in text
    assert f"- PER: {TWITTER.descriptions['PER']}\n" in text


def test_without_a_picture_none_is_spoken_of_below() -> None:
    text = as_text(knowledge_messages(EXAMPLE, [], CCKS, 40))
    assert "{image}" not in text
    assert "what in the text tells so" in text
    assert "Example" not in text
    assert "aircraft | vehicle" in text


def answer(*entities: object, reasoning: object = "Ann is known.", **more: object) -> str:
    return json.dumps({"reasoning": reasoning, "entities": list(entities), **more})


def test_an_answer_is_entities_and_reasons_in_one_line() -> None:
    rows = [{"name": "Ann", "type": "PER"}, {"name": "old club", "type": "ORG"}]
    found = read_explanation(answer(*rows, rows[0], reasoning="Ann\n is known."), POST, TWITTER)
    assert found == Explanation((("Ann", "PER"), ("old club", "ORG")), "Ann\n is known.")
    assert found.words == "Named entities: Ann (PER), old club (ORG). Ann is known."
    none = read_explanation(f"```json\n{answer()}\n```", POST, TWITTER)
    assert none.words == "Named entities: none. Ann is known."


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Named entities: Ann", "not one JSON object"),
        ("[]", 'the keys "reasoning" and "entities"'),
        (answer(more=1), 'the keys "reasoning" and "entities"'),
        (answer(reasoning="  "), '"reasoning" is empty'),
        (answer(reasoning=None), '"reasoning" is empty'),
        ('{"reasoning": "x", "entities": {}}', '"entities" is no list'),
        (answer("Ann"), 'needs "name" and "type"'),
        (answer({"name": "Ann"}), 'needs "name" and "type"'),
        (answer({"name": "Ann", "type": "person"}), "unknown type 'person'; wanted one of PER"),
        (answer({"name": "Bob", "type": "PER"}), "'Bob' is not in the post; copy the name"),
        (answer({"name": " ", "type": "PER"}), "is not in the post"),
    ],
)
def test_what_is_no_answer_says_why(said: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read_explanation(said, POST, TWITTER)


@pytest.mark.parametrize("reply", ['{"a": 1}', '```json\n{"a": 1}\n```', ' ```{"a": 1}``` '])
def test_a_reply_may_stand_in_a_fence(reply: str) -> None:
    assert json_value(reply) == {"a": 1}


@pytest.mark.parametrize("reply", ["", "so: {}", "```\n{}\n``` done", "[" * 100_000])
def test_a_reply_with_words_around_is_none(reply: str) -> None:
    with pytest.raises(ValueError, match=r"not one JSON object|empty answer|around the code fence"):
        json_value(reply)
