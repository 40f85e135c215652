"""Requests and replies of `/chat/completions` as JSON; nothing here opens a connection.

Every request sets its sampling settings itself, so that what a checkpoint ships never applies:
temperature and `top_p` 1 everywhere; for vLLM also `top_k` −1, `min_p` 0 and `repetition_penalty`
1; for `transformers serve`, which refuses unknown fields and knows these only inside its own
`generation_config`, the same settings there. (It would decode greedily otherwise, whatever the
temperature, unless the checkpoint says `do_sample`.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from groundling.models.api.manner import Manner
from groundling.models.api.settings import Server
from groundling.prompts import Message
from groundling.records import Failure
from groundling.replies.shapes import CHARACTERS_A_TOKEN
from groundling.strict_json import parse_json

STOPPED = ("stop", "eos", "eos_token", "stop_sequence")
"""Finish reasons that mean: the answer is whole."""

TEXT_PARTS = ("text", "output_text")
"""Types of the parts of a content that are the answer's text."""

MOST_TOKENS = 10**8
"""More than this no call uses; a server that says so does not know."""

SHOWN = 120
"""Most characters of a server's own words in a reason."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; `logprob` in nats at temperature 1, its end token included, where known."""

    text: str
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call brought: its choices, each an answer or a failure, and what it used."""

    choices: tuple[Choice | Failure, ...]
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to complete `k` times. Its messages hold pictures as data URIs.

    `picture_tokens` is the most that the pictures are thought to cost. `check` says what is wrong
    with a text that is no answer to this question; None accepts whatever is said. `keep_cut` takes
    an answer that was cut at `max_tokens` as it stands. `temperature` None leaves it to the server.
    `schema` is a JSON schema of the answer, for a server that takes one.
    """

    messages: tuple[Message, ...]
    temperature: float | None
    max_tokens: int
    k: int = 1
    seed: int = 0
    picture_tokens: int = 0
    check: Callable[[str], Failure | None] | None = None
    keep_cut: bool = False
    schema: Mapping[str, Any] | None = None

    @property
    def greedy(self) -> bool:
        """Whether every answer is the likeliest one; a temperature that is not sent draws."""
        return self.temperature == 0

    @property
    def input_tokens(self) -> int:
        """An upper bound of the prompt's tokens: no token is shorter than a byte of text."""
        texts = [part.get("text", "") for message in self.messages for part in message["content"]]
        template = 64 * len(self.messages)
        return self.picture_tokens + template + sum(len(text.encode()) for text in texts)

    def checked(self, choice: Choice | Failure) -> Choice | Failure:
        """The choice, or what is wrong with it."""
        if self.check is None or isinstance(choice, Failure):
            return choice
        return self.check(choice.text) or choice


class BadReplyError(Exception):
    """A body that is no reply; the message is the reason, in a few words."""

    def __init__(self, reason: str, usage: Usage | None = None) -> None:
        self.usage = usage
        super().__init__(reason)


def with_pictures(
    messages: list[Message], uris: list[str], detail: str | None = None
) -> tuple[Message, ...]:
    """Messages of `groundling.prompts` in OpenAI's form, their pictures in order from `uris`."""
    how = {} if detail is None else {"detail": detail}
    left = iter(uris)

    def part(one: dict[str, Any]) -> dict[str, Any]:
        if one["type"] != "image":
            return one
        return {"type": "image_url", "image_url": {"url": next(left), **how}}

    return tuple({**m, "content": [part(one) for one in m["content"]]} for m in messages)


def asked_digest(chat: Chat) -> str:
    """SHA-256 of all that is asked, wherever that is; the seed counts only where one draws."""
    asked = {
        "messages": chat.messages,
        "temperature": chat.temperature,
        "max_tokens": chat.max_tokens,
        "seed": None if chat.greedy else chat.seed,
        "schema": chat.schema,
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def answer_key(asked: str, endpoint: str, model: str, manner: str, sample: int) -> str:
    """SHA-256 of what decides an answer: what is asked (a digest), where, how, which of K samples.

    No secret goes into it.
    """
    return _digest({"asked": asked, "at": [endpoint, model, manner], "sample": sample})


def draw_seed(asked: str, sample: int) -> int:
    """The seed of a request whose first sample is `sample`; the same wherever it is sent."""
    return int(_digest({"asked": asked, "sample": sample})[:8], 16) >> 1


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def request_body(chat: Chat, model: str, manner: Manner, n: int, seed: int) -> dict[str, Any]:
    """The JSON of one call for `n` choices; `seed` is sent only where something is drawn."""
    body: dict[str, Any] = {**manner.extra, "model": model, "messages": list(chat.messages)}
    body[manner.limit_key] = chat.max_tokens
    if not chat.greedy and manner.seed:
        body["seed"] = seed
    if n > 1:
        body["n"] = n
    if chat.schema is not None:
        form = {"name": "answer", "strict": True, "schema": chat.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if manner.server == "transformers":
        return body | {"generation_config": _generation_config(chat, manner)}
    if chat.temperature is not None:
        body["temperature"] = chat.temperature
    if manner.top_p is not None:
        body["top_p"] = manner.top_p
    if manner.server == "vllm":
        body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "logprobs": True}
    return body


def _generation_config(chat: Chat, manner: Manner) -> str:
    """transformers' own settings; what they leave out is the checkpoint's (its end tokens)."""
    settings: dict[str, Any] = {
        "do_sample": not chat.greedy,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "max_new_tokens": chat.max_tokens,
    }
    if not chat.greedy:
        drawn = {"temperature": chat.temperature, "top_p": manner.top_p, "top_k": 0}
        settings |= {key: value for key, value in drawn.items() if value is not None}
    return json.dumps(settings)


class _Loose(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Token(_Loose):
    token: str
    logprob: float


class _Logprobs(_Loose):
    content: list[_Token] | None = None


class _Part(_Loose):
    """A part of an answer's content; one that is no text (thoughts, say) is no answer."""

    type: str
    text: str | None = None


class _Message(_Loose):
    content: str | list[_Part] | None = None
    refusal: str | None = None

    @property
    def said(self) -> str:
        """The text, of all parts that are text."""
        if isinstance(self.content, list):
            texts = [part.text or "" for part in self.content if part.type in TEXT_PARTS]
            return "".join(texts)
        return self.content or ""


class _Choice(_Loose):
    index: int = 0
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(_Loose):
    prompt_tokens: int = Field(ge=0, le=MOST_TOKENS)
    completion_tokens: int = Field(default=0, ge=0, le=MOST_TOKENS)


class _Reply(_Loose):
    choices: list[_Choice] = Field(min_length=1)


def read_reply(
    data: bytes, chat: Chat, n: int, server: Server, hide: Callable[[str], str] = str
) -> Reply:
    """The reply in a body, its choices in order, at most `n` of them. Raises BadReplyError.

    `hide` clears the server's own words, where they become a reason, of what must not be shown.
    """
    try:
        raw = parse_json(data)
    except ValueError as fault:
        raise BadReplyError(f"the reply is no whole JSON: {hide(str(fault))}") from fault
    try:
        reply = _Reply.model_validate(raw)
    except (ValidationError, RecursionError) as fault:
        said = server_words(raw, hide)
        place = fault.errors()[0]["loc"] if isinstance(fault, ValidationError) else ()
        where = ".".join(str(part) for part in place)
        reason = "the reply is not a chat completion"
        raise BadReplyError(f"{reason}: {said or where or 'no object'}", _usage(raw)) from fault
    choices = sorted(reply.choices, key=lambda choice: choice.index)[:n]
    return Reply(tuple(_read_choice(choice, chat, server, hide) for choice in choices), _usage(raw))


def words_of(body: bytes, hide: Callable[[str], str] = str) -> str:
    """A server's own account of an error, from the body of its reply; see `server_words`."""
    try:
        return server_words(json.loads(body), hide)
    except (ValueError, RecursionError):
        return server_words(body[: 2**16].decode("utf-8", "replace"), hide)


def server_words(raw: object, hide: Callable[[str], str] = str) -> str:
    """A server's own account of an error, in one short line; empty where it gives none."""
    found = raw.get("error", raw) if isinstance(raw, dict) else raw
    if isinstance(found, dict):
        found = next((found[key] for key in ("message", "detail") if found.get(key)), "")
    try:
        text = str(found) if isinstance(found, str | list) else ""
    except RecursionError:
        text = ""
    text = hide(" ".join(text[: 2**16].split()))
    text = text if _is_text(text) else text.encode("utf-8", "replace").decode()
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8: JSON can spell half a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _usage(raw: object) -> Usage | None:
    """What a reply says it used; None where it does not say, or nothing that can be."""
    try:
        usage = _Usage.model_validate(raw["usage"] if isinstance(raw, dict) else None)
    except (ValidationError, LookupError, RecursionError):
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens)


def _read_choice(
    choice: _Choice, chat: Chat, server: Server, hide: Callable[[str], str]
) -> Choice | Failure:
    message, text = choice.message, choice.message.said.strip()
    if message.refusal:
        return Failure(f"refused: {server_words(message.refusal, hide)}", "answer", "refused")
    if len(text) > CHARACTERS_A_TOKEN * chat.max_tokens:
        reason = f"{len(text)} characters, where {chat.max_tokens} tokens were asked for"
        return Failure(reason, "answer", "beyond-limit")
    cut = choice.finish_reason == "length"
    if cut and chat.keep_cut and text:
        return Choice(text)
    if cut:
        reason = f"cut off at {chat.max_tokens} tokens; raise max_tokens"
        return Failure(reason, "answer", "cut")
    if choice.finish_reason == "content_filter":
        return Failure("withheld by a content filter", "answer", "filtered")
    if choice.finish_reason not in STOPPED:
        return Failure(f"ended by {choice.finish_reason!r}; wanted 'stop'", "answer")
    if not text:
        return Failure("an empty answer", "answer", "empty")
    known = server == "vllm" and text == message.said
    return Choice(text, _logprob(choice) if known else None)


def _logprob(choice: _Choice) -> float | None:
    """log p(text + end) where the tokens go on beyond the text: the end token is among them."""
    tokens = (choice.logprobs and choice.logprobs.content) or []
    if not tokens or "".join(token.token for token in tokens) == choice.message.said:
        return None
    return sum(token.logprob for token in tokens)
