"""What servers and models take: parameters left out, further fields, forms of answers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from client_calls import ask, chat, client, endpoint, one
from fault_server import Act, Asked, FaultServer, completion, refused, said
from PIL import Image

from groundling.errors import ConfigError, InputError
from groundling.models.api.manner import manner_of
from groundling.models.api.wire import Choice
from groundling.models.base import Question, Sampling
from groundling.models.endpoints import endpoint_config
from groundling.records import Box, Failure, Prediction, Query

OPENAI = "https://api.openai.com/v1"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (100, 50), "red").save(path)
    return str(path)


def picky(asked: Asked) -> Act:
    """Refuses as OpenAI's reasoning models do."""
    for name in ("temperature", "top_p", "max_tokens"):
        if name in asked.body:
            error = {"message": f"Unsupported parameter: '{name}'", "param": name}
            body = {"error": {**error, "code": "unsupported_parameter"}}
            return Act(400, json.dumps(body).encode())
    return said("ok")


# --- parameters that are refused -----------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5-mini", "o1", "o3-mini", "openai/o4-mini"])
def test_field_e4_models_that_take_no_temperature_are_sent_none(model: str) -> None:
    with FaultServer(script=picky) as server:
        assert one(client(server, model=model)) == [Choice("ok")]
    (asked,) = server.asked
    assert "max_completion_tokens" in asked.body


@pytest.mark.parametrize("model", ["gpt-50", "o1x", "gpt-4o", "qwen-o3"])
def test_other_models_are_sent_a_temperature(model: str) -> None:
    with FaultServer(said("ok")) as server:
        one(client(server, model=model))
    assert server.asked[0].body["temperature"] == 0.0


def test_field_e4_a_parameter_is_left_out_where_it_is_null() -> None:
    with FaultServer(script=picky) as server:
        assert one(client(server, temperature=None, top_p=None)) == [Choice("ok")]
        assert (
            one(
                client(server, temperature=None, top_p=None, leave_out=["seed", "n"]),
                temperature=0.8,
                k=3,
            )
            == [Choice("ok")] * 3
        )
    assert len(server.asked) == 1 + 3, "without n, each sample is a request"
    assert all("seed" not in asked.body for asked in server.asked[1:])


def test_field_e4_the_words_of_a_refusal_lead_to_the_setting() -> None:
    told = r"400 \(set temperature to null to leave it out\): Unsupported"
    with FaultServer(script=picky) as server, pytest.raises(InputError, match=told):
        ask(client(server), *map(chat, "abcdef"))
    assert len(server.asked) <= 4, "every call would meet it"
    for words, sent, helps in (
        ("`temperature` and `top_p` cannot both be specified", {}, "set temperature to null"),
        ("max_completion_tokens: extra inputs", {}, "set limit_key to max_tokens"),
        ("bad enable_thinking x", {"extra_body": {"enable_thinking": 1}}, "mend extra_body"),
        ("no such field top_k", {"server": "vllm"}, "set server to the kind that it is"),
    ):
        with FaultServer(refused(400, words)) as server:
            found = one(client(server, **sent))
        assert isinstance(found, Failure)
        assert found.reason.startswith(f"HTTP 400 ({helps}")
        assert words in found.reason


def test_anthropics_endpoint_is_not_sent_both() -> None:
    config = endpoint_config({"endpoint": "https://api.anthropic.com/v1", "model": "claude"})
    manner = manner_of(config)
    assert (manner.temperature, manner.top_p, manner.n) == (True, None, False)


def test_what_the_user_sets_comes_first() -> None:
    config = endpoint_config({"endpoint": OPENAI, "model": "gpt-5", "temperature": 1.0})
    assert manner_of(config).temperature
    config = endpoint_config({"endpoint": OPENAI, "model": "gpt-5", "json_schema": False})
    assert not manner_of(config).json_schema


def test_samples_at_an_unknown_temperature_are_told(
    photo: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultServer(said("a", "b")) as server, endpoint(server, model="gpt-5") as there:
        (row,) = there.writer().sample([Query("q", photo, "x", "PER")], 2, Sampling(0.8), 0, "w")
        assert "no temperature" in there.own_temperature()
    assert "temperature" not in server.asked[0].body
    assert isinstance(row, list)
    assert [expression.text for expression in row] == ["a", "b"]
    assert "draws its answers at its own" in caplog.text


# --- equal questions -----------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("temperature", "k", "texts"), [(0.0, 1, "a"), (0.0, 3, "aaa"), (0.8, 3, "abc")]
)
def test_field_e5_equal_questions_at_once_are_one_call(
    temperature: float, k: int, texts: str, cached: bool, tmp_path: Path
) -> None:
    with FaultServer(Act(body=completion("a", "b", "c"), silent_s=0.05)) as server:
        asker = client(server, concurrency=8, cache=tmp_path if cached else None)
        found = ask(asker, *[chat("x", temperature=temperature, k=k)] * 14, chat("y"))
    assert found[:14] == [[Choice(text) for text in texts]] * 14
    assert len(server.asked) == 2


def test_a_failure_of_one_is_the_failure_of_its_equals() -> None:
    with FaultServer(refused(400, "no")) as server:
        found = ask(client(server, concurrency=8), *[chat("x")] * 14)
    assert found == [Failure("HTTP 400: no", "answer")] * 14
    assert len(server.asked) == 1


def test_what_stops_the_run_stops_those_who_wait() -> None:
    before = threading.active_count()
    with FaultServer(refused(401)) as server, pytest.raises(InputError, match="401"):
        ask(client(server, concurrency=8), *[chat("x")] * 14)
    assert threading.active_count() <= before + 1


# --- further fields ------------------------------------------------------------------------------


def test_field_e6_further_fields_are_sent_and_count_in_the_cache(
    photo: str, tmp_path: Path
) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    with FaultServer(said("[1, 2, 30, 40]")) as server:
        for extra in ({}, {"extra_body": thinking}, {"extra_body": thinking}):
            one(client(server, cache=tmp_path / "c", server="vllm", **extra))
        with endpoint(server, detail="low") as there:
            list(there.direct_grounder().answer([Query("q", photo, "x", "PER")]))
    plain, extended, looked = server.asked
    assert "chat_template_kwargs" not in plain.body
    assert extended.body["chat_template_kwargs"] == {"enable_thinking": False}
    (image,) = [part for part in looked.body["messages"][0]["content"] if part["type"] != "text"]
    assert image["image_url"]["detail"] == "low"


@pytest.mark.parametrize("name", ["model", "messages", "n", "stream", "seed", "response_format"])
def test_field_e6_what_decides_a_question_cannot_be_overridden(name: str) -> None:
    with pytest.raises(ConfigError, match=f"extra_body: cannot set {name}"):
        endpoint_config({"endpoint": OPENAI, "model": "m", "extra_body": {name: 1}})
    with pytest.raises(ConfigError, match="extra_body: not JSON"):
        endpoint_config({"endpoint": OPENAI, "model": "m", "extra_body": {"x": float("nan")}})


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ('{"box": [100, 200, 300, 400]}', Box(10, 10, 30, 20)),
        ('{"box": null}', None),
        ('{"box": [100, 200, 300]}', Failure),
        ('{"box": []}', Failure),
        ('{"box": [1, 2, 3, 4], "box": null}', Failure),
        ('{"box": [100, 200, 300, 4000]}', Failure),
        ('{"bbox": [100, 200, 300, 400]}', Failure),
    ],
)
def test_field_e6_a_box_by_json_schema(text: str, box: object, photo: str) -> None:
    with FaultServer(said(text)) as server, endpoint(server, json_schema=True) as there:
        ((_, found),) = there.direct_grounder().answer([Query("q", photo, "x", "PER")])
    form = server.asked[0].body["response_format"]
    assert form["json_schema"]["schema"]["required"] == ["box"]
    assert '{"box": null}' in server.asked[0].text
    if box is Failure:
        assert isinstance(found, Failure)
    else:
        assert found == Prediction("x", "PER", box)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, False),
        ({"json_schema": True}, True),
        ({"server": "vllm"}, True),
        ({"server": "vllm", "json_schema": False}, False),
        ({"server": "transformers"}, False),
    ],
)
def test_field_e6_a_question_brings_its_schema_where_it_is_taken(
    settings: dict[str, object], sent: bool
) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    question = Question(lambda _: [message], lambda text, _: text, schema={"type": "object"})
    with FaultServer(said("{}")) as server, endpoint(server, **settings) as there:
        assert list(there.assistant().ask([question])) == [(0, "{}")]
    assert ("response_format" in server.asked[0].body) == sent


# --- content in parts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "text", "text": "the "}, {"type": "text", "text": "man"}], "the man"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "the man"}], "the man"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "ok"}], "ok"),
    ],
)
def test_field_e8_content_in_parts_is_read(parts: list[dict[str, str]], text: str) -> None:
    with FaultServer(Act(body=completion(None, content=parts))) as server:
        assert one(client(server)) == [Choice(text)]
    assert len(server.asked) == 1


@pytest.mark.parametrize("parts", [[], [{"type": "image_url"}], [{"type": "thinking"}]])
def test_content_without_text_is_no_answer(parts: list[dict[str, str]]) -> None:
    with FaultServer(Act(body=completion(None, content=parts))) as server:
        assert one(client(server)) == [Failure("an empty answer", "answer", "empty")]
