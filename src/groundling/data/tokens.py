"""Running text as words and marks, each with its place in the text.

A token is, in this order of choice:

- an address: `https://…`, `http://…` or `www.…`, without the marks at its end;
- a hashtag, a name with `@`, a cashtag: `#Astros`, `@NASA`, `$TSLA`;
- an abbreviation of single letters, each with its full stop: `U.S.`, `e.g.`; a title: `Mr.`, `Dr.`;
- a number, its points, commas and colons between digits inside it: `3,000.5`, `10:30`;
- the ending `'s` by itself, so that `Collins's` ends with its name;
- a word: letters, digits and `_`, and between them `-`, `&`, apostrophes: `NH-90`, `AT&T`, `don't`;
- one ideograph or kana, as these scripts put no space between words;
- any other visible mark by itself: `,` `.` `(` and each emoji.

Combining marks, variation selectors, skin tones and zero-width joiners belong to what they follow:
a joined emoji, a flag and a word in Devanagari are one token. White space is no token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W{_ALONE}]+"
_PIECE = re.compile(
    rf"""
    (?:https?://|www\.)\S*[\w/]
  | [#@]\w+ | \$[A-Za-z]+
  | (?<!\w)(?:[^\W\d_]\.){{2,}}
  | (?<!\w)(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr)\.
  | (?<!\w)\d+(?:[.,:]\d+)+(?!\w)
  | (?<=\w)['’]s\b
  | {_WORD}(?:(?:[-&]|['’](?!s\b)){_WORD})*
  | [\U0001F1E6-\U0001F1FF]{{2}}
  | \S
    """,
    re.VERBOSE,
)
_JOINER = "\u200d"
_LINKS = frozenset("\u200c\u200d\u00ad\u2060")
"""Characters without width that stand within a word or an emoji."""


@dataclass(frozen=True, slots=True)
class Token:
    """Characters [start, end) of a text."""

    text: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of running text, by the rule of the module's docstring.

    >>> [token.text for token in tokens_of("Astronaut Eileen Collins, U.S. (@NASA).")]
    ['Astronaut', 'Eileen', 'Collins', ',', 'U.S.', '(', '@NASA', ')', '.']
    """
    found: list[Token] = []
    for piece in _PIECE.finditer(text):
        if found and found[-1].end == piece.start() and _joins(text, found[-1], piece.group()):
            start = found.pop().start
        else:
            start = piece.start()
        found.append(Token(text[start : piece.end()], start, piece.end()))
    return found


def split_at(tokens: Iterable[Token], places: Iterable[int]) -> list[Token]:
    """The tokens, each cut where one of `places` (characters) lies within it."""
    borders = sorted(set(places))
    found: list[Token] = []
    for token in tokens:
        cuts = [token.start, *(at for at in borders if token.start < at < token.end), token.end]
        for start, end in pairwise(cuts):
            found.append(Token(token.text[start - token.start : end - token.start], start, end))
    return found


def _joins(text: str, before: Token, piece: str) -> bool:
    """Whether a piece belongs to the token that ends where it begins."""
    first, last = piece[0], text[before.end - 1]
    if first in _LINKS or unicodedata.category(first).startswith("M") or _is_skin_tone(first):
        return True
    if last == _JOINER and not first.isascii():
        return True
    tied = last in _LINKS or unicodedata.category(last).startswith("M")
    return tied and first.isalnum() and before.text[0].isalnum()


def _is_skin_tone(char: str) -> bool:
    return "\U0001f3fb" <= char <= "\U0001f3ff"
