"""What an endpoint may do wrong, over all who ask one: nothing wrong is kept, and all go on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from client_calls import endpoint
from endpoint_data import Outcome, run, write_data
from fault_server import Act, FaultServer, completion, refused, said

from groundling.asking import ask_all
from groundling.data.jsonl import read_predictions
from groundling.errors import InputError
from groundling.models.base import Question, Sampling
from groundling.records import Failure, Query

OK = completion("ok")
DEEP = b"[" * 5000 + b"]" * 5000


def body(**changes: Any) -> Act:
    """A sound reply but for some keys."""
    return Act(body=json.dumps(json.loads(OK) | changes).encode())


def choice(**changes: Any) -> Act:
    """A sound reply but for some keys of its choice."""
    whole = json.loads(OK)["choices"][0]
    return body(choices=[whole | changes])


def content(value: Any) -> Act:
    return choice(message={"role": "assistant", "content": value})


def raw(text: bytes, **headers: str) -> Act:
    return Act(body=text, headers={name.replace("_", "-"): one for name, one in headers.items()})


FAULTS: dict[str, Act] = {
    **{f"HTTP {n}": refused(n, "no") for n in (400, 401, 402, 403, 404, 405, 408, 409, 410, 413)},
    **{f"HTTP {n}": refused(n, "no") for n in (415, 418, 422, 425, 429, 451, 500, 501, 502, 503)},
    **{f"HTTP {n}": Act(n, b"") for n in (204, 301, 304, 504, 529)},
    "redirect to nowhere": Act(302, b"", {"Location": "http://[bad"}),
    "401 in HTML": Act(401, b"<html>"),
    "500 in HTML": Act(500, b"<html>" + b"x" * 10**5),
    "wait an hour": refused(429, "later", Retry_After="3600"),
    "no credit": Act(429, b'{"error": {"code": "insufficient_quota"}}'),
    "deep error": Act(400, b'{"error": ' + DEEP + b"}"),
    "error with half a pair": Act(400, b'{"error": {"message": "\\ud83d"}}'),
    "error that is a number": Act(400, b"7"),
    "empty": raw(b""),
    "white space": raw(b"  \n"),
    "null": raw(b"null"),
    "text": raw(b"ok"),
    "list": raw(b"[]"),
    "not UTF-8": raw(b"\xff\xfe"),
    "a byte order mark": raw(b"\xef\xbb\xbf" + OK),
    "NaN": raw(b'{"choices": NaN}'),
    "truncated": raw(OK[:-5]),
    "two replies": raw(OK + OK),
    "a key twice": raw(OK[:-1] + b', "choices": []}'),
    "deep": raw(DEEP),
    "streamed": raw(b"data: {}\n\ndata: [DONE]\n\n"),
    "cut off": Act(cut=20),
    "cut before its body": Act(cut=0),
    "reset": Act(reset=True),
    "broken gzip": raw(b"no gzip", Content_Encoding="gzip"),
    "gzip twice": raw(gzip.compress(gzip.compress(OK)), Content_Encoding="gzip, gzip"),
    "cut gzip": raw(gzip.compress(OK)[:-20], Content_Encoding="gzip"),
    "unknown encoding": raw(OK, Content_Encoding="br"),
    "error with status 200": raw(b'{"error": {"message": "overloaded"}}'),
    "no choices": body(choices=[]),
    "choices null": body(choices=None),
    "choices of numbers": body(choices=[1]),
    "no message": body(choices=[{"finish_reason": "stop"}]),
    "message null": choice(message=None),
    "content null": content(None),
    "content empty": content(""),
    "content white": content(" \n\t"),
    "content a number": content(7),
    "content an object": content({"text": "ok"}),
    "content of numbers": content([1]),
    "content without text": content([{"type": "image_url"}]),
    "half a pair": content("the man \ud83d"),
    "cut by length": choice(finish_reason="length"),
    "filtered": choice(finish_reason="content_filter"),
    "tool calls": choice(finish_reason="tool_calls"),
    "no finish": choice(finish_reason=None),
    "finish a number": choice(finish_reason=3),
    "refusal": choice(message={"content": None, "refusal": "I can't help with that"}),
    "index a text": choice(index="0"),
}
"""Replies of which none is an answer to anybody."""

QUICK = ("HTTP 400", "HTTP 401", "HTTP 500", "reset", "deep", "cut by length", "refusal")


def some(names: tuple[str, ...] = QUICK) -> list[Any]:
    return [
        pytest.param(act, id=name, marks=[] if name in names else [pytest.mark.slow])
        for name, act in FAULTS.items()
    ]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return write_data(tmp_path, 3)


def command(
    name: str, data: Path, server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> Outcome:
    where = ["--endpoint", server.url, "--model", "m", "--out", data.parent / "out.jsonl"]
    settings = ["--set", "backoff_s=0.0001", "--set", "attempts=2"]
    return run(capsys, name, data, *where, *settings, "--quiet")


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.cache/*/*.json") if ".tmp" not in path.parts]


@pytest.mark.parametrize("act", some())
@pytest.mark.parametrize("name", ["experts", "direct"])
def test_commands_keep_nothing_of_a_fault_and_go_on(
    act: Act, name: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultServer(act) as server:
        done = command(name, data, server, capsys)
    assert done.code in (1, 2), "never a success"
    assert "Traceback" not in done.err
    assert (done.code == 2) <= (len(done.err.splitlines()) == 1)
    assert not stored(data.parent)
    out = data.parent / "out.jsonl"
    if name == "direct":
        assert all(item.failure is not None for item in read_predictions(out))
    else:
        assert '"ok"' not in out.read_text()
    with FaultServer(
        said("the man on the left" if name == "experts" else "[1, 2, 30, 40]")
    ) as well:
        again = command(name, data, well, capsys)
    assert again.code == 0, again
    if name == "direct":
        assert all(item.failure is None for item in read_predictions(out))


def sound(text: str, _: object) -> str:
    if text != "fine":
        raise ValueError("not fine")
    return text


@pytest.mark.parametrize("act", some())
def test_writers_and_assistants_keep_nothing_of_a_fault_and_go_on(act: Act, data: Path) -> None:
    """All stages of a run (synthesis, refinement, knowledge …) ask through an assistant."""
    image = str(data.parent / "images/0.png")
    query = Query("q", image, "Ann0", "PER")
    journal = data.parent / "journal"

    def draw(server: FaultServer) -> list[Any]:
        with endpoint(server, attempts=2) as there:
            return there.writer().sample([query], 2, Sampling(0.8), 0, "writer:x/0")

    def ask(server: FaultServer) -> list[Any]:
        questions = {
            word: Question(lambda _, w=word: [_turn(w)], sound, (image,)) for word in ("a", "b")
        }
        with endpoint(server, attempts=2) as there:
            return ask_all(
                there.assistant(),
                list(questions),
                questions.__getitem__,
                journal=journal,
                key=lambda word: [word],
                encode=str,
                decode=str,
            )

    for use in (draw, ask):
        found: list[Any] = []
        stopped = ""
        with FaultServer(act) as server:
            try:
                found = use(server)
            except InputError as fault:
                stopped = str(fault)
        assert bool(stopped) != bool(found)
        assert not stopped or (server.url in stopped and "\n" not in stopped)
        # A writer keeps a draw that was cut, without a log-probability.
        if act is not FAULTS["cut by length"] or use is ask:
            assert all(isinstance(one, Failure) and one.reason for one in found)
        with FaultServer(said("fine", "fine")) as server:
            found = use(server)
            assert not any(isinstance(one, Failure) for one in found)
    assert all(
        b"ok" not in line or b"failure" in line for line in journal.read_bytes().splitlines()
    )


def _turn(word: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": word}]}
