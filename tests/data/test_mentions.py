from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.data import mentions
from groundling.data.mentions import Place, place_names, place_runs, places_of, surface, words


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(mentions).failed == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the ship's crane.", "the ship ' s crane ."),
        ("Tornado IDS 3.0", "Tornado IDS 3 . 0"),
        ("Schützenpanzer “Marder” 1_A", "Schützenpanzer “ Marder ” 1_A"),
        ("豹2坦克 fährt", "豹 2 坦 克 fährt"),
        (" \n\t", ""),
    ],
)
def test_tokens_of_running_text(text: str, tokens: str) -> None:
    assert words(text) == tuple(tokens.split())


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("NH-90", [(1, 4, True), (17, 20, True)]),
        ("NH - 90", [(1, 4, True), (17, 20, True)]),
        ("NH-90s", [(6, 9, True)]),
        ("A6", [(11, 12, False)]),
        ("nh-90", []),
        ("", []),
    ],
)
def test_places_of_a_name(name: str, places: list[tuple[int, int, bool]]) -> None:
    tokens = ("An", "NH", "-", "90", ",", "two", "NH", "-", "90s", "and", "an", "SA6", "follow",
              "by", "and", "by", "the", "NH", "-", "90", ".")  # fmt: skip
    assert places_of(name, tokens) == [Place(*place) for place in places]


def test_the_second_mention_means_the_second_place() -> None:
    tokens = ["Puma", "meets", "Puma", "and", "Puma"]
    assert [place and place.start for place in place_names(["Puma"] * 2, tokens)] == [0, 2]


def test_more_mentions_than_places_are_dealt_out() -> None:
    tokens = ["Puma", "meets", "Puma"]
    assert [place and place.start for place in place_names(["Puma"] * 4, tokens)] == [0, 0, 2, 2]


def test_a_longer_name_has_the_first_word() -> None:
    tokens = ["Air", "Force", "One", "and", "Air", "Force"]
    found = place_names(["Air Force", "Air Force One", "Force"], tokens)
    assert found == [Place(4, 6), Place(0, 3), Place(1, 2)]


def test_a_name_that_is_not_there_has_no_place() -> None:
    assert place_names(["Marder", "uma"], ["Puma"]) == [None, Place(0, 1, whole=False)]
    assert place_runs(["Marder", "uma", "Puma"], ["Puma"]) == [None, None, Place(0, 1)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="aB9_-'. \n漢é", max_size=30), st.data())
def test_a_text_spells_its_own_tokens(text: str, data: st.DataObject) -> None:
    tokens = words(text)
    assert "".join(tokens) == "".join(text.split())
    if not tokens:
        return
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    spelt = surface(text, tokens, start, end)
    assert spelt in text
    assert words(spelt) == tokens[start:end]
    assert Place(start, end) in places_of(spelt, tokens)


def test_tokens_of_another_text_are_joined() -> None:
    assert surface("A Puma.", ("A", "Leopard", "2"), 1, 3) == "Leopard 2"
