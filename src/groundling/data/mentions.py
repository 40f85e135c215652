"""Names and the tokens they stand for, where a system tells only the one.

White space never counts: the name `NH-90` is found in the tokens `NH`, `-`, `90`. Letter case does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundling.data.problems import Problem

_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and ideographs: scripts that put no space between words; each character is a token."""
_TOKEN = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Place:
    """Tokens [start, end) that hold a name; `whole` where they hold nothing else."""

    start: int
    end: int
    whole: bool = True


def words(text: str) -> tuple[str, ...]:
    """The tokens of running text: runs of letters, digits and `_`, and every other mark alone.

    >>> words("Two NH-90s (A400M's).")
    ('Two', 'NH', '-', '90s', '(', 'A400M', "'", 's', ')', '.')
    """
    return tuple(_TOKEN.findall(text))


def places_of(name: str, tokens: Sequence[str]) -> list[Place]:
    """Every place of a name, in order; places that cut a token only where there is no other.

    >>> places_of("NH-90", ["An", "NH", "-", "90", "."])
    [Place(start=1, end=4, whole=True)]
    """
    found = list(_places(squeezed(name), [squeezed(token) for token in tokens]))
    return [place for place in found if place.whole] or found


def place_names(names: Sequence[str], tokens: Sequence[str]) -> list[Place | None]:
    """Where each of several names of one text stands; None for a name that does not occur.

    Longer names choose first, and a name has those of its places that no longer name has taken
    (all of them, where none is left). Its mentions get its places in order; where they are more
    than the places, they are dealt out in order, equally many to each.

    >>> [place.start for place in place_names(["Ann", "Ann", "Ann Bo"], ["Ann", "Bo", "Ann"])]
    [2, 2, 0]
    """
    mentions: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        mentions.setdefault(squeezed(name), []).append(index)
    chosen: list[Place | None] = [None] * len(names)
    taken: set[int] = set()
    for name, indices in sorted(mentions.items(), key=lambda item: -len(item[0])):
        places = places_of(name, tokens)
        free = [place for place in places if taken.isdisjoint(range(place.start, place.end))]
        places = free or places
        for rank, index in enumerate(indices if places else ()):
            crowded = len(indices) > len(places)
            place = places[rank * len(places) // len(indices) if crowded else rank]
            taken.update(range(place.start, place.end))
            chosen[index] = place
    return chosen


def place_runs(names: Sequence[str], tokens: Sequence[str]) -> list[Place | None]:
    """`place_names`, but None too for a name that only occurs within a token."""
    found = place_names(names, tokens)
    return [place if place is not None and place.whole else None for place in found]


def nameless(path: Path, line: int | None, name: str, post_id: str) -> Problem:
    """The finding that a predicted name has no tokens in its post."""
    message = f"{name!r} is no run of the tokens of post {post_id!r}"
    return Problem(str(path), line, "name-without-tokens", message)


def surface(text: str, tokens: Sequence[str], start: int, end: int) -> str:
    """How a running text spells tokens [start, end); joined by spaces where it lacks them."""
    at, first, last = 0, 0, 0
    for index, token in enumerate(tokens[:end]):
        found = text.find(token, at)
        if found < 0:
            return " ".join(tokens[start:end])
        at = found + len(token)
        if index == start:
            first = found
        last = at
    return text[first:last]


def _places(needle: str, tokens: Sequence[str]) -> Iterator[Place]:
    owner = [index for index, token in enumerate(tokens) for _ in token]
    text = "".join(tokens)
    at = text.find(needle) if needle else -1
    while at >= 0:
        end = at + len(needle)
        opens = at == 0 or owner[at - 1] != owner[at]
        closes = end == len(text) or owner[end] != owner[end - 1]
        yield Place(owner[at], owner[end - 1] + 1, opens and closes)
        at = text.find(needle, at + 1)


def same_name(one: str, other: str) -> bool:
    """Whether two names are equal, white space aside."""
    return squeezed(one) == squeezed(other)


def squeezed(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())
