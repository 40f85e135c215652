"""What stops a run: everything that each other call would meet too; and the key."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from client_calls import KEY, PRICES, ask, chat, client, one
from fault_server import Act, Asked, FaultServer, completion, refused, said

from groundling.errors import ConfigError, InputError
from groundling.models.api.ledger import Ledger
from groundling.models.api.wire import Choice
from groundling.models.endpoints import endpoint_config
from groundling.records import Failure

pytestmark = pytest.mark.usefixtures("api_key")


# --- what stops the run --------------------------------------------------------------------------


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


# --- the key -------------------------------------------------------------------------------------


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
    assert second == [Failure("HTTP 400: what is [key]?", "answer")]
    assert [one.headers["Authorization"] for one in server.asked] == [f"Bearer {KEY}"] * 2
    shown = repr(asker) + repr(asker.config) + repr(vars(asker)) + caplog.text
    shown += "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in shown
    assert all(KEY not in json.dumps(asked.body) for asked in server.asked)


@pytest.mark.parametrize("before", [0, 95, 100, 110, 119])
def test_a_key_is_not_shown_in_part_where_words_are_cut(before: int) -> None:
    with FaultServer(refused(400, "x" * before + KEY)) as server:
        found = one(client(server))
    assert isinstance(found, Failure)
    assert "sk-" not in found.reason


REPEATED = Failure("repeats the key that the server was sent", "answer")
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)


@pytest.mark.parametrize(
    "text", [f"the key is {KEY}", f"{KEY[:9]} {KEY[9:]}", f'{{"a": "{ESCAPED}"}}', KEY[:16]]
)
def test_an_answer_that_repeats_the_key_is_none(text: str, tmp_path: Path) -> None:
    with FaultServer(said(text)) as server:
        assert one(client(server, cache=tmp_path)) == [REPEATED]
    assert not list(tmp_path.rglob("*.json"))


def test_a_key_that_json_escapes_is_found(tmp_path: Path) -> None:
    body = completion("the man KEY").replace(b"KEY", ESCAPED.encode())
    with FaultServer(Act(body=body)) as server:
        assert one(client(server, cache=tmp_path)) == [REPEATED]
    error = b'{"error": {"message": "what is KEY?"}}'.replace(b"KEY", ESCAPED.encode())
    for act in (Act(400, error), Act(400, error[:-1] + b', "choices": 1}')):
        with FaultServer(act) as server:
            assert one(client(server)) == Failure("HTTP 400: what is [key]?", "answer")


@pytest.mark.parametrize("part", [KEY[:8], KEY[3:-3], KEY[-9:]])
def test_a_part_of_the_key_is_not_shown(part: str) -> None:
    with FaultServer(refused(400, f"no key {part}...")) as server:
        assert one(client(server)) == Failure("HTTP 400: no key [key]...", "answer")


def test_the_key_is_not_shown_where_a_run_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for act in (refused(404, KEY), Act(429, f'{{"error": "insufficient_quota {KEY}"}}'.encode())):
        with FaultServer(act) as server, pytest.raises(InputError) as caught:
            one(client(f"{server.url}/{KEY}/v1"))
        assert "[key]" in str(caught.value)
        assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["token", "k", "none", "1", "the", "EMPTY", "no-key-given"])
def test_field_e12_a_key_that_is_no_secret_is_not_searched_for(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """People give servers of their own such keys."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    words = f"the {key} man with 1 token of none"
    with FaultServer(said(words), refused(400, words)) as server:
        asker = client(server, cache=tmp_path / "c", ledger=Ledger(tmp_path / "l", PRICES))
        assert ask(asker, chat("a")) == [[Choice(words)]]
        assert ask(client(server, cache=tmp_path / "c"), chat("a")) == [[Choice(words)]]
        assert one(client(server)) == Failure(f"HTTP 400: {words}", "answer")
    assert '"sure": true' in (tmp_path / "l").read_text()


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
