"""Questions and answers as token ids, through a checkpoint's own chat template and tokenizer.

A shared module, no backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from groundling.errors import InputError
from groundling.models.packing import Prompt, TokenIds
from groundling.models.qwen2vl import ImageTokens
from groundling.prompts import Message
from groundling.records import Failure

_STAND_IN = "\ue000"
"""A private-use character that stands for the subject while the template is rendered once."""

_MOST_KEPT = 1 << 16

LONGEST_SUBJECT = 1000
"""Most characters of what a question is about: several times any name or expression of the data
sets, and few enough to leave every checkpoint's context to the image."""


Messages = Callable[[str], list[Message]]
"""Makes a question, as chat messages with one picture, of its subject."""


class Wording:
    """Turns questions into prompts and texts into answers, and back; keeps what it has tokenised.

    The chat template is rendered once, around a stand-in for the subject: rendering it for each
    question costs more than the tokens do. Raises InputError for a template or tokenizer that
    cannot be used so.
    """

    def __init__(self, processor: Any, messages: Messages) -> None:
        self._tokenizer = processor.tokenizer
        if self._tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no eos_token; a writer must know how answers end")
        self.end: int = self._tokenizer.eos_token_id
        self._image_token: int = processor.image_token_id
        self._controls = sorted(
            {*self._tokenizer.all_special_tokens, *self._tokenizer.get_added_vocab()}
        )
        rendered = processor.apply_chat_template(
            messages(_STAND_IN), add_generation_prompt=True, tokenize=False
        )
        parts = rendered.split(_STAND_IN)
        if len(parts) != 2:
            raise InputError(
                f"the chat template shows the subject {len(parts) - 1} times; wanted once"
            )
        self._before: str
        self._after: str
        self._before, self._after = parts
        begin = self._tokenizer.bos_token
        self.adds_specials: bool = begin is None or not rendered.startswith(begin)
        self._prompts: dict[str, TokenIds] = {}
        self._answers: dict[str, TokenIds] = {}

    def rendered(self, subject: str) -> str | Failure:
        """The prompt as text.

        A subject that is overlong or holds control tokens is a Failure (`prompt`).
        """
        if len(subject) > LONGEST_SUBJECT:
            return Failure(
                f"{subject[:40]!r}… has {len(subject)} characters; wanted at most "
                f"{LONGEST_SUBJECT}: a name or an expression, not a text",
                "prompt",
            )
        if intruder := next((token for token in self._controls if token in subject), None):
            return Failure(f"{subject!r} holds the control token {intruder}", "prompt")
        return self._before + subject + self._after

    def prompt(self, subject: str, image: ImageTokens) -> Prompt | Failure:
        """The tokens of the prompt, its picture's in their place."""
        text = self.rendered(subject)
        if isinstance(text, Failure):
            return text
        ids = self._prompts.get(text)
        if ids is None:
            ids = self._tokenise(text)
            if ids.count(self._image_token) != 1:
                raise InputError("the chat template must place the picture exactly once")
            _remember(self._prompts, text, ids)
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
