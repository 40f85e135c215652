"""Calls of an OpenAI-compatible endpoint: within limits of time, tries and money, many at once.

What one query meets is a `Failure` in its place. What every query would meet (a refused key, an
unknown model, an account without credit, an endpoint that answers nobody) stops the run with an
InputError. The key is read from the environment, goes into one header, and nowhere else.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from groundling.errors import ImageError, InputError
from groundling.models.adapters import adapter_name
from groundling.models.api.backoff import Backoff, Clock, retry_after_s
from groundling.models.api.cache import AnswerCache
from groundling.models.api.crowd import in_threads
from groundling.models.api.ledger import Ledger
from groundling.models.api.settings import EndpointConfig, is_loopback
from groundling.models.api.wire import (
    BadReplyError,
    Chat,
    Choice,
    Reply,
    Usage,
    answer_key,
    asked_digest,
    draw_seed,
    read_reply,
    request_body,
    server_words,
)
from groundling.records import Failure

MOST_BYTES = 32 * 2**20
"""Largest reply that is read."""

Answers = list[Choice | Failure]
"""The K samples of one chat, each an answer or a failure."""


@dataclass(frozen=True, slots=True)
class _Setback:
    """A try that brought nothing: why, whether another may, and whether it may have been charged.

    `everyone` where each other call would meet the same.
    """

    reason: str
    again: bool = False
    charged: bool = False
    usage: Usage | None = None
    told_s: float | None = None
    everyone: bool = False


class _TooLongError(Exception):
    """A reply that goes on beyond its limit of time or size."""


class ApiClient:
    """An endpoint, ready to be asked from any thread. `model` is the name it is asked for."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        cache: AnswerCache | None = None,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self.config = config
        self.model = config.model
        self.cache_hits = 0
        self.ledger = Ledger() if ledger is None else ledger
        self._cache = cache
        self._clock = clock or Clock()
        self._backoff = Backoff(config.backoff_s, config.longest_backoff_s, seed)
        self._key = _read_key(config)
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        headers = {"Content-Type": "application/json", "User-Agent": "groundling"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(
                config.read_timeout_s, connect=config.connect_timeout_s, pool=None
            ),
            limits=httpx.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
            follow_redirects=False,
            trust_env=not is_loopback(config.endpoint),  # a proxy cannot reach this machine
        )

    def __repr__(self) -> str:
        return f"ApiClient({self.config.endpoint!r}, model={self.model!r})"

    def close(self) -> None:
        """Close connections and the ledger."""
        self._http.close()
        self.ledger.close()

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, chats: Sequence[Callable[[], Chat]]) -> Iterator[tuple[int, Answers | Failure]]:
        """The K samples of each chat with its place, as they come in, many at once.

        A chat is made when its turn comes; an ImageError there is a Failure of stage `image`.
        Raises InputError for what every call would meet.
        """
        jobs = [lambda chat=chat: self._answer(chat) for chat in chats]
        return in_threads(jobs, self.config.concurrency)

    def load_adapter(self, folder: Path) -> str:
        """Let a vLLM server load the LoRA adapter in `folder`, and ask for it from now on.

        The server must see the same path and run with `--enable-lora` and
        VLLM_ALLOW_RUNTIME_LORA_UPDATING. The adapter goes by the digest of its weights, so that
        cached answers of one adapter are never taken for another's. Returns that name. Raises
        InputError where there is no adapter, or the server does not take it.
        """
        name = adapter_name(folder)
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        url = f"{self.config.endpoint}/load_lora_adapter"
        try:
            answer = self._http.post(url, json=body)
        except httpx.HTTPError as fault:
            raise InputError(f"{url}: no answer ({type(fault).__name__}); start vLLM") from fault
        there = answer.status_code == 400 and "already" in answer.text
        if answer.status_code != 200 and not there:
            told = self._told(answer.status_code, self._clean(answer.content))
            raise InputError(
                f"{url}: {told}; wanted a vLLM server with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
        self.model = name
        return name

    def _answer(self, make: Callable[[], Chat]) -> Answers | Failure:
        try:
            chat = make()
        except ImageError as fault:
            return Failure(str(fault), "image")
        asked, where = asked_digest(chat), (self.config.endpoint, self.model, self.config.server)
        keys = [answer_key(asked, *where, sample) for sample in range(chat.k)]
        found: list[Choice | Failure | None] = [self._find(key, chat) for key in keys]
        missing = [place for place, choice in enumerate(found) if choice is None]
        # A greedy answer is drawn once a call; transformers serve knows no `n` at all.
        together = chat.temperature > 0 and self.config.server != "transformers"
        while missing:
            n = len(missing) if together else 1
            reply = self._call(chat, n, draw_seed(asked, missing[0]))
            if isinstance(reply, Failure):
                return reply
            for place, said in zip(missing, reply.choices, strict=False):
                found[place] = choice = chat.checked(said)
                if self._cache is not None and isinstance(choice, Choice):
                    self._cache.store(keys[place], choice)
            missing = missing[len(reply.choices) :]
        return [choice for choice in found if choice is not None]

    def _find(self, key: str, chat: Chat) -> Choice | None:
        """The stored answer, if it is one to this question."""
        choice = None if self._cache is None else self._cache.find(key)
        if choice is None or isinstance(chat.checked(choice), Failure):
            return None
        with self._lock:
            self.cache_hits += 1
        return choice

    def _call(self, chat: Chat, n: int, seed: int) -> Reply | Failure:
        """One request, tried until it is answered or there is no point in another try."""
        request = request_body(chat, self.model, self.config.server, n, seed)
        body = json.dumps(request, ensure_ascii=True).encode()
        for tried in range(1, self.config.attempts + 1):
            outcome = self._paid(body, chat, n)
            if not isinstance(outcome, _Setback):
                return outcome
            if outcome.everyone:
                raise InputError(f"{self.config.endpoint}: {outcome.reason}")
            told = outcome.told_s
            if told is not None and told > self.config.longest_wait_s:
                return self._failed(f"{outcome.reason} (asks for a wait of {told:.0f} s)")
            if not outcome.again:
                return self._failed(outcome.reason, "answer")
            if tried == self.config.attempts:
                return self._failed(f"{outcome.reason} (tried {tried} times)")
            self._clock.sleep(self._backoff.wait_s(tried, told))
        raise AssertionError("at least one try")

    def _paid(self, body: bytes, chat: Chat, n: int) -> Reply | _Setback | Failure:
        """One try, entered in the ledger before and after."""
        reservation = self.ledger.reserve(Usage(chat.input_tokens, chat.max_tokens * n))
        if reservation is None:
            return Failure("the budget is used up; run again with a larger one", "budget")
        try:
            outcome = self._try(body, chat, n)
        except BaseException:
            self.ledger.settle(reservation, None, charged=True)
            raise
        charged = isinstance(outcome, Reply) or outcome.charged
        self.ledger.settle(reservation, outcome.usage, charged=charged)
        if isinstance(outcome, Reply):
            with self._lock:
                self._failed_in_a_row = 0
        return outcome

    def _failed(self, reason: str, stage: str = "api") -> Failure:
        """Why a call brought nothing: of stage `api` if that may pass, `answer` if it is final."""
        with self._lock:
            self._failed_in_a_row += 1
            count = self._failed_in_a_row
        if count >= self.config.give_up_after:
            raise InputError(
                f"{self.config.endpoint}: {count} calls in a row failed, the last with: {reason}; "
                "see to the endpoint and run again"
            )
        return Failure(reason, stage)

    def _try(self, body: bytes, chat: Chat, n: int) -> Reply | _Setback:
        url = f"{self.config.endpoint}/chat/completions"
        start_s = self._clock.monotonic()
        try:
            with self._http.stream("POST", url, content=body) as response:
                data = self._read(response, start_s)
                status, told = response.status_code, response.headers.get("Retry-After")
        except (httpx.ConnectTimeout, httpx.ConnectError) as fault:
            return _Setback(f"no connection: {type(fault).__name__}", again=True)
        except (httpx.WriteError, httpx.WriteTimeout):
            return _Setback("the connection broke while asking", again=True)
        except httpx.TimeoutException:
            limit = self.config.read_timeout_s
            return _Setback(f"silent for {limit:g} s", again=True, charged=True)
        except _TooLongError as fault:
            return _Setback(str(fault), again=True, charged=True)
        except httpx.RequestError as fault:
            reason = f"the connection broke: {type(fault).__name__}"
            return _Setback(reason, again=True, charged=True)
        if status != 200:
            return self._refused(status, data, told)
        try:
            return read_reply(data, chat, n, self.config.server)
        except BadReplyError as fault:
            return _Setback(str(fault), again=True, charged=True, usage=fault.usage)

    def _read(self, response: httpx.Response, start_s: float) -> bytes:
        """The body, within the limits of time and size; should it hold the key, without it."""
        most_s = self.config.total_timeout_s
        chunks, size = [], 0
        for chunk in response.iter_bytes():
            chunks.append(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                raise _TooLongError(f"a reply of more than {MOST_BYTES // 2**20} MiB")
            if self._clock.monotonic() - start_s > most_s:
                raise _TooLongError(f"no whole reply within {most_s:g} s")
        return self._clean(b"".join(chunks))

    def _refused(self, status: int, data: bytes, told: str | None) -> _Setback:
        """What a status other than 200 means."""
        if status in (401, 403):
            variable = self.config.api_key_env or "no variable"
            given = "was refused" if self._key is not None else "is needed and none is set"
            # The server's own words are left out: some repeat a part of the key.
            return _Setback(f"HTTP {status}: a key {given} (from {variable})", everyone=True)
        reason = self._told(status, data)
        if status == 404:
            hint = f"is {self.model!r} its model, and does the URL end in its version (/v1)?"
            return _Setback(f"{reason}; {hint}", everyone=True)
        if status == 429 and b"insufficient_quota" in data:
            return _Setback(f"{reason}; the account has no credit left", everyone=True)
        if status in (408, 429) or status >= 500:
            return _Setback(reason, again=True, told_s=retry_after_s(told, self._clock.wall()))
        return _Setback(reason)

    def _told(self, status: int, data: bytes) -> str:
        try:
            parsed: Any = json.loads(data)
        except (ValueError, RecursionError):
            parsed = data.decode("utf-8", "replace")
        words = server_words(parsed)
        return f"HTTP {status}: {words}" if words else f"HTTP {status}"

    def _clean(self, data: bytes) -> bytes:
        return data if self._key is None else data.replace(self._key.encode(), b"[key]")


def _read_key(config: EndpointConfig) -> str | None:
    """The key in the environment. Raises InputError for one that would travel in the clear."""
    variable = config.api_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{variable}: not a key; wanted printable ASCII without spaces")
    if config.endpoint.startswith("http://") and not is_loopback(config.endpoint):
        raise InputError(
            f"{config.endpoint}: would get the key in {variable} unencrypted; use https, or set "
            "api_key_env to null (--api-key-env '') where no key is wanted"
        )
    return key
