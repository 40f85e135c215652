from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from endpoint_data import Outcome, run, write_data
from fault_server import Act, Asked, FaultServer, refused, said

from groundling.cli import main
from groundling.data.expressions_jsonl import read_expressions
from groundling.prompts import EXPERT
from groundling.records import ABSENT

KEY = "sk-secret-key"
Collect = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def collect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Collect:
    data = write_data(tmp_path, 6)

    def command(server: FaultServer, *words: object) -> Outcome:
        place = ["--endpoint", server.url, "--model", "m", "--out", tmp_path / "e.jsonl"]
        quick = ["--quiet", "--set", "backoff_s=0.001"]
        return run(capsys, "experts", data, *place, *quick, *words)

    return command


def by_shade(asked: Asked) -> Act:
    """Tells pictures apart by their colour, away from the green line."""
    red = asked.pictures[0].convert("RGB").getpixel((2, 2))[0]  # type: ignore[index]
    return said(f"post {round(red / 7)}", usage=(100, 10))


def texts(folder: Path) -> list[str]:
    return [one.expression.text for one in read_expressions(folder / "e.jsonl")]


WHOLE = [text for number in range(6) for text in (f"post {number}", ABSENT)]


def test_expressions_with_their_cost(collect: Collect, tmp_path: Path) -> None:
    with FaultServer(script=by_shade) as server:
        done = collect(server, "--json", "--price-in", "2.5", "--price-out", "10", "--budget", "1")
        again = collect(server, "--json", "--price-in", "2.5", "--price-out", "10")
    assert (done.code, done.err) == (0, "")
    assert texts(tmp_path) == WHOLE
    assert {one.expression.source for one in read_expressions(tmp_path / "e.jsonl")} == {"expert:m"}
    assert done.json == {
        "out": str(tmp_path / "e.jsonl"),
        "failures": None,
        "asked": 6,
        "written": 6,
        "absent": 6,
        "kept": 0,
        "left": 0,
        "speaks_of_box": 0,
        "odd": {},
        "failed": {},
        "calls": 6,
        "cache_hits": 0,
        "tokens": {"input": 600, "output": 60},
        "usd": {"spent": 0.0021, "unsure": 0.0, "total": 0.0021},
    }
    assert (again.json["kept"], again.json["calls"]) == (12, 0)
    assert again.json["usd"] == {"spent": 0.0, "unsure": 0.0, "total": 0.0021}
    assert len(server.asked) == 6
    assert {asked.text for asked in server.asked} == {EXPERT}
    assert all(asked.headers["Authorization"] == f"Bearer {KEY}" for asked in server.asked)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_the_gold_box_is_drawn_in_green(collect: Collect) -> None:
    with FaultServer(script=by_shade) as server:
        collect(server, "--set", "picture_format=png", "--limit", 1)
    (picture,) = server.asked[0].pictures
    assert picture.convert("RGB").getpixel((15, 20)) == (0, 255, 0)
    assert picture.convert("RGB").getpixel((32, 24)) == (0, 90, 30)


def test_answers_in_the_cache_cost_nothing(collect: Collect, tmp_path: Path) -> None:
    with FaultServer(script=by_shade) as server:
        collect(server)
        (tmp_path / "e.jsonl").unlink()
        done = collect(server, "--json")
    assert (done.json["written"], done.json["calls"], done.json["cache_hits"]) == (6, 0, 6)
    assert texts(tmp_path) == WHOLE


def test_failures_by_kind_and_the_next_run(collect: Collect, tmp_path: Path) -> None:
    def script(asked: Asked) -> Act:
        act = by_shade(asked)
        number = int((act.body or b"").split(b"post ")[1][:1])
        if number == 2:
            return refused(400, "odd picture")
        return said("post", finish="length") if number == 4 else act

    with FaultServer(script=script) as server:
        done = collect(server)
    assert done.code == 1
    assert "4 expressions written, 6 absent" in done.out
    assert "1 × HTTP 400" in done.out
    assert "1 × cut: cut off at its token limit; raise max_tokens" in done.out
    assert str(tmp_path / "e.failures.jsonl") in done.out
    with FaultServer(script=by_shade) as server:
        done = collect(server)
    assert done.code == 0
    assert len(server.asked) == 2
    assert texts(tmp_path) == WHOLE
    assert not (tmp_path / "e.failures.jsonl").exists()


def test_field_e1_refusals_are_counted_and_never_stored(collect: Collect, tmp_path: Path) -> None:
    replies = {
        1: "I'm sorry, but I can't identify people in images.",
        2: "<think>Who is it?</think>\n\n```\npost 2\n```",
        3: "<think>Who is it?",
        4: "It is Ann4 in the middle",
    }

    def script(asked: Asked) -> Act:
        act = by_shade(asked)
        number = int((act.body or b"").split(b"post ")[1][:1])
        return said(replies[number]) if number in replies else act

    with FaultServer(script=script) as server:
        done = collect(server, "--json")
        kept = collect(server, "--json", "--keep-odd")
    assert done.code == 1
    assert done.json["failed"] == {"refused": 1, "thought": 1, "named": 1}
    assert kept.json["failed"] == {"refused": 1, "thought": 1}
    assert kept.json["odd"] == {"named": 1}
    assert "1 named" in kept.err
    assert [text for text in texts(tmp_path) if text != ABSENT] == [
        "post 0",
        "post 2",
        replies[4],
        "post 5",
    ]


def test_a_budget_ends_and_a_larger_one_goes_on(collect: Collect, tmp_path: Path) -> None:
    prices = ["--price-in", "2.5", "--price-out", "10", "--set", "picture_tokens=100"]
    with FaultServer(script=by_shade) as server:
        done = collect(server, "--budget", "0.0025", *prices)
        assert done.code == 1
        assert "× the budget is used up; run again with a larger one" in done.out
        spent = len(server.asked)
        assert 0 < spent < 6
        done = collect(server, "--budget", "1", *prices, "--json")
    assert done.code == 0
    assert done.json["usd"]["total"] == pytest.approx(6 * 0.00035)
    assert len(server.asked) == 6
    assert texts(tmp_path) == WHOLE


def test_a_refused_key_ends_the_run_in_one_line(collect: Collect, tmp_path: Path) -> None:
    with FaultServer(refused(401, f"Incorrect API key provided: {KEY}")) as server:
        done = collect(server, "--concurrency", 1)
        assert len(server.asked) == 1
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"groundling: error: {server.url}: HTTP 401: a key was refused (from OPENAI_API_KEY)\n"
    )
    assert texts(tmp_path) == [ABSENT] * 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint", "ftp://h/v1"], "endpoint: got 'ftp://h/v1'; wanted http"),
        (["--budget", "1"], "needs price_input and price_output"),
        (["--server", "ollama"], "openai | vllm | transformers"),
        (["--set", "tempreature=1"], "did you mean temperature?"),
        (["--set", "convention=pixels"], "--set convention: experts does not act on it"),
        (["--limit", "-1"], "--limit: got -1"),
        (["--out", "e.txt"], "ends in .jsonl"),
        (["--out", "/nowhere/e.jsonl"], "in a folder that is there"),
        (["--images", "nowhere"], "no such image folder"),
        (["--format", "twitter-gmner"], "a file; twitter-gmner is a folder"),
    ],
)
def test_bad_calls_in_one_line(collect: Collect, words: list[str], message: str) -> None:
    with FaultServer(said("x")) as server:
        done = collect(server, *words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert server.asked == []


def test_an_answer_that_cannot_be_written_does_not_spoil_the_file(
    collect: Collect, tmp_path: Path
) -> None:
    def script(asked: Asked) -> Act:
        act = by_shade(asked)
        return said("the man \ud83d") if b"post 3" in (act.body or b"") else act

    with FaultServer(script=script) as server:
        done = collect(server)
        assert done.code == 1
        assert "1 × the reply is no whole JSON" in done.out
    assert texts(tmp_path) == [text for text in WHOLE if text != "post 3"]
    with FaultServer(script=by_shade) as server:
        assert collect(server).code == 0
        assert len(server.asked) == 1
    assert texts(tmp_path) == WHOLE


def test_a_correction_in_a_last_line_without_its_end_stays(
    collect: Collect, tmp_path: Path
) -> None:
    with FaultServer(script=by_shade) as server:
        collect(server)
        lines = (tmp_path / "e.jsonl").read_text().splitlines()
        moved = [*lines[1:], lines[0].replace("post 0", "mended").replace("expert:m", "human")]
        (tmp_path / "e.jsonl").write_text("\n".join(moved))
        done = collect(server, "--json")
    assert (done.json["kept"], len(server.asked)) == (12, 6)
    assert texts(tmp_path) == ["mended", *WHOLE[1:]]


def test_the_data_is_not_written_over(collect: Collect, tmp_path: Path) -> None:
    posts = tmp_path / "posts.jsonl"
    posts.write_bytes(posts.read_bytes().rstrip())
    before = posts.read_bytes()
    with FaultServer(said("x")) as server:
        done = collect(server, "--out", posts)
    assert done.code == 2
    assert "this is the data to ask about; name another file" in done.err
    assert posts.read_bytes() == before


def test_a_source_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--endpoint", "http://127.0.0.1:1/v1", "--model", "m", "--out", tmp_path / "e.jsonl"]
    done = run(capsys, "experts", tmp_path / "none", *words)
    assert (done.code, done.out) == (2, "")
    assert "no such file or folder" in done.err


def test_kills_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL at every fourth call, the same command again: the same file as without kills."""
    data = write_data(tmp_path, 14)
    lock, asked_at = threading.Lock(), [0]
    running: list[subprocess.Popen[bytes]] = []

    def script(asked: Asked) -> Act:
        with lock:
            asked_at[0] += 1
            if asked_at[0] % 4 == 0 and len(running) < 4:
                os.kill(running[-1].pid, signal.SIGKILL)
        return by_shade(asked)

    with FaultServer(script=script) as server:
        command = [sys.executable, "-m", "groundling", "experts", data, "--quiet"]
        command += ["--endpoint", server.url, "--model", "m", "--out", tmp_path / "e.jsonl"]
        command += ["--price-in", "2.5", "--price-out", "10", "--concurrency", "2"]
        codes = []
        while not codes or codes[-1] == -signal.SIGKILL:
            running.append(
                subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
            )
            running[-1].communicate(timeout=60)
            codes.append(running[-1].returncode)
    assert codes == [-signal.SIGKILL] * 3 + [0]
    wanted = [text for number in range(14) for text in (f"post {number}", ABSENT)]
    assert texts(tmp_path) == wanted
    # Only calls that were under way at a kill are made again.
    assert 14 <= len(server.asked) <= 14 + 3 * 2


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["experts", "--help"])
    shown = capsys.readouterr().out
    for key in ("read_timeout_s", "give_up_after", "picture_tokens", "--budget"):
        assert key in shown
