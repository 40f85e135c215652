from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from groundling.collect import collect_expressions, failures_path, wanted_expressions
from groundling.corpus import Corpus
from groundling.data.expressions_jsonl import (
    EntityExpression,
    read_expressions,
    write_expressions,
)
from groundling.errors import DataError, InputError
from groundling.experts import collect_experts
from groundling.progress import Progress
from groundling.records import ABSENT, Box, Entity, Expression, Failure, Post

SMALL, LARGE = Box(0, 0, 2, 2), Box(0, 0, 9, 9)
SOURCE = "expert:m"


def post(id: str, *entities: Entity, image: str | None = "p.png") -> Post:
    return Post(id, ("a", "b", "c"), entities, image)


ANN = Entity("Ann", "PER", 0, 1, (SMALL, LARGE))
PARIS = Entity("Paris", "LOC", 1, 2)
NASA = Entity("NASA", "ORG", 2, 3, (SMALL,))
POSTS = (post("1", ANN, PARIS), post("2", NASA), post("3", PARIS, ANN))


class FakeExpert:
    """Says what it is told to for a picture and box; keeps what it was asked. Answers backwards."""

    source = SOURCE

    def __init__(
        self,
        said: Mapping[tuple[str, Box], str | Failure] | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.said = dict(said or {})
        self.stop_after = stop_after
        self.asked: list[tuple[str, Box]] = []

    def describe(
        self, marked: Sequence[tuple[str, Box]]
    ) -> Iterator[tuple[int, Expression | Failure]]:
        for count, place in enumerate(reversed(range(len(marked)))):
            if count == self.stop_after:
                raise InputError("a key was refused")
            self.asked.append(marked[place])
            text = self.said.get(marked[place], f"box {marked[place][1].area:g}")
            yield place, text if isinstance(text, Failure) else Expression(text, SOURCE)


def lines(out: Path) -> list[tuple[str, str, str]]:
    return [(one.post_id, one.name, one.expression.text) for one in read_expressions(out)]


WHOLE = [
    ("1", "Ann", "box 81"),
    ("1", "Paris", ABSENT),
    ("2", "NASA", "box 4"),
    ("3", "Paris", ABSENT),
    ("3", "Ann", "box 81"),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "experts.jsonl"


def test_the_largest_box_is_described_and_what_is_not_there_is_not_asked_about(out: Path) -> None:
    expert = FakeExpert()
    done = collect_expressions(POSTS, expert, out)
    assert lines(out) == WHOLE
    assert sorted(expert.asked) == [("p.png", SMALL), ("p.png", LARGE), ("p.png", LARGE)]
    assert {one.expression.source for one in read_expressions(out)} == {SOURCE}
    assert (done.asked, done.written, done.absent, done.kept, done.failed) == (3, 3, 2, 0, {})
    assert not failures_path(out).exists()


def test_training_takes_the_file_as_it_is(out: Path) -> None:
    collect_expressions(POSTS, FakeExpert(), out)
    corpus = Corpus({"train": POSTS}, {})
    found = collect_experts(corpus, corpus.cases("train"), out)
    assert list(found.values()) == [text for *_, text in WHOLE]


def test_mentions_share_a_line_and_any_box_makes_it_groundable() -> None:
    ungrounded = Entity("Ann", "PER", 1, 2)
    other_type = Entity("Ann", "ORG", 2, 3)
    wanted = wanted_expressions([post("1", ungrounded, ANN, ANN, other_type)])
    assert [(want.key, want.box) for want in wanted] == [
        (("1", "Ann", "PER"), LARGE),
        (("1", "Ann", "ORG"), None),
    ]


def test_a_second_run_asks_nobody(out: Path) -> None:
    collect_expressions(POSTS, FakeExpert(), out)
    before = out.read_bytes()
    expert = FakeExpert()
    done = collect_expressions(POSTS, expert, out)
    assert expert.asked == []
    assert (done.kept, done.asked) == (5, 0)
    assert out.read_bytes() == before


def test_failures_are_told_beside_the_file_and_asked_again(out: Path) -> None:
    bad = {("p.png", SMALL): Failure("HTTP 400: no", "api")}
    posts = (*POSTS, post("4", ANN, image=None))
    done = collect_expressions(posts, FakeExpert(bad), out)
    assert lines(out) == [line for line in WHOLE if line[1] != "NASA"]
    assert done.failed == {"HTTP 400": 1, "the picture cannot be used": 1}
    told = [json.loads(line) for line in failures_path(out).read_text().splitlines()]
    assert {
        "id": "2",
        "entity": "NASA",
        "type": "ORG",
        "reason": "HTTP 400: no",
        "stage": "api",
    } in told
    assert [one["id"] for one in told if one["stage"] == "image"] == ["4"]

    expert = FakeExpert()
    done = collect_expressions(POSTS, expert, out)
    assert expert.asked == [("p.png", SMALL)]
    assert lines(out) == WHOLE
    (left,) = failures_path(out).read_text().splitlines()
    assert json.loads(left)["id"] == "4"


def test_failures_keep_their_kind_and_are_counted_by_it(out: Path) -> None:
    refused = Failure("no description: I cannot", "answer", "refused")
    done = collect_expressions(POSTS, FakeExpert({("p.png", SMALL): refused}), out)
    assert done.failed == {"refused": 1}
    before = failures_path(out).read_bytes()
    assert json.loads(before)["kind"] == "refused"
    collect_expressions(POSTS, FakeExpert(), out, limit=0)
    assert failures_path(out).read_bytes() == before


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stop_keeps_what_was_written(stop_after: int, out: Path) -> None:
    with pytest.raises(InputError, match="refused"):
        collect_expressions(POSTS, FakeExpert(stop_after=stop_after), out)
    assert len(lines(out)) == 2 + stop_after
    expert = FakeExpert()
    collect_expressions(POSTS, expert, out)
    assert len(expert.asked) == 3 - stop_after
    assert lines(out) == WHOLE


@pytest.mark.parametrize(
    "last",
    [
        "my notes",
        '{"id": "3", "entity": "Ann", "type": "PER", "expression": "a "red" hat"}',
        '{"id": "3", "entity": "An',
    ],
)
def test_a_last_line_that_is_not_whole_is_told_and_stays(last: str, out: Path) -> None:
    collect_expressions(POSTS[:2], FakeExpert(), out)
    before = out.read_text() + last
    out.write_text(before)
    expert = FakeExpert()
    with pytest.raises(DataError, match=r"experts\.jsonl:4: not a whole JSON object; complete"):
        collect_expressions(POSTS, expert, out)
    assert (out.read_text(), expert.asked) == (before, [])


def test_progress_counts_what_was_there(out: Path) -> None:
    for limit, done in ((1, 1), (1, 2), (None, 3)):
        progress = Progress("experts", 3, quiet=True)
        collect_expressions(POSTS, FakeExpert(), out, limit=limit, progress=progress)
        assert progress.done == done


def test_corrections_by_hand_stay(out: Path) -> None:
    mended = EntityExpression("1", "Ann", "PER", Expression("the tall woman", "human"), "good")
    foreign = EntityExpression("9", "Else", "PER", Expression("somebody", "human"))
    write_expressions(out, [foreign, mended])
    expert = FakeExpert()
    collect_expressions(POSTS, expert, out)
    assert len(expert.asked) == 2
    found = read_expressions(out)
    assert found[0] == mended
    assert found[-1] == foreign


def test_another_experts_file_is_left_alone(out: Path) -> None:
    write_expressions(out, [EntityExpression("1", "Ann", "PER", Expression("x", "expert:other"))])
    before = out.read_bytes()
    with pytest.raises(DataError, match="expert:other, not of expert:m"):
        collect_expressions(POSTS, FakeExpert(), out)
    assert out.read_bytes() == before


def test_an_absent_of_older_annotations_is_asked_about(out: Path) -> None:
    write_expressions(out, [EntityExpression("2", "NASA", "ORG", Expression(ABSENT, SOURCE))])
    collect_expressions(POSTS, FakeExpert(), out)
    assert lines(out) == WHOLE


def test_a_limit_goes_on_where_it_stopped(out: Path) -> None:
    for left in (2, 1, 0, 0):
        done = collect_expressions(POSTS, FakeExpert(), out, limit=1)
        assert done.left == left
    assert lines(out) == WHOLE


def test_a_limit_is_not_eaten_by_what_keeps_failing(out: Path) -> None:
    ids = {box: id for box, id in ((SMALL, "2"), (LARGE, "1"))}
    asked, failing = [], []
    for said in ("no", "no", None, "no", None):
        no = Failure("no", "api")
        expert = FakeExpert({("p.png", box): no for box in ids} if said else {})
        collect_expressions(POSTS[:2], expert, out, limit=1)
        asked += [ids[box] for _, box in expert.asked]
        path = failures_path(out)
        told = path.read_text().splitlines() if path.exists() else []
        failing.append([json.loads(line)["id"] for line in told])
    assert asked == ["1", "2", "1", "2", "2"]
    assert failing == [["1"], ["1", "2"], ["2"], ["2"], []]


def test_a_stop_forgets_no_failure(out: Path) -> None:
    no = {("p.png", box): Failure("no", "api") for box in (SMALL, LARGE)}
    collect_expressions(POSTS, FakeExpert(no), out)
    before = failures_path(out).read_text()
    with pytest.raises(InputError, match="refused"):
        collect_expressions(POSTS, FakeExpert(no, stop_after=0), out)
    assert failures_path(out).read_text() == before


def test_the_failures_of_another_split_stay_until_they_are_answered(out: Path) -> None:
    no = {("p.png", box): Failure("no", "api") for box in (SMALL, LARGE)}
    collect_expressions(POSTS[:1], FakeExpert(no), out)
    told = failures_path(out).read_text()
    collect_expressions(POSTS[1:], FakeExpert(), out)
    assert failures_path(out).read_text() == told

    by_hand = EntityExpression("1", "Ann", "PER", Expression("the tall woman", "human"))
    write_expressions(out, [*read_expressions(out), by_hand])
    collect_expressions(POSTS[1:], FakeExpert(), out)
    assert not failures_path(out).exists()


def test_a_failures_file_of_something_else_is_told(out: Path) -> None:
    failures_path(out).write_text('{"id": "1"}\n')
    with pytest.raises(DataError, match="does not say what failed; restore or remove it"):
        collect_expressions(POSTS, FakeExpert(), out)


def test_two_runs_at_once_are_refused(out: Path) -> None:
    class Nested(FakeExpert):
        def describe(
            self, marked: Sequence[tuple[str, Box]]
        ) -> Iterator[tuple[int, Expression | Failure]]:
            with pytest.raises(InputError, match="another process"):
                collect_expressions(POSTS, FakeExpert(), out)
            return super().describe(marked)

    collect_expressions(POSTS, Nested(), out)
    assert lines(out) == WHOLE


def test_expressions_that_speak_of_the_drawn_box_are_counted(out: Path) -> None:
    said = {("p.png", SMALL): "the logo in the green bounding box"}
    assert collect_expressions(POSTS, FakeExpert(said), out).speaks_of_box == 1


def test_odd_characters_survive(out: Path) -> None:
    said = {("p.png", SMALL): "l\u200dogo ‘Ünïcode’ \U0001f600"}
    collect_expressions(POSTS, FakeExpert(said), out)
    assert ("2", "NASA", said["p.png", SMALL]) in lines(out)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I'm sorry, but I can't identify people in images.", "refused"),
        ("<think>hm", "thought"),
        ("1. a logo\n2. a sign", "several"),
        (f"{ABSENT}.", "absent"),
        ("NASA", "named"),
        ("the logo of NASA", "named"),
        ("word " * 900, "long"),
    ],
)
def test_field_e3_what_is_no_expression_or_odd_is_a_failure_by_its_kind(
    text: str, kind: str, out: Path
) -> None:
    done = collect_expressions(POSTS, FakeExpert({("p.png", SMALL): text}), out)
    assert done.failed == {kind: 1}
    assert lines(out) == [line for line in WHOLE if line[1] != "NASA"]


def test_field_e3_odd_expressions_can_be_kept_and_are_counted(out: Path) -> None:
    expert = FakeExpert({("p.png", SMALL): '**"the logo of NASA"**'})
    done = collect_expressions(POSTS, expert, out, keep_odd=True)
    assert (done.failed, done.odd) == ({}, {"named": 1})
    assert ("2", "NASA", "the logo of NASA") in lines(out)
