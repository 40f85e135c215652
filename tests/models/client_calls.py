"""A client of the server that misbehaves (`fault_server`), and a clock that does not wait."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from fault_server import FaultServer

from groundling.models.api.backoff import Clock
from groundling.models.api.cache import AnswerCache
from groundling.models.api.client import Answers, ApiClient
from groundling.models.api.ledger import Ledger, Prices
from groundling.models.api.wire import Chat
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.records import Failure

KEY = "sk-very-secret-0123456789"
"""The key that the fixture `api_key` puts into the environment."""

PRICES = Prices(Decimal("2.5"), Decimal("10"))
USAGE = Decimal("0.00035")
"""What a call of 100 + 10 tokens costs at PRICES."""


class FakeClock:
    """Time that passes only while somebody sleeps, or as it is told to."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.slept: list[float] = []
        self.now_s = 1_800_000_000.0
        self.step_s = step_s

    def read(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def clock(self) -> Clock:
        return Clock(self.read, self.read, self.sleep)


def client(
    where: FaultServer | str,
    *,
    cache: Path | None = None,
    ledger: Ledger | None = None,
    clock: FakeClock | None = None,
    **settings: object,
) -> ApiClient:
    url = where if isinstance(where, str) else where.url
    quick = {"endpoint": url, "model": "m", "concurrency": 4, "read_timeout_s": 5.0}
    return ApiClient(
        endpoint_config(quick | settings),
        cache=None if cache is None else AnswerCache(cache),
        ledger=ledger,
        clock=(clock or FakeClock()).clock(),
        seed=0,
    )


def chat(text: str = "hello", **settings: object) -> Chat:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    options = {"temperature": 0.0, "max_tokens": 16} | settings
    return Chat((message,), **options)  # type: ignore[arg-type]


def ask(client: ApiClient, *chats: Chat) -> list[Answers | Failure]:
    """All answers, in order, each exactly once."""
    found: dict[int, Answers | Failure] = {}
    with client:
        for place, answers in client.ask([lambda one=one: one for one in chats]):
            assert place not in found
            found[place] = answers
    assert sorted(found) == list(range(len(chats)))
    return [found[place] for place in range(len(chats))]


def one(client: ApiClient, **settings: object) -> Answers | Failure:
    return ask(client, chat(**settings))[0]


def endpoint(where: FaultServer, **settings: object) -> Endpoint:
    base = {"endpoint": where.url, "model": "m", "api_key_env": None, "backoff_s": 0.001}
    return Endpoint(endpoint_config(base | settings))
