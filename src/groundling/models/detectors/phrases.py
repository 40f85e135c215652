"""An expression as Grounding DINO reads it: one phrase of word pieces, closed by a full stop.

The text is lower-cased and ends in a full stop, as in training (`preprocess_caption` of the
authors' code; transformers' documentation asks for the same). The model cuts its text at [CLS],
[SEP], full stops and question marks: word pieces attend to each other only within such a part, and
a part that is not closed before the last [SEP] is not read at all. So those inside an expression
("Mr. Bean?") are left out, and one full stop is put at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import SPECIAL_TOKENS

from groundling.errors import InputError

_STOP, _QUESTION = ".", "?"

Phrase = tuple[int, ...]
"""The word pieces of an expression."""


@dataclass(frozen=True, slots=True)
class PhraseBatch:
    """B phrases, padded right to L tokens; the model scores T ≥ L tokens.

    `phrase` marks the expression's own word pieces, neither [CLS], [SEP] nor the full stop;
    `text` marks all that are not padding.
    """

    input_ids: Tensor
    """(B, L)"""
    attention_mask: Tensor
    """(B, L)"""
    text: Tensor
    """(B, T), bool"""
    phrase: Tensor
    """(B, T), bool"""


class PhraseReader:
    """Expressions → batches of tokens. An expression of more than `longest` pieces is cut there."""

    def __init__(self, tokenizer: Any, max_text_len: int) -> None:
        """`max_text_len` is T, the tokens a model scores (256 as published).

        Raises InputError for a tokenizer whose delimiters are not those built into the model.
        """
        stops = tokenizer.convert_tokens_to_ids([_STOP, _QUESTION])
        ours = [tokenizer.cls_token_id, tokenizer.sep_token_id, *stops]
        if ours != list(SPECIAL_TOKENS) or tokenizer.pad_token_id != 0:
            raise InputError(
                f"the tokenizer numbers [CLS], [SEP], '.', '?' {ours} and [PAD] "
                f"{tokenizer.pad_token_id}; wanted {list(SPECIAL_TOKENS)} and 0, as in BERT's "
                "uncased vocabulary, which Grounding DINO is built on"
            )
        self._tokenizer = tokenizer
        self._start, self._end, self._stop, _ = ours
        self._dropped = {*tokenizer.all_special_ids, *ours} - {tokenizer.unk_token_id}
        self._max_text_len = max_text_len
        self.longest = max_text_len - 3

    def read(self, expression: str) -> Phrase:
        """The phrase of an expression, without [CLS], full stop and [SEP]; () for no words."""
        pieces = self._tokenizer(expression.lower(), add_special_tokens=False, verbose=False)
        kept = [piece for piece in pieces["input_ids"] if piece not in self._dropped]
        return tuple(kept[: self.longest])

    def batch(self, phrases: Sequence[Phrase]) -> PhraseBatch:
        """Phrases as `read` returned them → one batch."""
        rows = [[self._start, *phrase, self._stop, self._end] for phrase in phrases]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        text = torch.zeros(len(rows), self._max_text_len, dtype=torch.bool)
        phrase = torch.zeros_like(text)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            text[i, : len(row)] = True
            phrase[i, 1 : len(row) - 2] = True
        return PhraseBatch(ids, text[:, : ids.shape[1]].long(), text, phrase)
