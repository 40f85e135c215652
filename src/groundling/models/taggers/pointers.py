"""Mentions as a sequence of pointers, and which pointer may come next.

This is the representation "word" of Yan et al. (2021), which their code takes for flat entities. A
mention is written as its words, one after another, and its type; the mentions of a text stand in
order, with an end behind the last. For "Paul visits New York":

    word 0, PER, word 2, word 3, LOC, end

Symbols are numbers: 0 is the end, type i is i + 1, word i of the text is i + 1 + the number of
types. What may come next is decided here and not, as in the paper, by a decoder that may also write
nonsense: after a word the next word or a type, else the end or a word that was not passed yet. So
each sequence that ends is one tagging without overlaps, and each such tagging is one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundling.models.taggers.labels import Span
from groundling.records import EntityType

START, END = -1, 0


@dataclass(frozen=True, slots=True)
class Pointers:
    """The symbols of a scheme's types."""

    types: tuple[EntityType, ...]

    @property
    def first_word(self) -> int:
        """The symbol of word 0."""
        return len(self.types) + 1

    def encode(self, spans: Sequence[Span]) -> list[int]:
        """The symbols of spans that are in order and apart, with the end.

        >>> Pointers(("PER", "LOC")).encode([(0, 1, "PER"), (2, 4, "LOC")])
        [3, 1, 5, 6, 2, 0]
        """
        symbols: list[int] = []
        for start, end, kind in spans:
            symbols += range(self.first_word + start, self.first_word + end)
            symbols.append(self.types.index(kind) + 1)
        return [*symbols, END]

    def decode(self, symbols: Sequence[int]) -> list[tuple[Span, slice]]:
        """The spans that an allowed sequence spells, each with where its symbols are."""
        spans: list[tuple[Span, slice]] = []
        begin = 0
        for at, symbol in enumerate(symbols):
            if END < symbol < self.first_word:
                start, end = (symbols[i] - self.first_word for i in (begin, at - 1))
                spans.append(((start, end + 1, self.types[symbol - 1]), slice(begin, at + 1)))
                begin = at + 1
        return spans

    def allowed(self, before: Tensor, words: Tensor) -> Tensor:
        """(B, L, V) of `before` (B, L): which symbols may follow each one, given those before it.

        `before` begins with START; the texts have `words` (B) words, so V is the most of them
        beyond `first_word`. After the end there is nothing but the end.
        """
        pointed = before - self.first_word
        inside = (pointed >= 0)[..., None]
        over = (before == END)[..., None]
        passed = pointed.clamp(min=-1).cummax(dim=1).values[..., None]
        place = torch.arange(int(words.max()), device=before.device)
        next_one, later = place == passed + 1, place > passed
        there = place < words[:, None, None]
        may_point = there & ~over & torch.where(inside, next_one, later)
        types = inside.expand(-1, -1, len(self.types))
        return torch.cat([~inside, types, may_point], dim=-1)
