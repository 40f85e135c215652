"""Words by their characters: a convolution and its maximum over a word (Ma and Hovy 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

PAD, UNKNOWN = 0, 1
_FIRST = 2
_LONGEST = 30  # characters of a word that are looked at


class Characters(nn.Module):
    """Vectors of words from their characters; letter case counts.

    A character outside the alphabet is unknown, as is the one that stands for an empty word.
    """

    def __init__(self, alphabet: Sequence[str], size: int = 30, width: int = 50) -> None:
        super().__init__()
        self.alphabet = tuple(alphabet)
        self.width = width
        self._numbers = {character: i for i, character in enumerate(self.alphabet, start=_FIRST)}
        self.embedding = nn.Embedding(len(self.alphabet) + _FIRST, size, padding_idx=PAD)
        self.convolution = nn.Conv1d(size, width, kernel_size=3, padding=1)

    def numbers(self, texts: Sequence[Sequence[str]], device: torch.device) -> Tensor:
        """(B, T, C): the characters of each word of each text; PAD beyond a word."""
        rows = [[self._of_word(word) for word in words] for words in texts]
        longest = max(len(word) for row in rows for word in row)
        table = torch.zeros(len(rows), max(map(len, rows)), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            for j, word in enumerate(row):
                table[i, j, : len(word)] = torch.tensor(word)
        return table.to(device)

    def _of_word(self, word: str) -> list[int]:
        return [self._numbers.get(one, UNKNOWN) for one in word[:_LONGEST]] or [UNKNOWN]

    def forward(self, numbers: Tensor) -> Tensor:
        """(B, T, C) → (B, T, `width`); a place without a word gives zeros."""
        flat = numbers.flatten(0, 1)
        found = self.convolution(self.embedding(flat).transpose(1, 2))
        there = (flat != PAD)[:, None, :]
        best = found.masked_fill(~there, float("-inf")).amax(2)
        return torch.where(there.any(2), best, 0.0).view(*numbers.shape[:2], self.width)


def alphabet_of(words: Iterable[str], least: int = 3) -> tuple[str, ...]:
    """The characters that occur at least `least` times, in order."""
    counts: dict[str, int] = {}
    for word in words:
        for character in word:
            counts[character] = counts.get(character, 0) + 1
    return tuple(sorted(one for one, count in counts.items() if count >= least))
