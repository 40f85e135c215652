"""Vectors of words: a vocabulary, files of vectors, and leaving words out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from groundling.errors import DataError

PAD, UNKNOWN = 0, 1
_FIRST = 2


class Vocabulary:
    """Numbers of words, letter case folded; what is not in it is UNKNOWN."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(self.words, start=_FIRST)}

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]]) -> Vocabulary:
        """Every word of the texts, in order of how often and then alphabetically."""
        counts = Counter(word.casefold() for words in texts for word in words)
        return cls(sorted(counts, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words) + _FIRST

    def number(self, word: str) -> int:
        """A word's number, at least UNKNOWN."""
        return self._numbers.get(word.casefold(), UNKNOWN)


class WordDropout(nn.Module):
    """Leaves out whole words' vectors in training, unscaled, so that context must do."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, words: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D), some of the vectors zero while training."""
        if not self.training or self.share == 0:
            return words
        kept = torch.rand(words.shape[:-1], device=words.device) >= self.share
        return words * kept[..., None]


def read_vectors(path: Path, vocabulary: Vocabulary, size: int) -> dict[int, list[float]]:
    """The vectors that a word2vec or GloVe text file has for words of the vocabulary, by number.

    Where spellings differ in letter case alone, the one that is all lower case counts, else the
    first. Raises DataError for a file that is not of this kind or of another `size`.
    """
    found: dict[int, list[float]] = {}
    for line, word, values in _lines(path):
        if len(values) != size:
            raise DataError(path, f"a vector of {len(values)} numbers; word_size is {size}", line)
        number = vocabulary.number(word)
        if number == UNKNOWN or (number in found and word != word.casefold()):
            continue
        try:
            found[number] = [float(value) for value in values]
        except ValueError as fault:
            raise DataError(path, f"not a vector ({fault})", line) from fault
    if not found:
        raise DataError(path, "holds no word of the training posts; check that it is of vectors")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, word and numbers; word2vec's first line, two counts, is left out."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                word, *values = line.rstrip("\n").rstrip(" ").split(" ")
                if not (number == 1 and len(values) == 1 and word.isdecimal()):
                    yield number, word, values
    except OSError as fault:
        raise DataError(path, f"cannot be read ({fault.strerror})") from fault
