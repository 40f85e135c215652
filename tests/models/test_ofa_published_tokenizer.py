"""OFA's tokenizer against an independent reading of the files that were published with BART.

`encoder.json` numbers GPT-2's tokens, `vocab.bpe` lists its merges, best first, and `dict.txt`
says, line by line, which of those numbers stands where in fairseq's vocabulary, after its four
special tokens.
"""

from __future__ import annotations

import json
import random
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import regex

from groundling.models.ofa import OFATokenizer

FILES = Path(__file__).resolve().parents[3] / "shared" / "parity" / "tokenizers" / "ofa"
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""How GPT-2 cuts a text into words before it merges."""


class ByDefinition:
    """Byte-level BPE by its definition: again and again, merge the best pair that there is."""

    def __init__(self, folder: Path) -> None:
        numbers = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        names = {number: token for token, number in numbers.items()}
        lines = (folder / "dict.txt").read_text(encoding="utf-8").splitlines()
        told = [line.rpartition(" ")[0] for line in lines]
        entries = ["<s>", "<pad>", "</s>", "<unk>"]
        entries += [names[int(name)] if name.isdigit() else name for name in told]
        self.vocabulary = {token: place for place, token in enumerate([*entries, "<mask>"])}
        merges = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
        self.merges = [(pair.split(" ")[0], pair.split(" ")[1]) for pair in merges if pair]
        self.rank = {pair: place for place, pair in enumerate(self.merges)}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.letter = {byte: chr(byte) for byte in shown}
        self.letter |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
        self.known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        return [0, *(token for word in WORD.findall(text) for token in self.word(word)), 2]

    def word(self, word: str) -> list[int]:
        if word not in self.known:
            parts = [self.letter[byte] for byte in word.encode()]
            while len(parts) > 1:
                best = min(pairwise(parts), key=self.place)
                if best not in self.rank:
                    break
                parts = self.merged(parts, best)
            self.known[word] = [self.vocabulary[part] for part in parts]
        return self.known[word]

    def place(self, pair: tuple[str, str]) -> int:
        return self.rank.get(pair, len(self.rank))

    @staticmethod
    def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
        made: list[str] = []
        place = 0
        while place < len(parts):
            both = tuple(parts[place : place + 2]) == pair
            made.append("".join(pair) if both else parts[place])
            place += 2 if both else 1
        return made


WORDS = (
    "a the man woman in red hair on left of picture Neymar's don't we'll NASA iPhone which region "
    "does text describe naïve Zürich 東京 Москва 2026 3.5 #hashtag @user http://t.co"
)
RANGES = (
    *((0x20, 0x2FF), (0x370, 0x1200), (0x2000, 0x2C00), (0x3040, 0x3100)),
    *((0x4E00, 0x4F00), (0x1F300, 0x1F6C0)),
)


def texts(count: int) -> list[str]:
    """English words, marks, digits, white space, and characters of many scripts, mixed."""
    draws = random.Random(7)
    words = WORDS.split(" ")
    odd = [
        chr(code)
        for first, last in RANGES
        for code in range(first, last)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
    ]
    made = []
    for _ in range(count):
        parts = []
        for _ in range(draws.randrange(1, 12)):
            kind = draws.random()
            if kind < 0.6:
                parts.append(draws.choice(words))
            elif kind < 0.8:
                parts.append("".join(draws.choices(odd, k=draws.randrange(1, 5))))
            elif kind < 0.9:
                parts.append(draws.choice([" ", "  ", "\n", "\t ", "\u00a0", "\u200b", "\ufe0f"]))
            else:
                parts.append("".join(draws.choices("!?.,:;-/'\"()[]<>&%0123456789", k=4)))
        made.append(draws.choice(["", " "]).join(parts))
    return made


def test_the_published_vocabulary_is_read_as_its_definition_says() -> None:
    if not FILES.is_dir():
        pytest.skip("parity/tokenizers/ofa is not in ../shared beside the checkout")
    plain = ByDefinition(FILES)
    ours = OFATokenizer(plain.vocabulary, plain.merges)
    assert (len(plain.vocabulary), len(ours)) == (50265, 59457)
    drawn = texts(6000)
    assert [text for text in drawn if ours.encode(text) != plain.encode(text)] == []
    assert len({token for text in drawn for token in plain.encode(text)}) > 1000
