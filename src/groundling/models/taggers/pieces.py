"""Words as an encoder reads them: in pieces, in windows, with knowledge behind.

A word is represented by its first piece, so every word must have one: what a tokenizer makes
nothing of (zero-width characters, for instance) is given the unknown piece. A post that is longer
than a window is cut between words into windows that overlap by about half; each word is then taken
from the window in which it stands furthest from a cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from groundling.errors import InputError
from groundling.records import Post

_KEPT = 100_000  # words whose pieces are remembered


@dataclass(frozen=True, slots=True)
class Window:
    """A row that the encoder reads.

    `words` gives, for each word that is to be taken from here, its number in the post and the
    place of its first piece in `ids`.
    """

    ids: list[int]
    segments: list[int]
    words: list[tuple[int, int]]


class Pieces:
    """Cuts posts for one tokenizer, word by word; `of_word` remembers what it has cut."""

    def __init__(self, tokenizer: Any, max_length: int, knowledge: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.knowledge = knowledge
        if tokenizer.unk_token_id is None:
            raise InputError(
                "this encoder has no unknown piece, which stands for words that its tokenizer "
                "makes nothing of; choose another"
            )
        if max_length > tokenizer.model_max_length:
            raise InputError(
                f"tagger.max_length: got {max_length}; this encoder reads at most "
                f"{tokenizer.model_max_length} pieces"
            )
        self.pad: int = tokenizer.pad_token_id or 0
        self.has_segments = "token_type_ids" in tokenizer.model_input_names
        self._alone, self._pair = self._specials("a"), self._specials("a", "b")
        self.of_word = lru_cache(maxsize=_KEPT)(self._cut)

    def _cut(self, word: str) -> list[int]:
        """A word's pieces, at least one."""
        ids: list[int] = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return ids or [self.tokenizer.unk_token_id]

    def length(self, post: Post) -> int:
        """Pieces of the post's longest row."""
        return max(len(window.ids) for window in self.windows(post))

    def windows(self, post: Post) -> list[Window]:
        """The rows of a post that has words; one row for all but very long posts.

        Knowledge stands behind a post that fits into one row, cut from the right to what is left.
        """
        room = self.max_length - sum(map(len, self._alone))
        words = [self.of_word(word)[:room] for word in post.tokens]
        sizes = list(map(len, words))
        if told := self._told(post, sum(sizes)):
            return [self._row(words, 0, range(len(words)), told)]
        cuts = list(_cuts(sizes, room))
        return [
            self._row(words[first:end], first, own)
            for (first, end), own in zip(cuts, _shares(cuts, sizes), strict=True)
        ]

    def _told(self, post: Post, taken: int) -> list[int]:
        """As many pieces of the post's knowledge as fit beside `taken` ones."""
        room = self.max_length - sum(map(len, self._pair)) - taken
        if not self.knowledge or room <= 0:
            return []
        return [piece for word in post.knowledge.split() for piece in self.of_word(word)][:room]

    def _row(
        self, words: Sequence[list[int]], first: int, own: range, told: Sequence[int] = ()
    ) -> Window:
        """A row of `words`, the first being number `first`; those in `own` are taken from here."""
        opening, closing, *last = self._pair if told else self._alone
        ids, places = [*opening], {}
        for number, word in enumerate(words, start=first):
            places[number] = len(ids)
            ids += word
        ids += closing
        behind = [*told, *last[0]] if told else []
        segments = [0] * len(ids) + [1] * len(behind)
        return Window(ids + behind, segments, [(number, places[number]) for number in own])

    def _specials(self, *texts: str) -> list[list[int]]:
        """The special pieces before the first text and after each one, read off an example."""
        told = self.tokenizer(*texts, return_special_tokens_mask=True)
        runs: list[list[int]] = [[]]
        in_text = False
        for piece, special in zip(told["input_ids"], told["special_tokens_mask"], strict=True):
            if special:
                runs[-1].append(piece)
            elif not in_text:
                runs.append([])
            in_text = not special
        if len(runs) != len(texts) + 1:
            raise InputError("this encoder's tokenizer puts nothing between texts; choose another")
        return runs


def _cuts(sizes: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Windows [first, end) of words, each of at most `room` pieces, that cover all words.

    A window begins with about the second half of the one before it.
    """
    first = 0
    while True:
        end, taken = first, 0
        while end < len(sizes) and taken + sizes[end] <= room:
            taken += sizes[end]
            end += 1
        yield first, end
        if end == len(sizes):
            return
        first += 1
        while sum(sizes[first:end]) > room // 2:
            first += 1


def _shares(cuts: Sequence[tuple[int, int]], sizes: Sequence[int]) -> list[range]:
    """Which words each window is to give: each word once, between cuts in the middle of overlaps.

    An overlap is halved by pieces, so a word goes to the window where it is further from a cut.
    """
    borders = [0]
    for (_, end), (first, _) in pairwise(cuts):
        half, at, taken = sum(sizes[first:end]) / 2, first, 0
        while at < end and taken + sizes[at] / 2 < half:
            taken += sizes[at]
            at += 1
        borders.append(at)
    borders.append(len(sizes))
    return [range(a, b) for a, b in pairwise(borders)]
