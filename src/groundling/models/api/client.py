"""Calls of an OpenAI-compatible endpoint: within limits of time, tries and money, many at once.

What one query meets is a `Failure` in its place. What every query would meet (a refused key, an
unknown model, an account without credit, an endpoint that answers nobody) stops the run with an
InputError. What is shown or written is cleared of the key, never what is read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from groundling.errors import ImageError, InputError
from groundling.models.adapters import adapter_name
from groundling.models.api.backoff import Backoff, Clock, retry_after_s
from groundling.models.api.cache import AnswerCache
from groundling.models.api.crowd import Flights, in_threads
from groundling.models.api.ledger import Ledger
from groundling.models.api.manner import manner_of
from groundling.models.api.secret import read_secret
from groundling.models.api.settings import EndpointConfig
from groundling.models.api.transport import Arrived, LostError, Transport
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
    words_of,
)
from groundling.records import Failure

Answers = list[Choice | Failure]
"""The K samples of one chat, each an answer or a failure."""


@dataclass(frozen=True, slots=True)
class _Setback:
    """A try that brought nothing: why, whether another may, and whether it may have been charged.

    `everyone` where each other call would meet the same, `mute` where the server said nothing.
    """

    reason: str
    again: bool = False
    charged: bool = False
    usage: Usage | None = None
    told_s: float | None = None
    everyone: bool = False
    mute: bool = False


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
        self.manner = manner_of(config)
        self._secret = read_secret(config)
        self._http = Transport(config, self._secret.value, self._clock.monotonic)
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._mute_tries: int | None = 0  # None once the server has said anything

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

        A chat is made when its turn comes; an ImageError there is a Failure of stage `image`. Of
        equal ones the first is asked and the others take what it brings. Raises InputError for
        what every call would meet.
        """
        flights = Flights[Answers | Failure]()
        jobs = [lambda chat=chat: self._answer(chat, flights) for chat in chats]
        return in_threads(jobs, self.config.concurrency)

    @property
    def own_temperature(self) -> str:
        """What to tell where no temperature is sent; empty where one is."""
        if self.manner.temperature:
            return ""
        return f"{self.model} is sent no temperature: it draws its answers at its own"

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
            answer = self._http.post("load_lora_adapter", json.dumps(body).encode())
        except LostError as fault:
            raise InputError(self._secret.hide(f"{url}: no answer ({fault}); start vLLM")) from None
        there = answer.status == 400 and b"already" in answer.data
        if answer.status != 200 and not there:
            raise InputError(
                f"{self._secret.hide(url)}: {self._told(answer)}; wanted a vLLM server with "
                "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
        self.model = name
        return name

    def _answer(
        self, make: Callable[[], Chat], flights: Flights[Answers | Failure]
    ) -> Answers | Failure:
        try:
            chat = self._sendable(make())
        except ImageError as fault:
            return Failure(str(fault), "image")
        asked = asked_digest(chat)
        drawn = flights.once(f"{asked} {chat.k}", lambda: self._drawn(chat, asked))
        if isinstance(drawn, Failure):
            return drawn
        checked = [self._checked(choice, chat) for choice in drawn]
        return checked * (chat.k // len(checked))

    def _sendable(self, chat: Chat) -> Chat:
        """A chat without what the server does not take: it then draws at its own temperature."""
        taken = chat.temperature if self.manner.temperature else None
        return replace(
            chat, temperature=taken, schema=chat.schema if self.manner.json_schema else None
        )

    def _drawn(self, chat: Chat, asked: str) -> Answers | Failure:
        """The K answers as they were said; of greedy ones a single one. Those that hold are kept.

        From the cache, as far as they are there.
        """
        where = (self.config.endpoint, self.model, self.manner.digest())
        places = range(1 if chat.greedy else chat.k)
        keys = [answer_key(asked, *where, sample) for sample in places]
        found: list[Choice | Failure | None] = [self._find(key, chat) for key in keys]
        missing = [place for place, choice in enumerate(found) if choice is None]
        while missing:
            n = len(missing) if self.manner.n else 1
            reply = self._call(chat, n, draw_seed(asked, missing[0]))
            if isinstance(reply, Failure):
                return reply
            for place, said in zip(missing, reply.choices, strict=False):
                found[place] = said
                kept = self._checked(said, chat)
                if self._cache is not None and isinstance(kept, Choice):
                    self._cache.store(keys[place], kept)
            missing = missing[len(reply.choices) :]
        return [choice for choice in found if choice is not None]

    def _checked(self, choice: Choice | Failure, chat: Chat) -> Choice | Failure:
        """The choice, or what is wrong with it, in words that do not hold the key."""
        if isinstance(choice, Choice) and self._secret.is_in(choice.text):
            return Failure("repeats the key that the server was sent", "answer")
        checked = chat.checked(choice)
        if isinstance(checked, Failure):
            return replace(checked, reason=self._secret.hide(checked.reason))
        return checked

    def _find(self, key: str, chat: Chat) -> Choice | None:
        """The stored answer, if it is one to this question."""
        choice = None if self._cache is None else self._cache.find(key)
        if choice is None or isinstance(self._checked(choice, chat), Failure):
            return None
        with self._lock:
            self.cache_hits += 1
        return choice

    def _call(self, chat: Chat, n: int, seed: int) -> Reply | Failure:
        """One request, tried until it is answered or there is no point in another try."""
        request = request_body(chat, self.model, self.manner, n, seed)
        body = json.dumps(request, ensure_ascii=True).encode()
        for tried in range(1, self.config.attempts + 1):
            outcome = self._paid(body, chat, n)
            if not isinstance(outcome, _Setback):
                return outcome
            if outcome.everyone:
                raise InputError(self._secret.hide(f"{self.config.endpoint}: {outcome.reason}"))
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
        unknown = 0 if self.config.picture_tokens else chat.picture_tokens
        reservation = self.ledger.reserve(Usage(chat.input_tokens, chat.max_tokens * n), unknown)
        if reservation is None:
            return Failure("the budget is used up; run again with a larger one", "budget")
        try:
            outcome = self._try(body, chat, n)
        except BaseException:
            self.ledger.settle(reservation, None, charged=True)
            raise
        charged = isinstance(outcome, Reply) or outcome.charged
        self.ledger.settle(reservation, outcome.usage, charged=charged)
        self._listen(outcome)
        if isinstance(outcome, Reply):
            with self._lock:
                self._failed_in_a_row = 0
        return outcome

    def _listen(self, outcome: Reply | _Setback) -> None:
        """Raise InputError where a server that never said anything was tried often enough.

        A call alone would wait for hours: each of its tries for as long as a silence may last.
        """
        with self._lock:
            if isinstance(outcome, Reply) or not outcome.mute:
                self._mute_tries = None
            if self._mute_tries is None or isinstance(outcome, Reply):
                return
            self._mute_tries += 1
            count = self._mute_tries
        if count >= self.config.give_up_after:
            raise InputError(
                self._secret.hide(
                    f"{self.config.endpoint}: no answer to {count} tries, the last with: "
                    f"{outcome.reason}; see to the endpoint and run again"
                )
            )

    def _failed(self, reason: str, stage: str = "api") -> Failure:
        """Why a call brought nothing: of stage `api` if that may pass, `answer` if it is final."""
        reason = self._secret.hide(reason)
        with self._lock:
            self._failed_in_a_row += 1
            count = self._failed_in_a_row
        if count >= self.config.give_up_after:
            where = self._secret.hide(self.config.endpoint)
            raise InputError(
                f"{where}: {count} calls in a row failed, the last with: {reason}; see to the "
                "endpoint and run again"
            )
        return Failure(reason, stage)

    def _try(self, body: bytes, chat: Chat, n: int) -> Reply | _Setback:
        try:
            arrived = self._http.post("chat/completions", body)
        except LostError as fault:
            return _Setback(str(fault), again=True, charged=fault.charged, mute=fault.mute)
        if arrived.status != 200:
            return self._refused(arrived, body)
        try:
            return read_reply(arrived.data, chat, n, self.config.server, self._secret.hide)
        except BadReplyError as fault:
            return _Setback(str(fault), again=True, charged=True, usage=fault.usage)

    def _refused(self, arrived: Arrived, body: bytes) -> _Setback:
        """What a status other than 200 means."""
        status = arrived.status
        if status in (401, 403):
            variable = self.config.api_key_env or "no variable"
            given = "was refused" if self._secret.value is not None else "is needed and none is set"
            # The server's own words are left out: some repeat a part of the key.
            return _Setback(f"HTTP {status}: a key {given} (from {variable})", everyone=True)
        reason = self._told(arrived)
        if status == 404:
            hint = f"is {self.model!r} its model, and does the URL end in its version (/v1)?"
            return _Setback(f"{reason}; {hint}", everyone=True)
        if status == 429 and b"insufficient_quota" in arrived.data:
            return _Setback(f"{reason}; the account has no credit left", everyone=True)
        if status in (408, 429) or status >= 500:
            told_s = retry_after_s(arrived.retry_after, self._clock.wall())
            return _Setback(reason, again=True, told_s=told_s)
        helps, everyone = self.manner.hint(arrived.data, json.loads(body))
        if helps:  # in front, where counts of failures show it
            reason = reason.replace(f"HTTP {status}", f"HTTP {status} ({helps})", 1)
        return _Setback(reason, everyone=everyone)

    def _told(self, arrived: Arrived) -> str:
        words = words_of(arrived.data, self._secret.hide)
        return f"HTTP {arrived.status}: {words}" if words else f"HTTP {arrived.status}"
