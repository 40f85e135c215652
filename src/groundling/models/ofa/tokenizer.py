"""OFA's vocabulary: BART's byte-level BPE, then image codes, then the bins of boxes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from groundling import atomic
from groundling.errors import DataError, InputError
from groundling.strict_json import read_object

START, PAD, END, UNKNOWN = 0, 1, 2, 3
"""Where the special tokens `<s> <pad> </s> <unk>` stand in every vocabulary."""

CODES, BINS = 8192, 1000
"""Image codes and bins of the published vocabularies: 50265 + 8192 + 1000 = 59457 tokens."""

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_ADDED = re.compile(r"<(code|bin)_(\d+)>")


class OFATokenizer:
    """Text ↔ tokens, and which tokens are bins.

    Text is read as plain text: an expression that spells `</s>` or `<bin_5>` yields the tokens of
    its characters, as in OFA's own data code, never the special token.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        codes: int = CODES,
        bins: int = BINS,
    ) -> None:
        """`vocabulary` is BART's part alone; raises InputError where its numbering is not."""
        numbers = sorted(vocabulary.values())
        if numbers != list(range(len(vocabulary))):
            raise InputError("the vocabulary's numbers are not 0, 1, 2, … without a gap")
        if [vocabulary.get(token) for token in _SPECIAL] != [START, PAD, END, UNKNOWN]:
            raise InputError(f"the vocabulary does not begin with {' '.join(_SPECIAL)}")
        self.vocabulary = dict(vocabulary)
        self.merges = [(first, second) for first, second in merges]
        self.codes = codes
        self.bins = bins
        self._bpe = Tokenizer(
            models.BPE(vocab=self.vocabulary, merges=self.merges, unk_token="<unk>")
        )
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.decoder = decoders.ByteLevel()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> OFATokenizer:
        """Read `vocab.json` and `merges.txt`, as the published folders hold them.

        Codes and bins may stand in `vocab.json`, in `added_tokens.json`, or nowhere: then they are
        the published ones. Raises InputError or DataError for anything else.
        """
        folder = Path(folder)
        vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
        for file in (vocab_file, merges_file):
            if not file.is_file():
                raise InputError(f"{folder}: no OFA vocabulary here; wanted {file.name}")
        entries = _read_numbers(vocab_file)
        if (folder / "added_tokens.json").is_file():
            entries |= _read_numbers(folder / "added_tokens.json")
        text = {token: i for token, i in entries.items() if not _ADDED.fullmatch(token)}
        added = {token: i for token, i in entries.items() if _ADDED.fullmatch(token)}
        codes, bins = CODES, BINS
        if added:
            codes = sum(token.startswith("<code_") for token in added)
            bins = len(added) - codes
        try:
            made = cls(text, _read_merges(merges_file), codes, bins)
        except (InputError, ValueError) as fault:
            raise InputError(f"{folder}: not an OFA vocabulary ({fault})") from fault
        if added and added != made.added_tokens():
            raise InputError(
                f"{folder}: codes and bins are out of order; "
                "wanted every <code_i>, then every <bin_i>, after the text vocabulary"
            )
        return made

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `vocab.json`, `merges.txt` and `added_tokens.json`."""
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        files = {
            "vocab.json": json.dumps(self.vocabulary, ensure_ascii=False),
            "added_tokens.json": json.dumps(self.added_tokens()),
            "merges.txt": "\n".join(lines) + "\n",
        }
        for name, text in files.items():
            atomic.write_bytes(Path(folder) / name, text.encode())

    def __len__(self) -> int:
        return len(self.vocabulary) + self.codes + self.bins

    @property
    def first_bin(self) -> int:
        """The token of `<bin_0>`; the others follow."""
        return len(self.vocabulary) + self.codes

    def added_tokens(self) -> dict[str, int]:
        """Every code and bin by its name."""
        first_code = len(self.vocabulary)
        names = {f"<code_{i}>": first_code + i for i in range(self.codes)}
        return names | {f"<bin_{i}>": self.first_bin + i for i in range(self.bins)}

    def bin_of(self, token: int) -> int | None:
        """The bin that a token is, None for any other token."""
        place = token - self.first_bin
        return place if 0 <= place < self.bins else None

    def encode(self, text: str) -> list[int]:
        """A text as `<s> … </s>`."""
        return [START, *self._bpe.encode(text, add_special_tokens=False).ids, END]

    def batch(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of tokens → (B, L), padded at the end."""
        table = torch.full((len(rows), max(map(len, rows))), PAD)
        for i, row in enumerate(rows):
            table[i, : len(row)] = torch.tensor(row)
        return table

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; bins and codes by name, the special tokens left out."""
        names = {number: name for name, number in self.added_tokens().items()}
        parts: list[str] = []
        text: list[int] = []
        for token in [*tokens, START]:
            if token > UNKNOWN and token not in names:
                text.append(token)
                continue
            parts.append(self._bpe.decode(text, skip_special_tokens=False) if text else "")
            parts.append(names.get(token, ""))
            text = []
        return "".join(parts)


def _read_numbers(path: Path) -> dict[str, int]:
    """A JSON object of token and number."""
    entries = read_object(path)
    if not all(type(i) is int for i in entries.values()):
        raise DataError(path, "wanted a JSON object of token and number")
    return entries


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(path, f"cannot be read as UTF-8 text ({fault})") from fault


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges, best first; a first line that names a version is no merge."""
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise DataError(path, f"wanted two parts, got {line[:60]!r}", number)
        merges.append((pair[0], pair[1]))
    return merges
