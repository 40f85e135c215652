"""What a call that fails is given: other tries, waits, limits of time and size."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
from client_calls import FakeClock, client, one
from fault_server import Act, FaultServer, completion, refused, said

from groundling.errors import InputError
from groundling.models.api.ledger import Ledger
from groundling.models.api.wire import Choice
from groundling.records import Failure

pytestmark = pytest.mark.usefixtures("api_key")


# --- what can pass is tried again ----------------------------------------------------------------

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
    "half a surrogate pair": said("the man \ud83d"),
    "a key given twice": Act(body=completion("ok")[:-1] + b', "choices": []}'),
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
        assert found.stage == "answer", "the same call would fail again"
    assert len(server.asked) == 1


def test_a_reason_can_always_be_written_down() -> None:
    """JSON can spell half a surrogate pair, UTF-8 cannot."""
    with FaultServer(refused(400, "bad \ud83d thing")) as server:
        assert one(client(server)) == Failure("HTTP 400: bad ? thing", "answer")


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
def test_field_e11_a_retry_after_that_cannot_be_read_counts_for_nothing(header: str) -> None:
    clock = FakeClock()
    with FaultServer(refused(429, Retry_After=header), said("ok")) as server:
        assert one(client(server, clock=clock)) == [Choice("ok")]
    assert 0 <= clock.slept[0] <= 1


# --- limits of time and size ---------------------------------------------------------------------


def test_silence() -> None:
    with FaultServer(Act(silent_s=0.25), said("ok")) as server:
        assert one(client(server, read_timeout_s=0.1)) == [Choice("ok")]
    assert len(server.asked) >= 2  # a busy machine may be silent itself


def test_a_slow_drip_is_cut_by_the_clock() -> None:
    """Body, headers, or one `100 Continue` after the other: no silence is ever long."""
    for act in (Act(drip_s=0.001), Act(drip_s=0.001, drip_head=True), Act(continues=True)):
        with FaultServer(act, said("ok")) as server:
            # Every reading of the clock is a second later.
            clock = FakeClock(step_s=1.0)
            found = one(client(server, clock=clock, total_timeout_s=20.0, attempts=1))
        reason = f"no whole reply of {server.url} within 20 s (tried 1 times)"
        assert found == Failure(reason, "api")


def test_field_e9_a_dead_endpoint_is_told_with_its_address() -> None:
    with FaultServer(said("ok")) as server:
        url = server.url
    found = one(client(url, attempts=2))
    assert found == Failure(f"no connection to {url}: ConnectError (tried 2 times)", "api")


def test_a_reply_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundling.models.api.transport.MOST_BYTES", 1000)
    with FaultServer(said("x" * 2000)) as server:
        found = one(client(server, attempts=1))
    assert isinstance(found, Failure)
    assert "a reply of more than" in found.reason


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_reply_is_read_though_none_was_asked_for(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    act = Act(body=pack(completion("a man")), headers={"Content-Encoding": encoding})
    with FaultServer(act) as server:
        assert one(client(server)) == [Choice("a man")]
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "gzip;q=1"])
def test_other_encodings_are_not_undone(encoding: str) -> None:
    act = Act(body=gzip.compress(b"0" * 10), headers={"Content-Encoding": encoding})
    with FaultServer(act) as server:
        found = one(client(server, attempts=1))
    assert found == Failure("a reply in an encoding that was not asked for (tried 1 times)", "api")


def test_a_small_reply_that_unpacks_to_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundling.models.api.transport.MOST_BYTES", 10_000)
    bomb = Act(body=gzip.compress(b"0" * 10**7), headers={"Content-Encoding": "gzip"})
    with FaultServer(bomb) as server:
        found = one(client(server, attempts=1))
    assert isinstance(found, Failure)
    assert "a reply of more than" in found.reason


def test_a_server_that_never_says_anything_is_given_up_by_its_tries() -> None:
    with FaultServer(said("ok")) as server:
        url = server.url
    with pytest.raises(InputError, match=r"no answer to 5 tries.*no connection to http"):
        one(client(url, attempts=6, give_up_after=5))


@pytest.mark.parametrize(
    "usage",
    [
        f'{{"prompt_tokens": {10**400}}}',
        '{"prompt_tokens": -1}',
        '{"prompt_tokens": null}',
        '{"prompt_tokens": 1.5}',
        '{"prompt_tokens": 1, "completion_tokens": 1e999}',
        "[]",
    ],
)
def test_a_count_of_tokens_that_cannot_be_is_not_known(usage: str) -> None:
    body = completion("a man", usage=None)[:-1] + f', "usage": {usage}}}'.encode()
    with FaultServer(Act(body=body)) as server:
        book = Ledger()
        assert one(client(server, ledger=book)) == [Choice("a man")]
    assert book.now.calls == 1
    assert book.now.input_tokens < 1000, "the bound"


@pytest.mark.parametrize("where", ["body", "content", "error"])
def test_json_that_is_nested_deeply(where: str) -> None:
    deep = b"[" * 900 + b"]" * 900 if where != "body" else b"[" * 100_000
    bodies = {
        "body": deep,
        "content": b'{"choices": [{"message": {"content": ' + deep + b"}}]}",
        "error": b'{"error": ' + deep + b"}",
    }
    with FaultServer(Act(body=bodies[where]), refused(400, "no")) as server:
        assert isinstance(one(client(server, attempts=2)), Failure)
