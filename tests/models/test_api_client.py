from __future__ import annotations

import json
import logging
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from fault_server import Act, Asked, FaultServer, completion, refused, said

from groundling.errors import ConfigError, ImageError, InputError
from groundling.models.api.backoff import Clock
from groundling.models.api.cache import AnswerCache
from groundling.models.api.client import Answers, ApiClient
from groundling.models.api.ledger import Ledger, Prices
from groundling.models.api.wire import Chat, Choice
from groundling.models.endpoints import endpoint_config
from groundling.records import Failure

KEY = "sk-very-secret-0123456789"
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


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


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


# --- what can pass is tried again --------------------------------------------------------------

PASSING = {
    "429": refused(429, "slow down"),
    "408": refused(408),
    "500": refused(500),
    "503 without a body": Act(503, b""),
    "502 in HTML": Act(502, b"<html>bad gateway</html>"),
    "truncated JSON": Act(body=completion("ok")[:-20]),
    "cut off": Act(cut=10),
    "reset": Act(reset=True),
    "another schema": Act(body=b'{"choices": []}'),
    "no object": Act(body=b"[1, 2]"),
    "an error with status 200": Act(body=b'{"error": {"message": "overloaded"}}'),
    "content that is no text": Act(
        body=b'{"choices": [{"message": {"content": [1]}, "finish_reason": "stop"}]}'
    ),
    "bytes that are no text": Act(body=b"\xff\xfe{}"),
    "broken compression": Act(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("act", PASSING.values(), ids=PASSING)
def test_what_can_pass_is_tried_again(act: Act, tmp_path: Path) -> None:
    with FaultServer(act, act, said("a man")) as server:
        assert one(client(server, cache=tmp_path)) == [Choice("a man")]
        assert one(client(server, cache=tmp_path)) == [Choice("a man")]
    assert len(server.asked) == 3


@pytest.mark.parametrize("act", PASSING.values(), ids=PASSING)
def test_what_does_not_pass_is_a_failure_and_never_stored(act: Act, tmp_path: Path) -> None:
    with FaultServer(act) as server:
        found = one(client(server, cache=tmp_path, attempts=3))
        assert isinstance(found, Failure)
        assert found.stage == "api"
        assert found.reason.endswith("(tried 3 times)")
    assert len(server.asked) == 3
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("status", [400, 413, 422, 302, 204])
def test_what_cannot_pass_is_not_tried_again(status: int) -> None:
    act = refused(status, "too many pictures", Location="http://127.0.0.1:1/")
    with FaultServer(act if status != 204 else Act(204, b"")) as server:
        found = one(client(server))
        assert isinstance(found, Failure)
        assert found.reason.startswith(f"HTTP {status}")
    assert len(server.asked) == 1


def test_waits_double_at_most_and_are_seeded() -> None:
    clocks = [FakeClock(), FakeClock()]
    for clock in clocks:
        with FaultServer(refused(500)) as server:
            one(client(server, clock=clock, attempts=8, backoff_s=1.0, longest_backoff_s=6.0))
    slept = clocks[0].slept
    assert slept == clocks[1].slept
    assert len(slept) == 7
    limits = (1, 2, 4, 6, 6, 6, 6)
    assert all(0 <= wait <= most for wait, most in zip(slept, limits, strict=True))
    assert len(set(slept)) == 7


def test_retry_after_in_seconds_and_as_a_date() -> None:
    date = "Fri, 15 Jan 2027 08:00:30 GMT"  # 30 s after the fake clock's start
    acts = [refused(429, Retry_After="7"), refused(503, Retry_After=date), said("ok")]
    clock = FakeClock()
    with FaultServer(*acts) as server:
        assert one(client(server, clock=clock, backoff_s=0.001)) == [Choice("ok")]
    assert clock.slept == [7.0, 23.0]


def test_a_retry_after_that_is_too_long_ends_the_call() -> None:
    with FaultServer(refused(429, "later", Retry_After="3600")) as server:
        found = one(client(server, longest_wait_s=60.0))
    assert found == Failure("HTTP 429: later (asks for a wait of 3600 s)", "api")
    assert len(server.asked) == 1


@pytest.mark.parametrize("header", ["soon", "-5", "1.5e3", "Mon, 99 Foo 2027"])
def test_a_retry_after_that_cannot_be_read_counts_for_nothing(header: str) -> None:
    clock = FakeClock()
    with FaultServer(refused(429, Retry_After=header), said("ok")) as server:
        assert one(client(server, clock=clock)) == [Choice("ok")]
    assert 0 <= clock.slept[0] <= 1


# --- limits of time and size -------------------------------------------------------------------


def test_silence() -> None:
    with FaultServer(Act(silent_s=0.25), said("ok")) as server:
        assert one(client(server, read_timeout_s=0.1)) == [Choice("ok")]
    assert len(server.asked) >= 2  # a busy machine may be silent itself


def test_a_slow_drip_is_cut_by_the_clock() -> None:
    with FaultServer(Act(drip_s=0.001), said("ok")) as server:
        # Every reading of the clock is a second later: the drip never pauses for long.
        found = one(client(server, clock=FakeClock(step_s=1.0), total_timeout_s=3.0, attempts=1))
    assert found == Failure("no whole reply within 3 s (tried 1 times)", "api")


def test_nobody_listens() -> None:
    with FaultServer(said("ok")) as server:
        url = server.url
    found = one(client(url, attempts=2))
    assert found == Failure("no connection: ConnectError (tried 2 times)", "api")


def test_a_reply_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundling.models.api.client.MOST_BYTES", 1000)
    with FaultServer(said("x" * 2000)) as server:
        found = one(client(server, attempts=1))
    assert isinstance(found, Failure)
    assert "a reply of more than" in found.reason


# --- what stops the run ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run(status: int) -> None:
    with FaultServer(refused(status, f"bad key {KEY}")) as server:
        with pytest.raises(InputError) as caught:
            ask(client(server, concurrency=1), *map(chat, "abcdefgh"))
        assert len(server.asked) == 1
    assert str(caught.value) == (
        f"{server.url}: HTTP {status}: a key was refused (from OPENAI_API_KEY)"
    )


def test_a_key_that_is_needed_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with FaultServer(refused(401)) as server:
        with pytest.raises(InputError, match="needed and none is set"):
            one(client(server))
        assert "Authorization" not in server.asked[0].headers


def test_an_unknown_model_stops_the_run() -> None:
    with FaultServer(refused(404, "no such model")) as server, pytest.raises(InputError) as caught:
        one(client(server))
    assert "HTTP 404: no such model; is 'm' its model" in str(caught.value)


def test_an_account_without_credit_stops_the_run() -> None:
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with FaultServer(Act(429, body)) as server:
        with pytest.raises(InputError, match="no credit left"):
            one(client(server))
        assert len(server.asked) == 1


def test_an_endpoint_that_answers_nobody_stops_the_run() -> None:
    with FaultServer(refused(500, "down")) as server:
        with pytest.raises(InputError, match=r"3 calls in a row failed.*HTTP 500: down"):
            ask(client(server, concurrency=1, attempts=2, give_up_after=3), *map(chat, "abcdefgh"))
        assert len(server.asked) == 6


def test_failures_between_answers_do_not_stop_it() -> None:
    def script(asked: Asked) -> Act:
        return refused(400, "no") if asked.text in "aceg" else said(asked.text)

    with FaultServer(script=script) as server:
        found = ask(client(server, concurrency=1, give_up_after=2), *map(chat, "abcdefgh"))
    assert [isinstance(answers, Failure) for answers in found] == [True, False] * 4


# --- the key -----------------------------------------------------------------------------------


def test_the_key_is_in_the_header_and_nowhere_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = refused(400, f"what is {KEY}?")
    with FaultServer(said("ok"), echo) as server:
        asker = client(server, cache=tmp_path / "c", ledger=Ledger(tmp_path / "l", PRICES))
        first, second = ask(asker, chat("a")), None
        asker = client(server, cache=tmp_path / "c", ledger=Ledger(tmp_path / "l", PRICES))
        second = ask(asker, chat("b"))
    assert first == [[Choice("ok")]]
    assert second == [Failure("HTTP 400: what is [key]?", "api")]
    assert [one.headers["Authorization"] for one in server.asked] == [f"Bearer {KEY}"] * 2
    shown = repr(asker) + repr(asker.config) + repr(vars(asker)["_http"].headers) + caplog.text
    shown += "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in shown
    assert all(KEY not in json.dumps(asked.body) for asked in server.asked)


@pytest.mark.parametrize("before", [0, 95, 100, 110, 119])
def test_a_key_is_not_shown_in_part_where_words_are_cut(before: int) -> None:
    with FaultServer(refused(400, "x" * before + KEY)) as server:
        found = one(client(server))
    assert isinstance(found, Failure)
    assert "sk-" not in found.reason


def test_an_answer_that_repeats_the_key_is_kept_without_it(tmp_path: Path) -> None:
    with FaultServer(said(f"the key is {KEY}")) as server:
        assert one(client(server, cache=tmp_path)) == [Choice("the key is [key]")]
    assert all(KEY not in path.read_text() for path in tmp_path.rglob("*.json"))


def test_another_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "other")
    with FaultServer(said("ok")) as server:
        one(client(server, api_key_env="MY_KEY"))
        one(client(server, api_key_env=None))
    assert server.asked[0].headers["Authorization"] == "Bearer other"
    assert "Authorization" not in server.asked[1].headers


@pytest.mark.parametrize("key", ["a b", "naïve", "two\nlines"])
def test_a_key_that_cannot_be_one_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError) as caught:
        client("http://127.0.0.1:1/v1")
    assert key not in str(caught.value)


def test_a_key_never_travels_in_the_clear() -> None:
    with pytest.raises(InputError, match="unencrypted"):
        client("http://example.org/v1")
    client("https://example.org/v1").close()
    client("http://example.org/v1", api_key_env=None).close()
    client("http://[::1]:8000/v1").close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h/v1", "wanted http"),
        ("file:///etc/passwd", "wanted http"),
        ("localhost:8000/v1", "wanted http"),
        ("http://", "wanted http"),
        ("http://user:pw@h/v1", "user name or password"),
        ("https://h/v1?key=1", "query"),
        ("http://h:x/v1", "not a URL"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        endpoint_config({"endpoint": url, "model": "m"})
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": 1.0}, "needs price_input and price_output"),
        ({"price_input": 1.0}, "both or neither"),
        ({"concurrency": 0}, "concurrency"),
        ({"server": "ollama"}, "openai | vllm | transformers"),
        ({"api_key": "sk-1"}, "unknown key"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("|", r"\|")) as caught:
        endpoint_config({"endpoint": "http://h/v1", "model": "m"} | settings)
    assert "sk-1" not in str(caught.value)


# --- many at once ------------------------------------------------------------------------------


def test_order_is_kept_nothing_lost_nothing_doubled(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    faults = [refused(429), refused(500), Act(cut=5), Act(reset=True), Act(body=b"{")]

    def script(asked: Asked) -> Act:
        seen[asked.text] += 1
        number = int(asked.text)
        if number % 10 == 9:
            return refused(400, "never")
        bad = seen[asked.text] <= number % 3
        answer = Act(body=completion(f"about {number}"), silent_s=0.003)
        return faults[number % len(faults)] if bad else answer

    chats = [chat(str(number)) for number in range(60)]
    with FaultServer(script=script) as server:
        ledger = Ledger(tmp_path / "ledger", PRICES)
        found = ask(client(server, concurrency=6, cache=tmp_path / "c", ledger=ledger), *chats)
        asked = len(server.asked)
        again = ask(client(server, concurrency=6, cache=tmp_path / "c"), *chats)
    wanted = [
        Failure("HTTP 400: never", "api") if n % 10 == 9 else [Choice(f"about {n}")]
        for n in range(60)
    ]
    assert found == wanted
    assert again == wanted
    assert len(server.asked) == asked + 6  # only what failed was asked again
    assert len(list((tmp_path / "c").rglob("*.json"))) == 54
    assert 2 <= server.most_at_once <= 6
    # 54 answers are sure; resets, cuts and truncated replies count with their bound.
    assert ledger.now.usd - ledger.now.unsure_usd == 54 * USAGE
    unsure = sum(n % 3 for n in range(60) if n % 10 != 9 and n % 5 in (2, 3, 4))
    assert ledger.now.calls == 54 + unsure


def test_a_picture_that_cannot_be_read_is_a_failure_of_its_query() -> None:
    def broken() -> Chat:
        raise ImageError("p.png: no such file; check the name")

    with FaultServer(said("ok")) as server, client(server) as asker:
        found = dict(asker.ask([broken, chat]))
    assert found == {0: Failure("p.png: no such file; check the name", "image"), 1: [Choice("ok")]}


def test_nothing_to_ask() -> None:
    with FaultServer(said("ok")) as server:
        assert ask(client(server)) == []


def test_what_a_job_raises_goes_through() -> None:
    def broken() -> Chat:
        raise KeyError("a mistake of ours")

    start_s = time.monotonic()
    with FaultServer(said("ok")) as server, client(server) as asker, pytest.raises(KeyError):
        list(asker.ask([broken]))
    assert time.monotonic() - start_s < 2


# --- what counts as an answer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (said("a man wi", finish="length"), "cut off at 16 tokens; raise max_tokens"),
        (said("", finish="content_filter"), "withheld by a content filter"),
        (said("  "), "an empty answer"),
        (Act(body=completion(None)), "an empty answer"),
        (Act(body=completion(None, refusal="I can't help")), "refused: I can't help"),
        (said("x", finish="tool_calls"), "ended by 'tool_calls'; wanted 'stop'"),
    ],
)
def test_no_answer_has_its_own_reason(act: Act, reason: str, tmp_path: Path) -> None:
    with FaultServer(act) as server:
        assert one(client(server, cache=tmp_path)) == [Failure(reason, "answer")]
    assert len(server.asked) == 1
    assert not list(tmp_path.rglob("*.json"))


# --- adapters ----------------------------------------------------------------------------------


def adapter(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_an_adapter_is_loaded_and_asked_for(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "round-1")
    loaded = Act(200, b"Success: LoRA adapter added successfully.")
    with FaultServer(loaded, said("ok")) as server, client(server, server="vllm") as asker:
        name = asker.load_adapter(folder)
        assert dict(asker.ask([chat])) == {0: [Choice("ok")]}
    load, question = server.asked
    assert load.path == "/v1/load_lora_adapter"
    assert load.body == {"lora_name": name, "lora_path": str(folder.resolve())}
    assert question.body["model"] == name


def test_an_adapters_name_is_its_weights(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / str(n), weights) for n, weights in enumerate([b"1", b"2", b"1"])]
    there = refused(400, "The lora adapter has already been loaded.")
    with FaultServer(Act(200, b""), Act(200, b""), there) as server, client(server) as asker:
        names = [asker.load_adapter(folder) for folder in folders]
    assert names[0] == names[2] != names[1]


def test_an_adapter_that_is_not_taken(tmp_path: Path) -> None:
    with FaultServer(refused(404, "Not Found")) as server, client(server) as asker:
        with pytest.raises(InputError, match="--enable-lora"):
            asker.load_adapter(adapter(tmp_path / "a"))
        with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
            asker.load_adapter(tmp_path)
        assert asker.model == "m"
