from __future__ import annotations

import json
from pathlib import Path

import pytest
from client_calls import endpoint
from fault_server import Act, Asked, FaultServer, completion, refused, said
from PIL import Image

from groundling.errors import InputError
from groundling.models.base import GREEDY, Sampling
from groundling.prompts import as_text, writer_messages
from groundling.records import Expression, Failure, Query

SAMPLING = Sampling(temperature=0.8, max_new_tokens=32)
SOURCE = "writer:x/0"


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(path)
    return str(path)


def query(photo: str, name: str = "Neymar") -> Query:
    return Query(f"p#{name}", photo, name, "PER")


def texts(row: list[Expression] | Failure) -> list[str]:
    assert not isinstance(row, Failure), row
    return [expression.text for expression in row]


def test_the_prompt_is_the_papers_with_the_picture_in_its_place(photo: str) -> None:
    with FaultServer(said("a man")) as server, endpoint(server) as place:
        rows = place.writer().sample([query(photo)], 1, GREEDY, 0, SOURCE)
    assert rows == [[Expression("a man", SOURCE, None)]]
    (asked,) = server.asked
    content = asked.body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text"]
    wanted = as_text(writer_messages("Neymar", "PER"))
    assert content[0]["text"] + "{image}" + content[2]["text"] == wanted
    assert [picture.size for picture in asked.pictures] == [(60, 40)]


COMMON = {"temperature": 0.8, "top_p": 1.0}


@pytest.mark.parametrize(
    ("server", "wanted"),
    [
        ("openai", {**COMMON, "max_completion_tokens": 32, "n": 4}),
        (
            "vllm",
            {**COMMON, "max_tokens": 32, "n": 4, "top_k": -1, "min_p": 0.0, "logprobs": True}
            | {"repetition_penalty": 1.0},
        ),
        ("transformers", {"max_tokens": 32}),
    ],
)
def test_what_each_server_is_sent(server: str, wanted: dict[str, object], photo: str) -> None:
    with FaultServer(said(*"abcd")) as fault, endpoint(fault, server=server) as place:
        place.writer().sample([query(photo)], 4, SAMPLING, 7, SOURCE)
    bodies = [dict(asked.body) for asked in fault.asked]
    seeds = [body.pop("seed") for body in bodies]
    assert len(set(seeds)) == len(bodies) == (4 if server == "transformers" else 1)
    assert all(0 <= seed < 2**31 for seed in seeds)
    for body in bodies:
        assert body.pop("model") == "m"
        del body["messages"]
        if server == "transformers":
            assert json.loads(body.pop("generation_config")) == {
                "do_sample": True,
                "temperature": 0.8,
                "top_p": 1.0,
                "top_k": 0,
                "repetition_penalty": 1.0,
                "num_beams": 1,
                "max_new_tokens": 32,
            }
        assert body == wanted


@pytest.mark.parametrize("server", ["openai", "vllm", "transformers"])
def test_greedy_draws_nothing(server: str, photo: str) -> None:
    with FaultServer(said("a")) as fault, endpoint(fault, server=server) as place:
        rows = place.writer().sample([query(photo)], 2, GREEDY, 0, SOURCE)
    assert texts(rows[0]) == ["a", "a"]
    for asked in fault.asked:
        assert not {"seed", "n"} & asked.body.keys()
        if server == "transformers":
            assert json.loads(asked.body["generation_config"])["do_sample"] is False
            assert "temperature" not in asked.body
        else:
            assert asked.body["temperature"] == 0.0


def test_a_server_that_knows_no_n_is_asked_for_the_rest(photo: str) -> None:
    with FaultServer(*(said(text) for text in "abcd")) as server, endpoint(server) as place:
        rows = place.writer().sample([query(photo)], 4, SAMPLING, 0, SOURCE)
    assert texts(rows[0]) == list("abcd")
    assert [asked.body.get("n", 1) for asked in server.asked] == [4, 3, 2, 1]
    assert len({asked.body["seed"] for asked in server.asked}) == 4


def test_more_choices_than_asked_for_are_left(photo: str) -> None:
    with FaultServer(said(*"abcdef")) as server, endpoint(server) as place:
        rows = place.writer().sample([query(photo)], 2, SAMPLING, 0, SOURCE)
    assert texts(rows[0]) == ["a", "b"]


def test_one_bad_sample_makes_the_query_a_failure(photo: str) -> None:
    act = said("a", "b", "c", finish=["stop", "content_filter", "stop"])
    with FaultServer(act) as server, endpoint(server) as place:
        rows = place.writer().sample([query(photo)], 3, SAMPLING, 0, SOURCE)
    assert rows == [Failure("withheld by a content filter", "answer", "filtered")]


def test_a_sample_that_is_cut_stays_without_a_logprob(photo: str) -> None:
    tokens = [[("a", -0.5), ("<|im_end|>", -0.25)], [("b", -0.5), (" wit", -0.25)]]
    body = completion("a", "b wit", finish=["stop", "length"], logprobs=tokens)
    with FaultServer(Act(body=body)) as server, endpoint(server, server="vllm") as place:
        rows = place.writer().sample([query(photo)], 2, SAMPLING, 0, SOURCE)
    assert rows == [[Expression("a", SOURCE, -0.75), Expression("b wit", SOURCE, None)]]


@pytest.mark.parametrize(
    ("server", "tokens", "wanted"),
    [
        ("vllm", [("a", -0.5), (" man", -0.25), ("<|im_end|>", -0.125)], -0.875),
        ("vllm", [("a", -0.5), (" man", -0.25)], None),  # without the end token
        ("vllm", None, None),
        ("openai", [("a", -0.5), (" man", -0.25), ("<|im_end|>", -0.125)], None),
        ("vllm", [("a", -0.5), (" man ", -0.25), ("<|im_end|>", -0.125)], None),  # trimmed
    ],
)
def test_logprobs_count_with_their_end_token_only(
    server: str, tokens: list[tuple[str, float]] | None, wanted: float | None, photo: str
) -> None:
    text = "".join(token for token, _ in tokens or [("a man", 0)]).removesuffix("<|im_end|>")
    act = Act(body=completion(text, logprobs=None if tokens is None else [tokens]))
    with FaultServer(act) as fault, endpoint(fault, server=server) as place:
        rows = place.writer().sample([query(photo)], 1, SAMPLING, 0, SOURCE)
    assert rows == [[Expression("a man", SOURCE, wanted)]]


def test_rows_keep_their_order_and_failures_their_place(photo: str, tmp_path: Path) -> None:
    def script(asked: Asked) -> Act:
        name = asked.text.rpartition("Entity: ")[2]
        return refused(400, "no") if name.startswith("Bad") else said(name)

    names = ["A", "Bad", "C", "D", "E"]
    queries = [query(photo, name) for name in names]
    queries[3] = Query("p#3", str(tmp_path / "none.png"), "D", "PER")
    with FaultServer(script=script) as server, endpoint(server, concurrency=3) as place:
        rows = place.writer().sample(queries, 1, GREEDY, 0, SOURCE)
    assert [texts(rows[i]) for i in (0, 2, 4)] == [["A (PER)"], ["C (PER)"], ["E (PER)"]]
    assert rows[1] == Failure("HTTP 400: no", "answer")
    assert isinstance(rows[3], Failure)
    assert rows[3].stage == "image"


def test_seeds_differ_by_query_and_seed_and_repeat(photo: str) -> None:
    def seeds(seed: int) -> set[int]:
        with FaultServer(said("a")) as server, endpoint(server) as place:
            queries = [query(photo, "A"), query(photo, "B")]
            place.writer().sample(queries, 1, SAMPLING, seed, SOURCE)
            return {asked.body["seed"] for asked in server.asked}

    assert len(seeds(0)) == 2
    assert seeds(0) == seeds(0)  # at another address
    assert len(seeds(0) | seeds(1)) == 4


def test_pictures_are_read_ahead(photo: str, tmp_path: Path) -> None:
    with FaultServer(said("a")) as server, endpoint(server) as place:
        found = place.writer().prepare([photo, str(tmp_path / "none.png")])
        assert found[0] is None
        assert isinstance(found[1], Failure)
        assert place.writer().knows(query(photo)) is None


@pytest.mark.parametrize(("k", "sampling"), [(0, SAMPLING), (1, Sampling(-1)), (1, Sampling(1, 0))])
def test_senseless_sampling_is_refused(k: int, sampling: Sampling, photo: str) -> None:
    with FaultServer(said("a")) as server, endpoint(server) as place, pytest.raises(InputError):
        place.writer().sample([query(photo)], k, sampling, 0, SOURCE)
