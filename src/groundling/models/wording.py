"""Queries and answers as token ids, through a checkpoint's own chat template and tokenizer.

A shared module, no backend.
"""

from __future__ import annotations

from typing import Any

from groundling.errors import InputError
from groundling.models.packing import Prompt, TokenIds
from groundling.models.qwen2vl import ImageTokens
from groundling.prompts import entity_phrase, writer_messages
from groundling.records import Failure, Query

_STAND_IN = "\ue000"
"""A private-use character that stands for a name while the template is rendered once."""

_MOST_KEPT = 1 << 16


class Wording:
    """Turns queries into prompts and texts into answers, and back; keeps what it has tokenised.

    The chat template is rendered once, around a stand-in for the entity: rendering it for each
    query costs more than the tokens do. Raises InputError for a template or tokenizer that a
    writer cannot use.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        if self._tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no eos_token; a writer must know how answers end")
        self.end: int = self._tokenizer.eos_token_id
        self._image_token: int = processor.image_token_id
        self._controls = sorted(
            {*self._tokenizer.all_special_tokens, *self._tokenizer.get_added_vocab()}
        )
        phrase = entity_phrase(_STAND_IN, "PER")
        rendered = processor.apply_chat_template(
            writer_messages(_STAND_IN, "PER"), add_generation_prompt=True, tokenize=False
        )
        parts = rendered.split(phrase)
        if len(parts) != 2:
            raise InputError(
                f"the chat template shows the entity {len(parts) - 1} times; wanted once"
            )
        self._before, self._after = parts
        self._prompts: dict[str, TokenIds] = {}
        self._answers: dict[str, TokenIds] = {}

    def prompt(self, query: Query, image: ImageTokens) -> Prompt | Failure:
        """The tokens of prompt A.2; a name that holds control tokens is a Failure (`prompt`)."""
        if intruder := next((token for token in self._controls if token in query.name), None):
            return Failure(f"entity name holds the control token {intruder}", "prompt")
        phrase = entity_phrase(query.name, query.type)
        ids = self._prompts.get(phrase)
        if ids is None:
            ids = self._tokenise(self._before + phrase + self._after)
            if ids.count(self._image_token) != 1:
                raise InputError("the chat template must place the picture exactly once")
            _remember(self._prompts, phrase, ids)
        start = ids.index(self._image_token)
        picture = (self._image_token,) * len(image.features)
        return Prompt(ids[:start] + picture + ids[start + 1 :], start, image)

    def answer(self, text: str) -> TokenIds:
        """The tokens of a text and the end token."""
        ids = self._answers.get(text)
        if ids is None:
            ids = (*self._tokenise(text), self.end)
            _remember(self._answers, text, ids)
        return ids

    def text(self, tokens: TokenIds) -> str:
        """Drawn tokens as text, control tokens left out, spaces as they are."""
        decoded: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def _tokenise(self, text: str) -> TokenIds:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _remember(kept: dict[str, TokenIds], key: str, ids: TokenIds) -> None:
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = ids
