from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from endpoint_data import BOX, Outcome, run, write_data
from fault_server import Act, Asked, FaultServer, refused, said

from groundling.data.jsonl import read_predictions
from groundling.records import ABSENT

Direct = Callable[..., Outcome]


@pytest.fixture
def direct(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Direct:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data = write_data(tmp_path, 5)

    def command(server: FaultServer, *words: object) -> Outcome:
        place = ["--endpoint", server.url, "--model", "m", "--out", tmp_path / "p.jsonl"]
        return run(capsys, "direct", data, *place, "--quiet", *words)

    return command


def knows_all(asked: Asked) -> Act:
    return said("[250, 250, 750, 750]" if "Ann" in asked.text else ABSENT)


def test_predictions_that_score_reads(
    direct: Direct, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultServer(script=knows_all) as server:
        done = direct(server, "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.json["posts"], done.json["boxes"], done.json["absent"]) == (5, 5, 5)
    assert done.json["usd"] == {"spent": None, "unsure": None, "total": None}
    assert read_predictions(tmp_path / "p.jsonl")[0].predictions[0].box == BOX
    gold = ["--gold", tmp_path / "posts.jsonl", "--rule", "isr", "--json", "--resamples", 0]
    score = run(capsys, "score", tmp_path / "p.jsonl", *gold)
    assert score.json["accuracy"]["all"] == 100


def test_field_e7_unread_answers_are_counted_by_shape(direct: Direct, tmp_path: Path) -> None:
    replies = {
        "Ann0": "[1, 2, 3, 4]\n[]",
        "Ann1": '["1", "2", "3", "4"]',
        "Ann2": '{"bbox": [1, 2, 3, 4]}',
        "Ann3": "I'm sorry, but I can't identify people in images.",
        "Ann4": "[1, 2, 1003, 4]",
    }

    def script(asked: Asked) -> Act:
        name = next((name for name in replies if name in asked.text), None)
        return said(replies[name]) if name else said(ABSENT)

    with FaultServer(script=script) as server:
        done = direct(server, "--json")
        told = direct(server)
    kinds = ["list-then-list", "strings", "other-keys", "refused", "outside"]
    assert done.json["failed"] == dict.fromkeys(kinds, 1)
    assert (done.json["boxes"], done.json["failed_posts"]) == (0, 5)
    assert "1 × other-keys: JSON with other keys than those asked for" in told.out
    failed = [one for post in read_predictions(tmp_path / "p.jsonl") for one in post.failed]
    assert sorted(one.failure.kind for one in failed) == sorted(kinds)


def test_errors_are_records_and_are_asked_again(direct: Direct, tmp_path: Path) -> None:
    def script(asked: Asked) -> Act:
        if "Ann1" in asked.text:
            return said("in the middle")
        return refused(400, "no") if "Ann3" in asked.text else knows_all(asked)

    with FaultServer(script=script) as server:
        done = direct(server)
    assert done.code == 1
    assert "3 posts answered" in done.out
    assert "2 posts with failed entities; this run met:" in done.out
    assert "1 × HTTP 400" in done.out
    assert "1 × no-box: neither a box nor the sentence for absent" in done.out
    posts = read_predictions(tmp_path / "p.jsonl")
    failed = [(post.id, one.name, one.failure.stage) for post in posts for one in post.failed]
    assert sorted(failed) == [("1", "Ann1", "answer"), ("3", "Ann3", "answer")], "any order"
    with FaultServer(script=knows_all) as server:
        done = direct(server, "--cache", tmp_path / "other")
        assert sorted(asked.text.count("Ann") for asked in server.asked) == [1, 1]
    assert done.code == 0
    assert [one.whole for one in read_predictions(tmp_path / "p.jsonl")] == [True] * 5


def test_a_reason_that_cannot_be_written_does_not_spoil_the_file(
    direct: Direct, tmp_path: Path
) -> None:
    with FaultServer(refused(400, "bad \ud83d thing")) as server:
        assert direct(server).code == 1
        assert direct(server).code == 1
    reasons = {one.failure.reason for one in read_predictions(tmp_path / "p.jsonl") if one.failure}
    assert reasons == {"HTTP 400: bad ? thing"}


def test_another_convention_wants_another_file(direct: Direct) -> None:
    with FaultServer(script=knows_all) as server:
        direct(server)
        done = direct(server, "--set", "convention=pixels")
    assert done.code == 2
    assert "(convention: was relative-1000, is pixels); name another file" in done.err


def test_what_cannot_be_read_is_not_kept_in_the_cache(direct: Direct) -> None:
    with FaultServer(said("in the middle"), said(ABSENT)) as server:
        direct(server)
        done = direct(server, "--json")
    assert (done.json["failed_posts"], done.json["cache_hits"], done.json["calls"]) == (0, 0, 1)
    assert len(server.asked) == 11


def test_another_form_reads_the_cache_anew(direct: Direct, tmp_path: Path) -> None:
    acts = [said('{"bbox_2d": [250, 250, 750, 750]}')] * 10
    with FaultServer(*acts, said("(250,250),(750,750)")) as server:
        direct(server, "--set", "answer=bbox-2d")
        (tmp_path / "p.jsonl").unlink()
        done = direct(server, "--set", "answer=qwen2-vl", "--json")
    assert (done.json["boxes"], done.json["cache_hits"], len(server.asked)) == (10, 0, 20)


def test_field_d6_posts_without_entities_are_nothing_to_ask_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = write_data(tmp_path, 2)
    rows = [json.loads(line) | {"entities": []} for line in posts.read_text().splitlines()]
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--api-key-env", ""]
    done = run(capsys, "direct", posts, *place, "--out", tmp_path / "p.jsonl")
    assert (done.code, done.out) == (2, "")
    assert "none of its 2 posts has entities, so there is nothing to ask about" in done.err
    assert "groundling gmner" in done.err
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "counted"), [("direct", "N posts, with all"), ("experts", "N groundable entities")]
)
def test_field_r4_help_says_what_the_limit_counts(
    capsys: pytest.CaptureFixture[str], command: str, counted: str
) -> None:
    with pytest.raises(SystemExit):
        run(capsys, command, "--help")
    assert counted in " ".join(capsys.readouterr().out.split())
