"""What a call that fails is given: other tries, waits, limits of time and size."""

from __future__ import annotations

from pathlib import Path

import pytest
from client_calls import FakeClock, client, one
from fault_server import Act, FaultServer, completion, refused, said

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
def test_a_retry_after_that_cannot_be_read_counts_for_nothing(header: str) -> None:
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
