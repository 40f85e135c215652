from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeGrounder, FakeWriter
from PIL import Image

from groundling import gmner
from groundling.config_gmner import RefinementConfig
from groundling.data.jsonl import read_predictions
from groundling.gmner import Refining, Told, find_triples, work_folder
from groundling.groundings import Agreement, Found, IsrGrounding, Item, Located, NoGrounding
from groundling.models.base import Question
from groundling.records import ABSENT, TWITTER, Box, Entity, Failure, Mention, Post
from groundling.refine import Refinery
from groundling.routing import Routing
from groundling.scoring import TRIPLE_RULES
from groundling.scoring.triples import score_triples

BOX = Box(10, 10, 50, 50)


class NameTagger:
    """Finds words that begin with a capital; fails for posts that it is told to."""

    def __init__(self, failing: frozenset[str] = frozenset()) -> None:
        self.failing = failing
        self.asked: list[str] = []

    def tag(self, posts: Sequence[Post]) -> list[list[Mention] | Failure]:
        self.asked += [post.id for post in posts]
        return [
            Failure("too long", "tag")
            if post.id in self.failing
            else [
                Mention(place, place + 1, "PER", 0.9)
                for place, token in enumerate(post.tokens)
                if token[0].isupper()
            ]
            for post in posts
        ]


@pytest.fixture
def posts(tmp_path: Path) -> list[Post]:
    path = str(tmp_path / "p.png")
    Image.new("RGB", (100, 80)).save(path)
    return [
        Post("a", ("Ann", "meets", "Ben"), (Entity("Ann", "PER", 0, 1, (BOX,)),), path),
        Post("b", ("nobody", "here"), (), None),
        Post("c", ("Cid",), (Entity("Cid", "PER", 0, 1),), path),
    ]


def isr(ben: str | Failure = ABSENT) -> IsrGrounding:
    writer = FakeWriter({"Ann": "the woman", "Ben": ben, "Cid": ABSENT})
    return IsrGrounding(writer, FakeGrounder({"the woman": BOX}), "writer:x/0", 16)


def test_triples_in_the_order_of_the_posts(posts: list[Post], tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    told = find_triples(posts, NameTagger(), isr(), out, "names", quiet=True)
    first, second, third = read_predictions(out)
    assert [(one.name, one.box, one.start, one.end) for one in first.predictions] == [
        ("Ann", BOX, 0, 1),
        ("Ben", None, 2, 3),
    ]
    assert first.predictions[0].expression == "the woman"
    assert (second.id, second.predictions, second.failure) == ("b", (), None)
    assert third.predictions[0].box is None
    assert told.to_json() == {
        "posts": 3,
        "boxes": 1,
        "absent": 2,
        "failed_posts": 0,
        "failed": {},
        "one_way_alone": {},
        "unreadable_example_pictures": 0,
        "refinement": None,
    }
    assert told.complete
    score = score_triples(posts, read_predictions(out), TRIPLE_RULES["span"], resamples=0)
    counts = score.tasks["gmner"].counts
    assert (counts.right, counts.predicted, counts.gold) == (2, 3, 2)


def test_field_r5_failures_stand_beside_answers_and_the_same_call_mends_them(
    posts: list[Post], tmp_path: Path
) -> None:
    out = tmp_path / "said.jsonl"
    broken = NameTagger(failing=frozenset({"c"}))
    told = find_triples(
        posts, broken, isr(Failure("timeout: 3 s", "api")), out, "names", quiet=True
    )
    assert (told.posts, told.failed_posts) == (1, 2)
    assert told.failed == {"timeout": 1, "too long": 1}
    said = {one.id: one for one in read_predictions(out)}
    assert [one.name for one in said["a"].predictions] == ["Ann"]
    assert [(one.name, one.failure) for one in said["a"].failed] == [
        ("Ben", Failure("timeout: 3 s", "api"))
    ]
    assert (told.boxes, told.absent) == (1, 0)
    assert said["c"].failure == Failure("too long", "tag")
    assert said["b"].failure is None

    assert find_triples(posts, NameTagger(), isr(), out, "names", quiet=True).failed_posts == 0
    assert all(one.whole for one in read_predictions(out))


def test_what_is_known_is_not_computed_again(posts: list[Post], tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    for who, calls in (("names", 3), ("names", 0), ("other names", 3)):
        tagger = NameTagger()
        find_triples(posts, tagger, NoGrounding(), out, who, quiet=True)
        assert len(tagger.asked) == calls
    assert work_folder(out).is_dir()


def test_the_none_rows_need_no_pictures(posts: list[Post], tmp_path: Path) -> None:
    bare = [Post(post.id, post.tokens, post.entities, None) for post in posts]
    told = find_triples(bare, NameTagger(), NoGrounding(), tmp_path / "x.jsonl", "n", quiet=True)
    assert (told.posts, told.boxes, told.absent) == (3, 0, 3)
    told = find_triples(bare, NameTagger(), isr(), tmp_path / "y.jsonl", "n", quiet=True)
    assert told.failed == {"the picture cannot be used": 3}


class Sceptic:
    """Says of every mention that it is none, or fails."""

    name = manner = "m"

    def __init__(self, failing: bool) -> None:
        self.failing = failing

    def ask(self, questions: Sequence[Question], _: int = 2) -> Iterator[tuple[int, object]]:
        none = json.dumps({"reasoning": "No name.", "entity": None, "type": None})
        for place, question in enumerate(questions):
            failed = Failure("timeout", "api")
            yield place, failed if self.failing else question.read(none, ())


def sceptical(folder: Path, failing: bool = False) -> Refining:
    refinery = Refinery(Sceptic(failing), TWITTER, RefinementConfig(), folder / "journal")
    return Refining(refinery, Routing(0.0, 0.5))


def test_refinement_is_counted_and_told_mention_by_mention(
    posts: list[Post], tmp_path: Path
) -> None:
    out = tmp_path / "said.jsonl"

    def find(refining: Refining) -> tuple[Told, dict]:
        told = find_triples(
            posts, NameTagger(), NoGrounding(), out, "names", refining=refining, quiet=True
        )
        (line,) = (work_folder(out) / "refinement.jsonl").read_text().splitlines()
        return told, json.loads(line)

    told, line = find(sceptical(tmp_path, failing=True))
    assert told.refinement == {
        "mentions": 3,
        "asked": 1,
        "changes": {"failed": 1},
        "failed": {"timeout": 1},
    }
    assert line["error"] == {"reason": "timeout", "stage": "api"}
    assert not told.complete, "the same call asks again"
    assert told.absent == 3, "the tagger's mention stands"
    told, line = find(sceptical(tmp_path))
    assert told.refinement == {"mentions": 3, "asked": 1, "changes": {"dropped": 1}, "failed": {}}
    assert (line["change"], line["reasoning"]) == ("dropped", "No name.")
    assert told.complete
    assert told.absent == 2


class Silent:
    def locate(self, items: Sequence[Item], *_: object) -> Found:
        failed: list[Located | Failure] = [Failure("timeout: 3 s", "api")] * len(items)
        return Found(failed, failed, {"p.png": "damaged"})


def test_a_way_that_failed_is_told_though_the_other_one_answered(
    posts: list[Post], tmp_path: Path
) -> None:
    both = Agreement(isr(), Silent())
    told = find_triples(posts, NameTagger(), both, tmp_path / "x.jsonl", "names", quiet=True)
    assert (told.failed_posts, told.to_json()["one_way_alone"]) == (0, {"timeout": 3})
    assert not told.complete
    assert told.to_json()["unreadable_example_pictures"] == 1
    assert len(told.outcomes) == 6, "two questions a mention"
    assert sum(isinstance(one, Failure) for one in told.outcomes) == 3


def test_every_failed_question_counts_whatever_else_its_post_met(
    posts: list[Post], tmp_path: Path
) -> None:
    silent = isr(Failure("no words", "write"))
    told = find_triples(
        posts, NameTagger(), Agreement(silent, Silent()), tmp_path / "x", "names", quiet=True
    )
    failed = Counter(one.stage for one in told.outcomes if isinstance(one, Failure))
    assert (told.failed_posts, failed) == (1, {"api": 3, "write": 1})


def test_posts_and_failures_are_put_together_once(
    posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all posts, not once for each."""

    class Counted(dict):  # type: ignore[type-arg]
        walks = 0

        def keys(self):  # type: ignore[no-untyped-def]
            Counted.walks += 1
            return super().keys()

    made = gmner.predictions_of
    monkeypatch.setattr(gmner, "predictions_of", lambda *given: Counted(made(*given)))
    many = [replace(post, id=f"{post.id}-{n}") for n in range(20) for post in posts]
    find_triples(many, NameTagger(), NoGrounding(), tmp_path / "x.jsonl", "n", quiet=True)
    assert Counted.walks <= 1
