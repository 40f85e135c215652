from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.prompts import EXPERT
from groundling.records import ABSENT
from groundling.replies import (
    KINDS,
    ReplyError,
    names_entity,
    oddity,
    opened,
    read_expression,
    read_text,
    word_count,
)

SAID = "The man on the left"


def kind(reply: str) -> str:
    with pytest.raises(ReplyError) as caught:
        read_expression(reply)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    return caught.value.kind


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>Who is it?</think> {SAID}",
        f"<think>\n\n</think>\n\n{SAID}",
        f"He is on the left.\n</think>\n\n{SAID}",
        f"<THINKING>hm</THINKING>{SAID}",
        f"[THINK]hm[/THINK]{SAID}",
        f"<think>hm</think>\n<answer>{SAID}</answer>",
    ],
)
def test_field_e2_one_closed_thought_is_taken_off(reply: str) -> None:
    assert read_expression(reply) == SAID


@pytest.mark.parametrize(
    "reply",
    [
        "<think>Who is it? The man on the",
        "<think>Who is it?</think>",
        f"<think>a</think> <think>b</think> {SAID}",
        f"<think>a <think>b</think> {SAID}",
        f"{SAID} <think>or not</think> the woman",
        "a</think>b</think>c",
    ],
)
def test_field_e2_any_other_thought_is_no_answer(reply: str) -> None:
    assert kind(reply) == "thought"


@pytest.mark.parametrize(
    "reply",
    [
        f"```\n{SAID}\n```",
        f"```text\n{SAID}```",
        f'"{SAID}"',
        f"“{SAID}”",
        f"'{SAID}'",
        f"**{SAID}**",
        f"*{SAID}*",
        "The **man** on the left",
        f"Referring expression: {SAID}",
        f"**Referring expression:** {SAID}",
        f"### Referring Expression\n{SAID}",
        f"The referring expression is: {SAID}",
        f"Answer: {SAID}",
        f"Sure! Here is a referring expression for the box:\n\n**“{SAID}”**",
        f"Here's the expression: {SAID}",
        f"Certainly! {SAID}",
        f"1. {SAID}",
        f"- {SAID}",
        f"<|im_start|>assistant\n{SAID}<|im_end|>",
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{SAID}<|eot_id|>",
        f"{SAID}</s>",
    ],
)
def test_field_e3_what_is_certainly_around_an_expression_is_taken_off(reply: str) -> None:
    assert read_expression(reply) == SAID


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("1. The man\n2. The woman", "several"),
        ("- the man\n- the woman", "several"),
        ("1. the man 2. the woman", "several"),
        (f"{SAID}.\n\nLet me know if you need more!", "several"),
        ('{"expression": "the man"}', "json"),
        ('["the man"]', "json"),
        ('```json\n{"expression": "the man"}\n```', "json"),
        (f"Look: ```{SAID}``` there", "markup"),
        ("<|im_start|>user\nthe man", "markup"),
        ("<b>the man</b> there", "markup"),
        (EXPERT, "echo"),
        (f"{EXPERT[:90]} the man", "echo"),
        ("the \x07 man", "characters"),
        ("the \x00man", "characters"),
        ("the \ud83d man", "characters"),
        ("", "empty"),
        (" \n ", "empty"),
        ("\u200b\ufe0f", "empty"),
    ],
)
def test_field_e3_other_replies_are_no_expressions(reply: str, wanted: str) -> None:
    assert kind(reply) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "the sign 'open'",
        '"Stop" sign on the left',
        'the man in "Nike" shoes, under "Adidas"',
        "The boys' bags on the '80s bench",
        "Description of a battle on the wall, left half",
        "the note: buy milk",
        "player no. 2. in red",
        "the 1. FC Köln scarf",
        "2 < 3 on the blackboard",
        "the man\u200dfolk \U0001f600",
    ],
)
def test_an_expression_without_wrapping_stays(text: str) -> None:
    assert read_expression(text) == text


@pytest.mark.parametrize("text", [ABSENT, f"{ABSENT}.", f"“{ABSENT}.”"])
def test_absent_is_read_as_it_stands(text: str) -> None:
    assert read_expression(text) == text.strip("“”")


def attempt(reply: str) -> str:
    """The expression, or the kind of what is none."""
    try:
        return read_expression(reply)
    except ReplyError as fault:
        return fault.kind


PIECES = st.lists(
    st.sampled_from(
        ["the man", "**", '"', "```", "\n", "\n\n", "Answer:", "1. ", "- ", "'", "<think>"]
    )
    | st.text(max_size=4)
)


@given(PIECES.map("".join))
def test_any_reply_is_read_or_refused(reply: str) -> None:
    found = attempt(reply)
    assert found in KINDS or ("\n" not in found and attempt(found) != "empty")


@pytest.mark.parametrize(
    ("expression", "name", "found"),
    [
        ("Neymar in a yellow shirt", "Neymar", True),
        ("Neymar.", "neymar", True),
        ("the player next to neymar jr", "Neymar Jr", True),
        ("the logo of NASA", "NASA", True),
        ("the @nasa logo", "@NASA", False),
        ("a red rose", "Rose", False),
        ("a red Rose", "rose", True),
        ("the roster", "Ros", False),
        ("the man who will jump", "Will", False),
        ("穿红衣服的内马尔", "内马尔", True),
        ("the man", "!", False),
        ("the year 2015 on a banner", "2015", True),
    ],
)
def test_field_e3_an_expression_that_names_its_entity_is_odd(
    expression: str, name: str, found: bool
) -> None:
    assert names_entity(expression, name) is found
    odd = oddity(expression, name)
    assert (None if odd is None else odd.kind) == ("named" if found else None)


def test_field_e3_nine_hundred_words_are_odd() -> None:
    odd = oddity("word " * 900, "Neymar")
    assert odd is not None
    assert odd.kind == "long"
    assert len(str(odd)) < 200
    assert oddity("word " * 80, "Neymar") is None


def test_words_of_a_script_without_spaces_are_counted_by_twos() -> None:
    assert word_count("the man 左边的人 x") == 5


def test_a_text_has_as_many_words_as_were_asked_for() -> None:
    assert read_text("Posts of fans.\n\nNames are handles.", 3, 20) == (
        "Posts of fans. Names are handles."
    )
    for reply, wanted in [
        ("OK.", "short"),
        ("word " * 30, "long"),
        ("I'm sorry, but I can't help with that request.", "refused"),
        ('{"tone": "a b c d e"}', "json"),
        ("<think>what are", "thought"),
        ("x ```y``` z a b c", "markup"),
    ]:
        with pytest.raises(ReplyError) as caught:
            read_text(reply, 3, 20)
        assert caught.value.kind == wanted


def test_a_reply_of_many_thoughts_is_read_at_once() -> None:
    with pytest.raises(ReplyError):
        opened("<think>" * 100_000)
