from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeGrounder, FakeWriter

from groundling import answers as module
from groundling.answers import (
    Answer,
    answer_queries,
    ground_all,
    predictions_of,
    write_all,
)
from groundling.models.base import GREEDY, Sampling
from groundling.records import (
    ABSENT,
    Box,
    Entity,
    Expression,
    FailedEntity,
    Failure,
    Grounded,
    Post,
    PostPrediction,
    Prediction,
    Query,
)

BOXES = {"the man": Box(1, 2, 3, 4), "the hat": Box(5, 6, 7, 8), "the sea": Failure("no", "ground")}
MUTE = Failure("no words", "write")


def query(number: int, name: str, image: str = "a.jpg") -> Query:
    return Query(f"p{number}#0", image, name, "PER")


def test_words_then_a_box_or_neither() -> None:
    writer = FakeWriter({"Ann": "the man", "Bob": ABSENT, "Cy": MUTE, "Di": "the sea"})
    grounder = FakeGrounder(BOXES)
    queries = [query(i, name) for i, name in enumerate(("Ann", "Bob", "Cy", "Di"))]
    assert answer_queries(writer, grounder, queries, source="writer:x/1") == [
        Answer(Expression("the man", "writer:x/1", -0.5), Box(1, 2, 3, 4), 0.75),
        Answer(Expression(ABSENT, "writer:x/1", -0.5), None),
        MUTE,
        Failure("no", "ground"),
    ]
    assert [(k, sampling) for _, k, sampling, _ in writer.asked] == [(1, GREEDY)] * 4
    assert grounder.asked == [("a.jpg", "the man"), ("a.jpg", "the sea")]


@pytest.mark.parametrize("text", [ABSENT, ABSENT + ".", ABSENT.lower(), f" {ABSENT} "])
def test_absent_is_never_grounded(text: str) -> None:
    grounder = FakeGrounder({})
    (answer,) = answer_queries(
        FakeWriter({"Ann": text}), grounder, [query(0, "Ann")], source="writer:x/1"
    )
    assert isinstance(answer, Answer)
    assert (answer.box, answer.expression.text) == (None, text)
    assert grounder.batches in ([], [[]])


def test_the_same_words_about_a_picture_are_grounded_once_and_together() -> None:
    names = {"Ann": "the man", "Bob": "the man", "Cy": "the hat"}
    grounder = FakeGrounder(BOXES)
    queries = [
        query(0, "Ann"),
        query(1, "Bob", "b.jpg"),
        query(2, "Bob"),
        query(3, "Cy"),
        query(4, "Ann", "b.jpg"),
    ]
    found = answer_queries(FakeWriter(names), grounder, queries, source="writer:x/1")
    assert grounder.asked == [("a.jpg", "the man"), ("a.jpg", "the hat"), ("b.jpg", "the man")]
    assert [answer.box for answer in found if isinstance(answer, Answer)] == [
        BOXES["the man"],
        BOXES["the man"],
        BOXES["the man"],
        BOXES["the hat"],
        BOXES["the man"],
    ]


def test_ground_all_names_every_request() -> None:
    requests = [("a.jpg", "the man"), ("b.jpg", "the sea"), ("a.jpg", "the man")]
    assert ground_all(FakeGrounder(BOXES), requests, None) == {
        ("a.jpg", "the man"): Grounded(Box(1, 2, 3, 4), 0.75),
        ("b.jpg", "the sea"): Failure("no", "ground"),
    }
    assert ground_all(FakeGrounder(BOXES), [], None) == {}


def test_stored_chunks_give_the_same_answers_without_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_CHUNK", 2)
    monkeypatch.setattr(module, "GROUND_CHUNK", 1)
    queries = [query(0, "Ann"), query(1, "Bob"), query(2, "Cy", "b.jpg")]

    def ask(names: dict[str, str | Failure], boxes: dict[str, Box | Failure]) -> tuple[list, ...]:
        writer, grounder = FakeWriter(names), FakeGrounder(boxes)
        found = answer_queries(
            writer, grounder, queries, source="writer:x/1", folder=tmp_path / "kept"
        )
        return found, [q.name for q, *_ in writer.asked], grounder.asked

    names: dict[str, str | Failure] = {"Ann": "the man", "Bob": ABSENT, "Cy": "the hat"}
    first, asked, grounded = ask(names, BOXES)
    assert (len(asked), len(grounded)) == (3, 2)
    assert ask(names, BOXES) == (first, [], [])


def test_a_stored_failure_is_tried_again(tmp_path: Path) -> None:
    queries = [query(0, "Ann"), query(1, "Bob")]
    sampling = Sampling(0.8, 5)

    def ask(writer: FakeWriter, seed: int = 3) -> list[list[Expression] | Failure]:
        return write_all(writer, queries, 2, sampling, seed, "writer:x/1", tmp_path)

    assert ask(FakeWriter({"Ann": ["the man", "a man"]})) == [
        [Expression("the man", "writer:x/1", -0.5), Expression("a man", "writer:x/1", -0.5)],
        Failure("nothing to say", "write"),
    ]
    well = FakeWriter({"Ann": ["the man", "a man"], "Bob": [ABSENT, "the hat"]}, logprob=None)
    found = ask(well)
    assert len(well.asked) == 2
    assert found[1] == [
        Expression(ABSENT, "writer:x/1", None),
        Expression("the hat", "writer:x/1", None),
    ]
    assert ask(FakeWriter({})) == found  # now it is stored
    assert ask(FakeWriter({}), seed=4) == [Failure("nothing to say", "write")] * 2  # another draw


# --------------------------------------------------------------------------- predictions


def test_predictions_are_gathered_by_post() -> None:
    posts = [
        Post(
            "p0",
            ("Ann", "met", "Bob"),
            (Entity("Ann", "PER", 0, 1, (Box(0, 0, 9, 9),)), Entity("Bob", "PER", 2, 3)),
            "a.jpg",
        ),
        Post("p1", ("Ann",), (Entity("Ann", "PER", 0, 1),), "b.jpg"),
        Post("p2", ("Cy",), (Entity("Cy", "PER", 0, 1),), None),
        Post("p3", ("none",), (), "d.jpg"),
    ]
    queries = [query for post in posts[:2] for query in post.queries()]
    man, gone = Expression("the man", "writer:x/1"), Expression(ABSENT, "writer:x/1")
    said = [Answer(man, Box(1, 2, 3, 4), 0.5), Answer(gone, None), MUTE]
    assert predictions_of(posts, queries, said) == [
        PostPrediction(
            "p0",
            (
                Prediction("Ann", "PER", Box(1, 2, 3, 4), 0, 1, "the man", 0.5),
                Prediction("Bob", "PER", None, 2, 3, ABSENT),
            ),
        ),
        PostPrediction("p1", failure=MUTE),
        PostPrediction("p2", failure=Failure("the post's picture is missing", "image")),
        PostPrediction("p3"),
    ]


def test_field_r5_one_failure_stands_beside_the_answers_of_its_post() -> None:
    entities = (Entity("Ann", "PER", 0, 1), Entity("Bob", "PER", 1, 2))
    post = Post("p0", ("Ann", "Bob"), entities, "a.jpg")
    gone = Answer(Expression(ABSENT, "writer:x/1"), None)
    for said in ([gone, MUTE], [MUTE, gone]):
        (found,) = predictions_of([post], list(post.queries()), said)
        place = said.index(MUTE)
        lost, other = entities[place], entities[1 - place]
        assert found == PostPrediction(
            "p0",
            (Prediction(other.name, "PER", None, other.start, other.end, ABSENT),),
            failed=(FailedEntity(lost.name, "PER", MUTE, lost.start, lost.end),),
        )
    (found,) = predictions_of([post], list(post.queries()), [MUTE, MUTE])
    assert found == PostPrediction("p0", failure=MUTE)


def test_field_e1_a_writer_that_refuses_is_a_failure_and_not_grounded() -> None:
    writer = FakeWriter({"Ann": "I'm sorry, I can't help.", "Bob": "Bob is not in the picture."})
    grounder = FakeGrounder({})
    queries = [query(0, "Ann"), query(1, "Bob")]
    found = answer_queries(writer, grounder, queries, source="writer:x/1")
    assert [(one.stage, one.kind) for one in found if isinstance(one, Failure)] == [
        ("write", "refused"),
        ("write", "absent"),
    ]
    assert grounder.asked == []


def test_field_e2_a_writers_one_closed_thought_is_taken_off() -> None:
    writer = FakeWriter({"Ann": "<think>Who?</think> the man", "Bob": "<think>Who?"})
    queries = [query(0, "Ann"), query(1, "Bob")]
    first, second = answer_queries(writer, FakeGrounder(BOXES), queries, source="writer:x/1")
    assert first == Answer(Expression("the man", "writer:x/1"), Box(1, 2, 3, 4), 0.75)
    assert isinstance(second, Failure)
    assert second.kind == "thought"
