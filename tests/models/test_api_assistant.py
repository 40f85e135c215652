from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from fault_server import Act, Asked, FaultServer, completion, refused, said
from PIL import Image

from groundling.models.base import Question
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.records import Failure, Frame


def endpoint(where: FaultServer, cache: Path | None = None, **settings: object) -> Endpoint:
    base = {"endpoint": where.url, "model": "m", "api_key_env": None, "backoff_s": 0.001}
    return Endpoint(endpoint_config(base | settings), cache=cache)


def whole_number(text: str, _: Sequence[Frame]) -> int:
    return int(text)


def question(words: str, *pictures: str) -> Question[int]:
    def messages(frames: Sequence[Frame]) -> list[dict]:
        sizes = " ".join(f"{w}x{h}" for w, h in (frame.resized_wh_px for frame in frames))
        parts = [{"type": "text", "text": f"{words} {sizes}"}]
        return [{"role": "user", "content": [*({"type": "image"} for _ in frames), *parts]}]

    return Question(messages, whole_number, pictures, max_tokens=9)


def conversation(asked: Asked) -> list[tuple[str, str]]:
    return [
        (turn["role"], "".join(part.get("text", "") for part in turn["content"]))
        for turn in asked.body["messages"]
    ]


def test_questions_with_pictures_and_what_is_read_of_the_answers(tmp_path: Path) -> None:
    photo = str(tmp_path / "photo.png")
    Image.new("RGB", (400, 200)).save(photo)

    def script(asked: Asked) -> Act:
        return said(str(len(asked.pictures)))

    with FaultServer(script=script) as server, endpoint(server, max_pixels=20_000) as place:
        asked = [question("none"), question("two", photo, photo)]
        answers = dict(place.assistant().ask(asked))
    assert answers == {0: 0, 1: 2}
    texts = sorted(conversation(one)[0][1] for one in server.asked)
    assert texts == ["none ", "two 200x100 200x100"]
    assert {one.body["max_completion_tokens"] for one in server.asked} == {9}


def test_an_answer_that_cannot_be_read_is_complained_of_once() -> None:
    with FaultServer(said("seven"), said("7")) as server, endpoint(server) as place:
        assert dict(place.assistant().ask([question("how many?")])) == {0: 7}
    first, second = (conversation(asked) for asked in server.asked)
    assert second[:1] == first
    assert second[1] == ("assistant", "seven")
    assert second[2][0] == "user"
    assert "invalid literal for int() with base 10: 'seven'" in second[2][1]


def test_what_stays_unreadable_is_a_failure_and_is_asked_again(tmp_path: Path) -> None:
    with FaultServer(*[said("seven")] * 3, said("7")) as server:
        for wanted in (3, 4):
            with endpoint(server, tmp_path) as place:
                ((_, outcome),) = place.assistant().ask([question("how many?")], tries=3)
            assert len(server.asked) == wanted
            assert outcome == 7 if wanted == 4 else isinstance(outcome, Failure)
            if isinstance(outcome, Failure):
                assert outcome.stage == "answer"


def test_an_answer_is_complained_of_once_only() -> None:
    """One that was cut off holds nothing to complain of, nor does it bring back the one before."""
    cut = Act(body=completion("eig", finish="length"))
    with FaultServer(said("seven"), cut, said("8")) as server, endpoint(server) as place:
        ((_, outcome),) = place.assistant().ask([question("how many?")], tries=3)
    assert isinstance(outcome, Failure)
    assert "cut off" in outcome.reason
    assert len(server.asked) == 2


def test_only_readable_answers_are_kept(tmp_path: Path) -> None:
    plan = [said("seven"), said("7"), said("no more calls expected")]
    for _ in range(2):
        with FaultServer(*plan) as server, endpoint(server, tmp_path) as place:
            assert dict(place.assistant().ask([question("how many?")])) == {0: 7}
    stored = [json.loads(path.read_text())["answer"]["text"] for path in tmp_path.glob("*/*.json")]
    assert set(stored) == {"7"}


@pytest.mark.parametrize("act", [refused(400), Act(body=completion("7", finish="content_filter"))])
def test_a_failed_call_is_not_complained_of(act: Act) -> None:
    with FaultServer(act) as server, endpoint(server) as place:
        ((_, outcome),) = place.assistant().ask([question("how many?")])
    assert isinstance(outcome, Failure)
    assert outcome.stage == "answer"
    assert len(server.asked) == 1


def test_a_picture_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    with FaultServer(said("1")) as server, endpoint(server) as place:
        asked = [question("gone", str(tmp_path / "none.png")), question("there")]
        answers = dict(place.assistant().ask(asked))
    assert answers[1] == 1
    assert isinstance(answers[0], Failure)
    assert answers[0].stage == "image"
