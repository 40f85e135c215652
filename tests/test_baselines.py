"""Answers of a direct grounder in chunks: a stop in between changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groundling import baselines
from groundling.corpus import Corpus
from groundling.data.jsonl import read_predictions, write_predictions
from groundling.records import (
    NO_PICTURE,
    Box,
    Entity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
    Query,
    count_failures,
)

POSTS = tuple(
    Post(
        str(number),
        ("Ann", "Bob", "x"),
        (Entity("Ann", "PER", 0, 1, (Box(0, 0, 9, 9),)), Entity("Bob", "PER", 1, 2)),
        None if number == 3 else f"{number}.png",
    )
    for number in range(5)
)


class Fake:
    """A score that depends on the company in a batch, as floating-point sums do."""

    def __init__(self, stop_after: int | None = None, failing: str = "") -> None:
        self.stop_after, self.failing = stop_after, failing
        self.asked: list[str] = []

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Prediction | Failure]]:
        if self.stop_after == 0:
            raise KeyboardInterrupt
        self.stop_after = None if self.stop_after is None else self.stop_after - 1
        self.asked += [query.id for query in queries]
        for place in reversed(range(len(queries))):
            query = queries[place]
            score = sum(map(len, (other.image for other in queries))) / 100 + place / 7
            box = Box(0.1, place, 5, 9) if query.name == "Ann" else None
            failed = Failure("torn", "image") if query.id == self.failing else None
            yield place, failed or Prediction(query.name, query.type, box, score=score)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "ANSWER_CHUNK", 3)


def answers(folder: Path, model: Any, noted: list[Any] | None = None) -> list[PostPrediction]:
    """What is said of POSTS; `noted` takes the outcomes that the stage is told of."""
    note = ([] if noted is None else noted).extend
    stage: Any = SimpleNamespace(name="evaluate", scratch=folder, note=note)
    corpus = Corpus({"test": POSTS}, {})
    return baselines.answer(stage, model, corpus, "test", quiet=True)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stopped_run_ends_in_the_same_answers(stop_after: int, tmp_path: Path) -> None:
    whole, again = Fake(), Fake()
    undisturbed = answers(tmp_path / "a", whole)
    with pytest.raises(KeyboardInterrupt):
        answers(tmp_path / "b", Fake(stop_after))
    assert answers(tmp_path / "b", again) == undisturbed
    assert again.asked == whole.asked[3 * stop_after :]
    assert [len(post.predictions) for post in undisturbed] == [2, 2, 2, 0, 2]
    first = undisturbed[0].predictions[0]
    assert (first.start, first.end, first.box) == (0, 1, Box(0.1, 0, 5, 9))
    assert first.score == pytest.approx(0.15)


def test_field_r5_what_fails_is_an_error_beside_answers(tmp_path: Path) -> None:
    noted: list[Any] = []
    said = answers(tmp_path / "a", Fake(failing="1#1"), noted)
    assert count_failures(noted) == (1, 0), "a post without a picture is not asked about"
    (lost,) = said[1].failed
    assert (lost.failure, lost.start) == (Failure("torn", "image"), POSTS[1].entities[1].start)
    assert [one.start for one in said[1].predictions] == [POSTS[1].entities[0].start]
    assert said[3] == PostPrediction("3", failure=NO_PICTURE)
    write_predictions(tmp_path / "p.jsonl", said)
    assert read_predictions(tmp_path / "p.jsonl") == tuple(said)
