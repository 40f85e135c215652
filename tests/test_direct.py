from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from groundling import journal
from groundling.data.jsonl import read_predictions
from groundling.direct import again_path, answer_posts, maker_path
from groundling.errors import DataError, InputError
from groundling.progress import Progress
from groundling.records import (
    Box,
    Entity,
    FailedEntity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
    Query,
)
from groundling.scoring import score_isr

BOX = Box(0.5, 1, 8, 9)
MAKER = {"model": "m", "convention": "pixels"}
ANN = Entity("Ann", "PER", 0, 1, (BOX,))
PARIS = Entity("Paris", "LOC", 1, 2)
POSTS = (
    Post("1", ("Ann", "Paris"), (ANN, PARIS), "p.png"),
    Post("2", ("nothing",), (), "p.png"),
    Post("3", ("Ann",), (ANN,), "p.png"),
)


class FakeGrounder:
    """Answers by query id: a box, None for absent, or a Failure. Answers backwards."""

    def __init__(
        self,
        said: Mapping[str, Prediction | Failure] | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.said = dict(said or {})
        self.stop_after = stop_after
        self.asked: list[str] = []

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Prediction | Failure]]:
        for count, place in enumerate(reversed(range(len(queries)))):
            if count == self.stop_after:
                raise InputError("a key was refused")
            query = queries[place]
            self.asked.append(query.id)
            box = BOX if query.name == "Ann" else None
            yield place, self.said.get(query.id, Prediction(query.name, query.type, box))


WHOLE = (
    PostPrediction(
        "1", (Prediction("Ann", "PER", BOX, 0, 1), Prediction("Paris", "LOC", None, 1, 2))
    ),
    PostPrediction("2"),
    PostPrediction("3", (Prediction("Ann", "PER", BOX, 0, 1),)),
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pred.jsonl"


def test_predictions_in_the_order_of_the_posts(out: Path) -> None:
    done = answer_posts(POSTS, FakeGrounder(), out, MAKER)
    assert read_predictions(out) == WHOLE
    assert (done.posts, done.boxes, done.absent, done.failed_posts) == (3, 2, 1, 0)
    assert score_isr(POSTS, read_predictions(out), resamples=0).accuracy["all"].percent == 100


def test_field_r5_a_failed_entity_leaves_the_others_of_its_post(out: Path) -> None:
    grounder = FakeGrounder({"1#1": Failure("HTTP 400: no", "api")})
    done = answer_posts(POSTS, grounder, out, MAKER)
    lost = FailedEntity("Paris", "LOC", Failure("HTTP 400: no", "api"), 1, 2)
    failed = PostPrediction("1", (Prediction("Ann", "PER", BOX, 0, 1),), failed=(lost,))
    assert read_predictions(out) == (*WHOLE[1:], failed)
    assert (done.posts, done.boxes, done.absent) == (2, 2, 0)
    assert (done.failed_posts, done.failed) == (1, {"HTTP 400": 1})
    score = score_isr(POSTS, read_predictions(out), resamples=0)
    assert (score.accuracy["all"].right, score.unanswered) == (2, 1), "failed is not absent"

    again = FakeGrounder()
    done = answer_posts(POSTS, again, out, MAKER)
    assert again.asked == ["1#1"], "what was answered is not asked about again"
    assert read_predictions(out) == WHOLE
    assert (done.posts, done.kept, done.boxes, done.absent) == (1, 2, 0, 1)


def test_field_r5_a_stop_loses_no_entity_that_was_asked_for_again(out: Path) -> None:
    """Also where its post is not whole yet: it may have one failed entity less than before."""
    no = Failure("no", "api")
    names = ("Ann", "Paris", "Ann")
    entities = tuple(replace(PARIS, name=n, start=i, end=i + 1) for i, n in enumerate(names))
    posts = [Post(str(number), names, entities, "p.png") for number in range(2)]
    bad = dict.fromkeys(("0#1", "0#2", "1#1", "1#2"), no)
    answer_posts(posts, FakeGrounder(bad), out, MAKER)
    before = read_predictions(out)
    assert [(len(one.predictions), len(one.failed)) for one in before] == [(1, 2)] * 2
    stopped, last = FakeGrounder({"0#1": no}, stop_after=3), FakeGrounder()
    with pytest.raises(InputError):
        answer_posts(posts, stopped, out, MAKER)
    assert read_predictions(out) == before, "a file that can be read, no id twice"
    answer_posts(posts, last, out, MAKER)
    assert stopped.asked == ["0#2", "0#1", "1#2"]
    assert sorted(last.asked) == ["0#1", "1#1", "1#2"], "0#2 is kept"
    assert [[one.start for one in post.predictions] for post in read_predictions(out)] == [
        [0, 1, 2],
        [0, 1, 2],
    ]
    assert not again_path(out).exists()


def test_field_r5_answers_of_another_model_are_not_added_to_a_post(out: Path) -> None:
    answer_posts(POSTS[:1], FakeGrounder({"1#1": Failure("no", "api")}), out, MAKER)
    with pytest.raises(DataError, match="was made otherwise"):
        answer_posts(POSTS[:1], FakeGrounder(), out, {"model": "other"})


def test_a_post_without_its_picture_is_an_error_record(out: Path) -> None:
    posts = (*POSTS, Post("4", ("Paris",), (PARIS,), None))
    grounder = FakeGrounder()
    answer_posts(posts, grounder, out, MAKER)
    assert read_predictions(out)[3].failure == Failure("the post's picture is missing", "image")
    assert "4#0" not in grounder.asked


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stop_keeps_whole_posts(stop_after: int, out: Path) -> None:
    with pytest.raises(InputError, match="refused"):
        answer_posts(POSTS, FakeGrounder(stop_after=stop_after), out, MAKER)
    assert {one.id for one in read_predictions(out)} == ({"2", "3"} if stop_after else {"2"})
    again = FakeGrounder()
    answer_posts(POSTS, again, out, MAKER)
    assert sorted(again.asked) == ["1#0", "1#1", "3#0"][: 2 if stop_after else 3]
    assert read_predictions(out) == WHOLE


def test_a_stop_after_failures_leaves_a_file_that_can_be_read(out: Path) -> None:
    answer_posts(POSTS, FakeGrounder({"3#0": Failure("no", "api")}), out, MAKER)
    before = read_predictions(out)
    with pytest.raises(InputError):
        answer_posts(POSTS, FakeGrounder(stop_after=0), out, MAKER)
    assert read_predictions(out) == before
    answer_posts(POSTS, FakeGrounder(), out, MAKER)
    assert read_predictions(out) == WHOLE


def test_an_error_record_stays_until_its_post_is_answered(out: Path) -> None:
    no = Failure("no", "api")
    answer_posts(POSTS, FakeGrounder({"1#0": no, "3#0": no}), out, MAKER)

    class Watched(FakeGrounder):
        def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Prediction | Failure]]:
            for said in super().answer(queries):
                on_disk.append(failed(out))
                yield said
            on_disk.append(failed(out))

    on_disk: list[list[str]] = []
    answer_posts(POSTS, Watched({"3#0": Failure("still no", "api")}), out, MAKER)
    assert on_disk == [["3", "1"]] * 3, "the file is put into order once, at the end"
    assert failed(out) == ["3"]
    assert read_predictions(out)[-1].failure == Failure("still no", "api")


def failed(out: Path) -> list[str]:
    """The posts of the file that failed, wholly or in part."""
    return [one.id for one in read_predictions(out) if not one.whole]


@pytest.mark.parametrize("torn", ["", '{"id": "1", "enti'])
def test_a_stop_loses_no_answer_that_was_asked_for_again(out: Path, torn: str) -> None:
    posts = [Post(str(number), ("Ann",), (ANN,), "p.png") for number in range(4)]
    no = dict.fromkeys((f"{number}#0" for number in range(4)), Failure("no", "api"))
    answer_posts(posts, FakeGrounder(no), out, MAKER)
    before = out.read_bytes()
    stopped = FakeGrounder(stop_after=2)
    with pytest.raises(InputError):
        answer_posts(posts, stopped, out, MAKER)
    assert out.read_bytes() == before, "a file that can be read, no id twice"
    with again_path(out).open("a") as stream:
        stream.write(torn)
    rest = FakeGrounder()
    answer_posts(posts, rest, out, MAKER)
    assert sorted(stopped.asked + rest.asked) == ["0#0", "1#0", "2#0", "3#0"]
    assert [one.id for one in read_predictions(out)] == ["0", "1", "2", "3"]
    assert failed(out) == []
    assert not again_path(out).exists()


@pytest.mark.parametrize("count", [20, 80])
def test_what_is_asked_again_is_written_in_linear_time(
    out: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that a run writes are in proportion to the file, however much failed before."""
    posts = [Post(str(number), ("Ann",), (ANN,), "p.png") for number in range(count)]
    no = dict.fromkeys((f"{number}#0" for number in range(count)), Failure("no", "api"))
    answer_posts(posts, FakeGrounder(no), out, MAKER)
    written: list[int] = []
    write = journal._write
    monkeypatch.setattr(
        journal, "_write", lambda stream, data: (written.append(len(data)), write(stream, data))
    )
    answer_posts(posts, FakeGrounder(), out, MAKER)
    assert sum(written) <= 2 * out.stat().st_size


def test_field_r4_progress_counts_what_the_limit_leaves_to_ask(out: Path) -> None:
    posts = [Post(str(number), ("Ann",), (ANN,), "p.png") for number in range(9)]
    stream = io.StringIO()
    progress = Progress("direct", 9, "entities", stream=stream, clock=lambda: 0.0)
    with progress:
        answer_posts(posts, FakeGrounder(), out, MAKER, limit=3, progress=progress)
    assert stream.getvalue().startswith("direct 3/3 entities")


@pytest.mark.parametrize("last", ["my notes", '{"id": "3", "entit'])
def test_a_last_line_that_is_not_whole_is_told_and_stays(last: str, out: Path) -> None:
    answer_posts(POSTS[:2], FakeGrounder(), out, MAKER)
    before = out.read_text() + last
    out.write_text(before)
    again = FakeGrounder()
    with pytest.raises(DataError, match=r"pred\.jsonl:3: not a whole JSON object; complete"):
        answer_posts(POSTS, again, out, MAKER)
    assert (out.read_text(), again.asked) == (before, [])


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stop_loses_no_score(stop_after: int, out: Path) -> None:
    said = {query: Prediction("Ann", "PER", BOX, score=0.5) for query in ("1#0", "3#0")}
    with pytest.raises(InputError):
        answer_posts(POSTS, FakeGrounder(said, stop_after), out, MAKER)
    answer_posts(POSTS, FakeGrounder(said), out, MAKER)
    scores = [[one.score for one in post.predictions] for post in read_predictions(out)]
    assert scores == [[0.5, None], [], [0.5]]


def test_progress_counts_what_was_there(out: Path) -> None:
    posts = (*POSTS, Post("4", ("Paris",), (PARIS,), None))
    for limit, done in ((1, 2), (None, 4)):
        progress = Progress("direct", 4, quiet=True)
        answer_posts(posts, FakeGrounder(), out, MAKER, limit=limit, progress=progress)
        assert progress.done == done


def test_predictions_made_otherwise_do_not_mix(out: Path) -> None:
    answer_posts(POSTS[:1], FakeGrounder(), out, MAKER)
    with pytest.raises(DataError, match=r"convention: was pixels, is relative-1000"):
        answer_posts(POSTS, FakeGrounder(), out, MAKER | {"convention": "relative-1000"})
    assert json.loads(maker_path(out).read_bytes()) == MAKER
    assert read_predictions(out) == WHOLE[:1]


@pytest.mark.parametrize("told", [None, "torn", "[]"])
def test_answers_of_nobody_knows_whom_are_not_added_to(told: str | None, out: Path) -> None:
    answer_posts(POSTS[:1], FakeGrounder(), out, MAKER)
    maker_path(out).unlink()
    if told is not None:
        maker_path(out).write_text(told)
    with pytest.raises(
        DataError, match=r"does not say who made .*pred\.jsonl; restore it, or name"
    ):
        answer_posts(POSTS, FakeGrounder(), out, MAKER)
    assert read_predictions(out) == WHOLE[:1]


def test_a_limit_goes_on_where_it_stopped(out: Path) -> None:
    for left in (2, 1, 0):
        assert answer_posts(POSTS, FakeGrounder(), out, MAKER, limit=1).left == left
    assert read_predictions(out) == WHOLE


def test_a_limit_is_not_eaten_by_what_keeps_failing(out: Path) -> None:
    posts = (*POSTS, Post("4", ("Ann",), (ANN,), "p.png"))
    no = Failure("no", "api")
    asked, told = [], []
    for said in ({"1#0": no, "1#1": no}, {}, {"3#0": no}, {"4#0": no}, {"1#0": no}, {}, {}):
        grounder = FakeGrounder(said)
        done = answer_posts(posts, grounder, out, MAKER, limit=1)
        asked.append({query.partition("#")[0] for query in grounder.asked})
        told.append((done.left, done.failed_posts))
    assert asked == [{"1"}, set(), {"3"}, {"4"}, {"1"}, {"3"}, {"4"}]
    assert told == [(3, 1), (3, 1), (2, 2), (2, 3), (2, 3), (2, 2), (1, 1)]
    assert [one.id for one in read_predictions(out)] == ["2", "3", "4", "1"]


def test_other_posts_of_the_file_stay(out: Path) -> None:
    answer_posts(POSTS[2:], FakeGrounder(), out, MAKER)
    answer_posts(POSTS[:2], FakeGrounder(), out, MAKER)
    assert read_predictions(out) == WHOLE


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_direct import MAKER, FakeGrounder, NO, bad, pair
from groundling.direct import answer_posts

class Mortal(FakeGrounder):
    def answer(self, queries):
        for count, said in enumerate(super().answer(queries)):
            if count == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield said

answer_posts(pair(), Mortal(bad(*sys.argv[4:])), Path(sys.argv[1]), MAKER)
"""
NO = Failure("no", "api")


def bad(*queries: str) -> dict[str, Prediction | Failure]:
    return dict.fromkeys(queries, NO)


def pair() -> list[Post]:
    """Two posts of two entities."""
    return [replace(POSTS[0], id=key) for key in ("0", "1")]


@pytest.mark.parametrize("answers", range(4))
def test_field_r5_a_kill_at_any_answer_ends_in_an_undisturbed_run(out: Path, answers: int) -> None:
    """First killed while it asks, then, with failures in the file, while it asks again."""

    def killed(after: int, *failing: str) -> None:
        words = [str(out), str(Path(__file__).parent), str(after), *failing]
        done = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
        assert done.returncode == -signal.SIGKILL

    killed(answers, "1#0")
    answer_posts(pair(), FakeGrounder(bad("0#0", "0#1", "1#0")), out, MAKER)
    left = sum(len(post.entities) for post in pair()) - sum(
        len(post.predictions) for post in read_predictions(out)
    )
    killed(min(answers, left - 1), "1#0")
    answer_posts(pair(), FakeGrounder(), out, MAKER)
    assert read_predictions(out) == tuple(replace(WHOLE[0], id=key) for key in ("0", "1"))
    assert not again_path(out).exists()
