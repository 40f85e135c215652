"""Questions and answers as token ids, through a checkpoint's own chat template and tokenizer.

A shared module, no backend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jinja2 import TemplateError

from groundling.errors import InputError
from groundling.models.packing import Prompt, TokenIds
from groundling.models.qwen2vl import ImageTokens
from groundling.prompts import Message
from groundling.records import Failure

_STAND_IN = "\ue000"
"""A private-use character that stands for the subject while the template is rendered once."""

_ANSWER = "\ue001"
"""The same for an answer: what the template writes after it is how an answer ends."""

_SWITCH = "enable_thinking"
"""The variable by which templates (Qwen3, Qwen3.5) are told to leave thinking out."""

_OPEN_THOUGHT = re.compile(r"(<(?:think|thinking|thought)>|\[THINK\])\s*\Z", re.I)
"""How a prompt ends that has the model think before it answers."""

_MOST_KEPT = 1 << 16

LONGEST_SUBJECT = 1000
"""Most characters of what a question is about: several times any name or expression of the data
sets, and few enough to leave every checkpoint's context to the image."""


Messages = Callable[[str], list[Message]]
"""Makes a question, as chat messages with one picture, of its subject."""


class Wording:
    """Turns questions into prompts and texts into answers, and back; keeps what it has tokenised.

    The chat template is rendered once, around a stand-in for the subject: rendering it for each
    question costs more than the tokens do. Thinking is off where the template knows the switch.
    `end` is the token that the template writes after an assistant's turn; `ends` are all that end
    an answer: that one, the tokenizer's own and those in `ends` (a generation_config's). Raises
    InputError for a template or tokenizer that cannot be used so.
    """

    def __init__(self, processor: Any, messages: Messages, ends: Iterable[int] = ()) -> None:
        self._tokenizer = processor.tokenizer
        self._image_token: int = processor.image_token_id
        self._controls = sorted(
            {*self._tokenizer.all_special_tokens, *self._tokenizer.get_added_vocab()}
        )
        asked = messages(_STAND_IN)
        rendered = _render(processor, asked)
        if thought := _OPEN_THOUGHT.search(rendered):
            raise InputError(
                f"the chat template ends a prompt in an open thought ({thought.group(1)}) and "
                f"knows no {_SWITCH}; wanted a checkpoint, or a template, that answers at once"
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
        self.end: int = self._turn_end(processor, asked)
        others = {self._tokenizer.eos_token_id, *ends} - {self.end, None}
        self.ends: tuple[int, ...] = (self.end, *sorted(others))
        self._prompts: dict[str, TokenIds] = {}
        self._answers: dict[str, TokenIds] = {}

    def _turn_end(self, processor: Any, asked: Sequence[Message]) -> int:
        """The control token after an assistant's turn; the tokenizer's own where there is none.

        Templates differ in whether they take an answer in parts or as a string.
        """
        for content in ([{"type": "text", "text": _ANSWER}], _ANSWER):
            turn = {"role": "assistant", "content": content}
            try:
                told = _render(processor, [*asked, turn], ask=False)
            except InputError:
                continue
            after = told.rpartition(_ANSWER)[2].lstrip() if _ANSWER in told else ""
            first = next((token for token in self._controls if after.startswith(token)), None)
            if first is not None:
                return self._tokenise(after)[0]
        if self._tokenizer.eos_token_id is None:
            raise InputError(
                "the chat template writes no control token after an answer and the tokenizer has "
                "no eos_token; a writer must know how answers end"
            )
        end: int = self._tokenizer.eos_token_id
        return end

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


def listed_ends(generation: Any) -> tuple[int, ...]:
    """The end tokens that a generation_config lists; it may name one, several or none."""
    said = getattr(generation, "eos_token_id", None)
    return tuple(said) if isinstance(said, list | tuple) else () if said is None else (int(said),)


def chat_template(processor: Any) -> str:
    """A checkpoint's chat template, the processor's or its tokenizer's; raises InputError.

    Checkpoints keep it in chat_template.jinja, in chat_template.json or, with their tokenizer, in
    tokenizer_config.json; of several named ones it is the default.
    """
    for owner in (processor, processor.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    raise InputError(
        "no chat template; wanted chat_template.jinja beside the weights, or chat_template in "
        "tokenizer_config.json: fetch the instruction-tuned checkpoint whole"
    )


def _render(processor: Any, messages: Sequence[Message], ask: bool = True) -> str:
    """A conversation as text, with the beginning of an answer where `ask`; raises InputError."""
    template = chat_template(processor)
    switch = {_SWITCH: False} if _SWITCH in template else {}
    try:
        rendered: str = processor.apply_chat_template(
            list(messages),
            chat_template=template,
            add_generation_prompt=ask,
            tokenize=False,
            **switch,
        )
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as fault:
        words = " ".join(str(fault).split())
        raise InputError(f"the chat template cannot be used: {words}") from fault
    return rendered


def _remember(kept: dict[str, TokenIds], key: str, ids: TokenIds) -> None:
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = ids
