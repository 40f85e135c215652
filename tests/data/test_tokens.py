"""Running text: words and marks, and positions that count characters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundling.data.formats import read_splits
from groundling.data.jsonl import read_posts
from groundling.data.tokens import Token, split_at, tokens_of
from groundling.errors import DataError
from groundling.records import TWITTER

TEXT = "Astronaut Eileen Collins, Houston."


def texts(text: str) -> list[str]:
    return [token.text for token in tokens_of(text)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    """One post of a text, with one entity a (name, start, end)."""

    def read(text: str, *entities: tuple[str, int, int], offsets: str = "characters") -> Any:
        items = [
            {"name": name, "type": "PER", "start": start, "end": end, "boxes": []}
            for name, start, end in entities
        ]
        line = {"id": "p1", "text": text, "offsets": offsets, "entities": items}
        path = tmp_path / "posts.jsonl"
        path.write_text(json.dumps(line) + "\n")
        return read_posts(path).posts[0]

    return read


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (TEXT, "Astronaut|Eileen|Collins|,|Houston|."),
        ("the U.S. and e.g. Dr. Who's J.K.", "the|U.S.|and|e.g.|Dr.|Who|'s|J.K."),
        ("#Astros @NASA_2 $TSLA $100 #", "#Astros|@NASA_2|$TSLA|$|100|#"),
        ("(see https://t.co/aB?x=1).", "(|see|https://t.co/aB?x=1|)|."),
        ("NH-90s, O'Neil don't; AT&T -x-", "NH-90s|,|O'Neil|don't|;|AT&T|-|x|-"),
        ("3,000.5 at 10:30, 1st.", "3,000.5|at|10:30|,|1st|."),
        ("Collins's Collins' Collins\u2019s", "Collins|'s|Collins|'|Collins|\u2019s"),
        (
            "\U0001f600\U0001f44d\U0001f3fdhi\u2764\ufe0f",
            "\U0001f600|\U0001f44d\U0001f3fd|hi|\u2764\ufe0f",
        ),
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467!",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467|!",
        ),
        ("\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7|\U0001f1e9\U0001f1ea"),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 cafe\u0301",
            "\u0939\u093f\u0928\u094d\u0926\u0940|cafe\u0301",
        ),
        ("\u6771\u4eac NY", "\u6771|\u4eac|NY"),
        ("", ""),
    ],
)
def test_field_d8_text_becomes_words_and_marks(text: str, tokens: str) -> None:
    assert texts(text) == ([] if not tokens else tokens.split("|"))
    assert all(text[token.start : token.end] == token.text for token in tokens_of(text))


def test_every_visible_character_is_in_one_token() -> None:
    text = "a\u200b b\ufe0f \u0301c .\u200d. x\u00ad-\U0001f1e6y www. http:// 1.2.x U.S.x 'S"
    tokens = tokens_of(text)
    assert "".join(token.text for token in tokens) == "".join(text.split())
    places = [place for token in tokens for place in (token.start, token.end)]
    assert places == sorted(places)


def test_field_d8_marks_are_no_part_of_names(read: Callable[..., Any]) -> None:
    post = read(TEXT, ("Eileen Collins", 10, 24), ("Houston", 26, 33))
    assert post.tokens == ("Astronaut", "Eileen", "Collins", ",", "Houston", ".")
    assert [(one.name, one.start, one.end) for one in post.entities] == [
        ("Eileen Collins", 1, 3),
        ("Houston", 4, 5),
    ]
    again = read(TEXT, ("Houston", 4, 5), offsets="tokens")
    assert again.entities == post.entities[1:]


@pytest.mark.parametrize(("offsets", "shift"), [("characters", 1), ("utf-16", 2)])
def test_field_d8_an_emoji_before_a_name_does_not_shift_it(
    read: Callable[..., Any], offsets: str, shift: int
) -> None:
    start = shift + len(" hi ")
    post = read(
        "\U0001f680 hi Eileen Collins!", ("Eileen Collins", start, start + 14), offsets=offsets
    )
    assert post.tokens[post.entities[0].start : post.entities[0].end] == ("Eileen", "Collins")


@pytest.mark.parametrize(
    ("said", "meant", "shift"), [("characters", "utf-16", 2), ("utf-16", "characters", 1)]
)
def test_field_d8_the_other_way_of_counting_is_named(
    read: Callable[..., Any], said: str, meant: str, shift: int
) -> None:
    start = shift + 1
    with pytest.raises(DataError, match=f'not \'Collins\'; they .* say "offsets": "{meant}"'):
        read("\U0001f680 Collins !", ("Collins", start, start + 7), offsets=said)


def test_field_d8_a_token_is_split_where_a_position_cuts_it(read: Callable[..., Any]) -> None:
    post = read("the Houston-based firm", ("Houston", 4, 11))
    assert post.tokens == ("the", "Houston", "-based", "firm")
    assert (post.entities[0].start, post.entities[0].end) == (1, 2)
    spaced = read("the Houston firm", ("Houston", 3, 12))
    assert (spaced.entities[0].start, spaced.entities[0].end) == (1, 2)
    assert split_at([Token("abcd", 2, 6)], [1, 2, 3, 5, 6, 9]) == [
        Token("a", 2, 3),
        Token("bc", 3, 5),
        Token("d", 5, 6),
    ]


@pytest.mark.parametrize(
    ("start", "end", "offsets", "words"),
    [
        (3, 3, "characters", "characters 3 to 3 of 11"),
        (0, 12, "characters", "characters 0 to 12 of 11"),
        (-1, 3, "utf-16", "utf-16 -1 to 3 of 12"),
        (1, 4, "utf-16", "no half characters"),
        (1, 2, "characters", "' ' holds no token"),
        (2, 4, "tokens", "tokens 2 to 4 of 3"),
    ],
)
def test_field_d8_positions_that_are_not_in_the_text(
    read: Callable[..., Any], start: int, end: int, offsets: str, words: str
) -> None:
    with pytest.raises(DataError, match=rf"entities\[0\].*{words}"):
        read("\U0001f680 Collins !", ("Collins", start, end), offsets=offsets)


def test_field_d8_tokens_of_white_space_alone_are_named(read: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="are 'the', not 'Houston'; count characters"):
        read("Ann, the Houston", ("Houston", 2, 3), offsets="tokens")


def test_field_d8_a_converted_text_is_spelt_as_it_was(
    tmp_path: Path, data_command: Callable[..., Any]
) -> None:
    entity = {"name": "Yahoo!", "type": "ORG", "start": 3, "end": 9, "boxes": [[1, 2, 3, 4]]}
    line = {"id": "p1", "text": "At Yahoo!, now.", "offsets": "characters", "entities": [entity]}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert read_posts(path).posts[0].entities[0].name == "Yahoo !"
    for target in ("ccks", "conll", "twitter-gmner", "jsonl"):
        out = tmp_path / target
        assert data_command("convert", path, out, "--to", target, "--scheme", "twitter").code == 0
        (back,) = read_splits(out, target, scheme=TWITTER)
        assert back.posts[0].entities[0].name == "Yahoo !"
    assert (
        json.loads((tmp_path / "ccks" / "test_text.json").read_text())["p1"]["text"] == line["text"]
    )
