"""Requests in batches, without a model: what is asked, how often, and what stands where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from groundling.errors import ImageError
from groundling.models.grounding import Asked, distinct_pictures, ground_batches
from groundling.records import Box, Failure, Grounded


class Fake:
    """Answers a box as wide as the words are long; keeps what it was given."""

    def __init__(self) -> None:
        self.read_paths: list[str] = []
        self.batches: list[list[tuple[str, str]]] = []

    def read(self, path: str) -> str:
        self.read_paths.append(path)
        if path.startswith("torn"):
            raise ImageError(f"{path}: torn")
        return path.upper()

    def answer(self, batch: Sequence[Asked[str, str]]) -> Iterator[Grounded | Failure]:
        self.batches.append([request for request, _ in batch])
        for (path, words), picture in batch:
            assert picture == path.upper()
            yield Failure("no box", "parse") if words == "?" else found(words)


def found(words: str) -> Grounded:
    return Grounded(Box(0, 0, len(words), 1))


def test_every_request_has_its_answer_and_is_computed_once() -> None:
    fake = Fake()
    requests = [("a", "man"), ("b", "dog"), ("a", ""), ("a", "boy!"), ("b", "dog"), ("a", "?")]
    answers = ground_batches(requests, fake.read, fake.answer, 2)
    empty = Failure("the expression is empty", "ground")
    none = Failure("no box", "parse")
    assert answers == [found("man"), found("dog"), empty, found("boy!"), found("dog"), none]
    assert fake.batches == [[("a", "man"), ("a", "boy!")], [("a", "?"), ("b", "dog")]]
    assert fake.read_paths == ["a", "b"], "a picture stays at hand for the batch after its own"


def test_a_picture_that_cannot_be_read_fails_its_own_requests() -> None:
    fake = Fake()
    requests = [("torn", "x"), ("a", "x"), ("torn", "y"), ("torn", "z")]
    torn = Failure("torn: torn", "image")
    assert ground_batches(requests, fake.read, fake.answer, 2) == [torn, found("x"), torn, torn]
    assert fake.batches == [[("a", "x")]]
    assert fake.read_paths == ["torn", "a"]
    assert ground_batches([], fake.read, fake.answer, 2) == []


def test_no_more_pictures_are_held_than_a_batch_has() -> None:
    """The first picture, asked about again in a later call, is read again."""
    fake = Fake()
    ground_batches([(name, "x") for name in "abcd"], fake.read, fake.answer, 1)
    ground_batches([("a", "x")], fake.read, fake.answer, 1)
    assert fake.read_paths == list("abcda")


def test_an_answer_too_few_is_noticed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ground_batches([("a", "x"), ("a", "y")], str.upper, lambda _: [found("x")], 2)


def test_distinct_pictures() -> None:
    batch = [(("b", "x"), "B"), (("a", "x"), "A"), (("b", "y"), "B")]
    assert distinct_pictures(batch) == (["B", "A"], [0, 1, 0])
