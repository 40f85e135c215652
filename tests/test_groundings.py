from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeGrounder, FakeWriter
from fault_server import Act, Asked, FaultServer, refused, said
from PIL import Image

from groundling import grounding_ways
from groundling.assistants import Assistants
from groundling.config_gmner import GroundingConfig, InContextConfig
from groundling.grounding_ways import Ways, fingerprint
from groundling.groundings import (
    Agreement,
    DirectGrounding,
    Exempting,
    Found,
    Grounding,
    IsrGrounding,
    Item,
    Located,
    NoGrounding,
    agree,
    predictions_of,
)
from groundling.in_context import InContextGrounding, make_pool
from groundling.models.base import Solved
from groundling.models.coordinates import ConventionName
from groundling.models.embeddings import CharacterNgrams, Thumbnails
from groundling.models.endpoints import Endpoint, endpoint_config
from groundling.records import (
    ABSENT,
    NO_PICTURE,
    TWITTER,
    Box,
    Entity,
    Failure,
    Mention,
    Post,
    Prediction,
)
from groundling.selection import nearest

BOX, OTHER = Box(10, 10, 50, 50), Box(60, 0, 90, 30)
NEAR = Box(12, 10, 52, 50)


@pytest.fixture
def posts(tmp_path: Path) -> list[Post]:
    """Three posts, the last without a picture."""
    found = []
    for number, name in enumerate(("Ann", "Ben", "Cid")):
        path = str(tmp_path / f"{number}.png")
        Image.new("RGB", (100, 80), (80 * number, 40, 200)).save(path)
        tokens = (name, "meets", "the", "Old", "Club")
        entities = (Entity(name, "PER", 0, 1, (OTHER, BOX)), Entity("Old Club", "ORG", 3, 5))
        found.append(Post(f"p{number}", tokens, entities, path if number < 2 else None))
    return found


def mentions_of(posts: list[Post]) -> dict[str, list[Mention]]:
    return {
        post.id: [Mention(one.start, one.end, one.type, 0.9) for one in post.entities]
        for post in posts
    }


def items_of(posts: list[Post]) -> list[Item]:
    return [(post, mention) for post in posts for mention in mentions_of(posts)[post.id]]


def gone(answer: object) -> bool:
    return answer == NO_PICTURE


def test_nothing_is_in_a_picture_and_none_is_needed(posts: list[Post], tmp_path: Path) -> None:
    assert NoGrounding().locate(items_of(posts), tmp_path) == Found([Located(None)] * 6, [])


def test_isr_gives_words_and_a_box(posts: list[Post], tmp_path: Path) -> None:
    writer = FakeWriter({"Ann": "the man", "Ben": Failure("no", "write"), "Old Club": ABSENT})
    grounder = FakeGrounder({"the man": BOX})
    way = IsrGrounding(writer, grounder, "writer:x/0", 16)
    told = way.locate(items_of(posts), tmp_path)
    found = told.located
    assert told.outcomes == found[:4], "nobody is asked where there is no picture"
    assert isinstance(found[0], Located)
    assert (found[0].box, found[0].expression) == (BOX, "the man")
    assert found[1] == found[3] == Located(None, ABSENT)
    assert found[2] == Failure("no", "write")
    assert gone(found[4])
    assert gone(found[5])
    assert {query.name for query, *_ in writer.asked} == {"Ann", "Ben", "Old Club"}


class Direct:
    """Answers backwards; fails for Ben until it is mended."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.mended = False

    def answer(self, queries):  # type: ignore[no-untyped-def]
        for place in reversed(range(len(queries))):
            query = queries[place]
            self.asked.append(query.name)
            if query.name == "Ben" and not self.mended:
                yield place, Failure("timeout", "api")
            else:
                yield (
                    place,
                    Prediction(query.name, query.type, BOX if query.type == "PER" else None),
                )


def test_direct_answers_keep_their_places_and_failures_are_asked_again(
    posts: list[Post], tmp_path: Path
) -> None:
    model = Direct()
    way = DirectGrounding(model, "m")
    first = way.locate(items_of(posts), tmp_path).located
    assert first[:4] == [Located(BOX), Located(None), Failure("timeout", "api"), Located(None)]
    model.mended = True
    assert way.locate(items_of(posts), tmp_path).located[:4] == [Located(BOX), Located(None)] * 2
    asked = len(model.asked)
    way.locate(items_of(posts), tmp_path)
    assert len(model.asked) == asked, "all is kept"
    DirectGrounding(model, "another").locate(items_of(posts), tmp_path)
    assert len(model.asked) == asked + 4, "but not for another model"


class Fixed:
    def __init__(self, *answers: Located | Failure) -> None:
        self.answers = list(answers)

    def locate(self, items: Sequence[Item], *_: object) -> Found:
        self.items = list(items)
        return Found(self.answers, self.answers)


FAILED = Failure("x", "api")


@pytest.mark.parametrize(
    ("one", "two", "wanted"),
    [
        (Located(BOX, "w"), Located(NEAR), Located(BOX, "w", 1.0)),
        (Located(None), Located(None), Located(None, None, 1.0)),
        (Located(BOX), Located(OTHER), Located(BOX, None, 0.5)),
        (Located(BOX), Located(None), Located(BOX, None, 0.5)),
        (Located(None), Located(OTHER), Located(None, None, 0.5)),
        (FAILED, Located(OTHER), Located(OTHER, None, 0.5, FAILED)),
        (Located(None), FAILED, Located(None, None, 0.5, FAILED)),
        (FAILED, Failure("y", "parse"), Failure("y", "parse")),
    ],
)
def test_two_ways_together(
    one: Located | Failure,
    two: Located | Failure,
    wanted: object,
    posts: list[Post],
    tmp_path: Path,
) -> None:
    found = Agreement(Fixed(one), Fixed(two)).locate(items_of(posts)[:1], tmp_path)
    assert found.located == [wanted]
    assert found.outcomes == [one, two], "two questions"


def test_the_second_may_be_preferred(tmp_path: Path) -> None:
    ways: list[Grounding] = [Fixed(Located(BOX)), Fixed(Located(None))]
    (found,) = Agreement(*ways, prefer_second=True).locate([], tmp_path).located
    assert found == Located(None, None, 0.5)
    assert not agree(BOX, None)
    assert not agree(Box(0, 0, 2, 1), Box(1, 0, 2, 1)), "IoU of exactly 0.5 does not agree"


def test_field_r5_predictions_carry_spans_and_failures_stand_beside_them(posts: list[Post]) -> None:
    mentions = mentions_of(posts[:2])
    located: dict[tuple[str, int], Located | Failure] = {
        ("p0", 0): Located(BOX, "the man", 0.5),
        ("p0", 1): Located(None),
        ("p1", 0): Located(BOX),
        ("p1", 1): FAILED,
    }
    found = predictions_of(posts[:2], mentions, located)
    assert found["p0"].predictions == (
        Prediction("Ann", "PER", BOX, 0, 1, "the man", 0.5),
        Prediction("Old Club", "ORG", None, 3, 5),
    )
    assert found["p0"].whole
    (answered,), (lost,) = found["p1"].predictions, found["p1"].failed
    assert (answered.box, lost.failure, found["p1"].failure) == (BOX, FAILED, None)
    assert (lost.start, lost.end) == (mentions["p1"][1].start, mentions["p1"][1].end)


# ---------------------------------------------------------------------------- solved examples


def reader(asked: Asked) -> Act:
    """Answers with the box of the last example it is shown; absent without examples."""
    boxes = re.findall(r'Answer: (\{"box": .*?\})\n', asked.text + "\n")
    last = json.loads(boxes[-1])["box"] if boxes else None
    return said(json.dumps({"reasoning": f"{len(asked.pictures)} pictures", "box": last}))


class Opener:
    """Opens groundings by examples, and closes their connections at the end."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []

    def __call__(
        self,
        server: FaultServer,
        posts: list[Post],
        convention: ConventionName = "pixels",
        **settings: object,
    ) -> InContextGrounding:
        quick = {"backoff_s": 0.001, "attempts": 1, "api_key_env": None}
        endpoint = Endpoint(endpoint_config({"endpoint": server.url, "model": "m", **quick}))
        self.endpoints.append(endpoint)
        return InContextGrounding(
            endpoint.assistant(),
            convention,
            make_pool(posts),
            (CharacterNgrams(), Thumbnails()),
            InContextConfig.model_validate(settings),
        )


@pytest.fixture
def in_context() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    for endpoint in opener.endpoints:
        endpoint.close()


def test_examples_are_shown_and_the_box_comes_back(
    in_context: Opener, posts: list[Post], tmp_path: Path
) -> None:
    with FaultServer(script=reader) as server:
        found = in_context(server, posts, examples=1).locate(items_of(posts), tmp_path).located
        assert len(server.asked) == 4
        assert {len(asked.pictures) for asked in server.asked} == {2}
    assert found[:4] == [Located(BOX), Located(None), Located(BOX), Located(None)]
    assert gone(found[4])


def test_the_pool_holds_largest_boxes_and_no_post_without_a_picture(posts: list[Post]) -> None:
    pool = make_pool(posts)
    assert [(one.case.name, one.box) for one in pool.solved] == [
        ("Ann", BOX),
        ("Old Club", None),
        ("Ben", BOX),
        ("Old Club", None),
    ]
    assert pool.posts == ("p0", "p0", "p1", "p1")


def test_no_mention_is_shown_its_own_post(in_context: Opener, posts: list[Post]) -> None:
    with FaultServer(said("x")) as server:
        way = in_context(server, posts, examples=9)
        for choose in ("similarity", "random"):
            way = in_context(server, posts, examples=9, choose=choose)
            case = make_pool(posts).solved[0].case
            (shown,) = way.choose([case], ["p0"])
            assert sorted(one.case.name for one in shown) == ["Ben", "Old Club"]
            assert {one.case.image for one in shown} == {posts[1].image}


def test_the_nearest_example_stands_right_before_the_case(
    in_context: Opener, posts: list[Post]
) -> None:
    with FaultServer(said("x")) as server:
        way = in_context(server, posts, examples=3, text_weight=0, image_weight=0)
        case = replace(make_pool(posts).solved[1].case, text="yet another post")
        (shown,) = way.choose([case], ["another"])
    assert [one.case.name for one in shown][1:] == ["Old Club", "Old Club"]


def test_without_examples_it_is_zero_shot(
    in_context: Opener, posts: list[Post], tmp_path: Path
) -> None:
    with FaultServer(script=reader) as server:
        in_context(server, posts, examples=0).locate(items_of(posts), tmp_path)
        assert {len(asked.pictures) for asked in server.asked} == {1}


def test_a_post_is_not_its_own_example_under_another_id(
    in_context: Opener, posts: list[Post]
) -> None:
    with FaultServer(said("x")) as server:
        way = in_context(server, posts, examples=9)
        (shown,) = way.choose([make_pool(posts).solved[0].case], ["the same post"])
    assert {one.case.image for one in shown} == {posts[1].image}


def test_boxes_are_asked_for_again_where_they_are_read_otherwise(
    in_context: Opener, posts: list[Post], tmp_path: Path
) -> None:
    boxes = said(json.dumps({"box": [10, 10, 50, 50]}))
    with FaultServer(boxes) as server:
        in_context(server, posts, "pixels").locate(items_of(posts), tmp_path)
        again = in_context(server, posts, "relative-1000").locate(items_of(posts), tmp_path).located
    assert again[0] == Located(Box(1, 0.8, 5, 4))


@pytest.mark.parametrize("choose", ["similarity", "random"])
def test_an_example_whose_picture_is_broken_gives_way_to_the_next(
    in_context: Opener, posts: list[Post], tmp_path: Path, choose: str
) -> None:
    broken, sound = posts[1], replace(posts[0], id="p3", tokens=("Ann", "here"), entities=())
    Path(str(broken.image)).write_bytes(b"no picture")
    sound = replace(sound, entities=(Entity("Ann", "PER", 0, 1, (BOX,)),))
    with FaultServer(script=reader) as server:
        way = in_context(server, [broken, sound], examples=1, choose=choose)
        found = way.locate([(posts[0], Mention(3, 5, "ORG"))], tmp_path)
    assert found.located == [Located(BOX)]
    left_out = json.loads((tmp_path / "left-out.json").read_text())
    assert found.left_out == left_out
    assert "not a picture" in left_out.get(broken.image, "not a picture")
    assert choose == "random" or list(left_out) == [broken.image]


class WideEyes:
    """Pictures as an encoder sees them that cannot tell its width before it has seen one."""

    def embed(self, items: Sequence[str]) -> np.ndarray:
        there = [path for path in items if Path(path).is_file()]
        rows = np.zeros((len(items), 5 if there else 1), np.float32)
        for row, path in zip(rows, items, strict=True):
            row[: 5 * (path in there)] = len(path)
        return rows


def test_cases_without_one_readable_picture_are_compared_by_the_rest(
    in_context: Opener, posts: list[Post]
) -> None:
    with FaultServer(said("x")) as server:
        way = in_context(server, posts)
        way._embedders = (CharacterNgrams(), WideEyes())
        case = replace(make_pool(posts).solved[0].case, image="gone.png")
        (shown,) = way.choose([case], ["p0"])
    assert [one.case.name for one in shown][-1] == "Ben"


# --------------------------------------------------------------------- what is never in a picture


def test_nobody_is_asked_about_types_that_are_never_in_a_picture(
    posts: list[Post], tmp_path: Path
) -> None:
    inner = Fixed(Located(BOX), FAILED, Located(OTHER))
    found = Exempting(inner, ["ORG"]).locate(items_of(posts), tmp_path)
    nowhere = Located(None)
    assert found.outcomes == inner.answers, "three questions"
    assert found.located == [Located(BOX), nowhere, FAILED, nowhere, Located(OTHER), nowhere]
    assert {mention.type for _, mention in inner.items} == {"PER"}


# ------------------------------------------------------------------------------- other models


def test_another_run_s_boxes_are_not_taken_over(posts: list[Post], tmp_path: Path) -> None:
    """Two grounders may follow one writer: words alone do not tell whose boxes are kept."""
    words = {"Ann": "the man", "Ben": "the man", "Old Club": ABSENT}
    for name, box in (("one", BOX), ("two", OTHER)):
        grounder = FakeGrounder({"the man": box})
        way = IsrGrounding(FakeWriter(words), grounder, "writer:x/0", 16, name)
        first = way.locate(items_of(posts), tmp_path).located[0]
        assert isinstance(first, Located)
        assert first.box == box


def test_a_run_of_other_weights_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    marker = tmp_path / "stages/dpo.json"
    found = set()
    for digest in ("a", "b"):
        marker.write_text(json.dumps({"artefacts": {"writer": digest}}))
        found.add(fingerprint(tmp_path))
    assert len(found) == 2


def test_another_picture_under_the_same_name_is_asked_about_anew(
    posts: list[Post], tmp_path: Path
) -> None:
    model, writer = Direct(), FakeWriter({"Ann": "the man", "Ben": "the man", "Old Club": ABSENT})
    model.mended = True
    ways = (
        DirectGrounding(model, "m"),
        IsrGrounding(writer, FakeGrounder({"the man": BOX}), "writer:x/0", 16),
    )
    for number, way in enumerate(ways):
        way.locate(items_of(posts), tmp_path / str(number))
    counts = len(model.asked), len(writer.asked)
    Image.new("RGB", (100, 80), (1, 2, 3)).save(str(posts[0].image))
    for number, way in enumerate(ways):
        way.locate(items_of(posts), tmp_path / str(number))
    assert (len(model.asked), len(writer.asked)) == (2 * counts[0], 2 * counts[1])


CHANGES: list[dict[str, Any]] = [
    {"model": "n"},
    {"convention": "pixels"},
    {"answer": "bbox-2d"},
    {"temperature": 0.5},
    {"max_tokens": 99},
    {"max_pixels": 5000},
    {"multiple": 28},
    {"picture_format": "png"},
    {"server": "vllm"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
@pytest.mark.parametrize("way", ["direct", "icl"])
def test_kept_answers_belong_to_all_that_decides_them(
    posts: list[Post], tmp_path: Path, way: str, change: dict[str, Any]
) -> None:
    if way == "icl" and "answer" in change:
        pytest.skip("only a direct grounder has a form of its own")

    def locate(server: FaultServer, /, **settings: Any) -> int:
        keys = {"endpoint": server.url, "model": "m", "api_key_env": None, **settings}
        grounding = GroundingConfig(way=way)
        shown = InContextConfig(
            examples=0, text_encoder="characters", image_encoder="thumbnails", endpoint=keys
        )
        with Assistants({}, None, tmp_path / "answers") as assistants:
            before = len(server.asked)
            opened = Ways(grounding, shown, TWITTER, assistants, posts).open()
            opened.locate(items_of(posts), tmp_path / "work")
            return len(server.asked) - before

    sentence = said(ABSENT if way == "direct" else json.dumps({"box": None}))
    with FaultServer(sentence) as server:
        assert locate(server) == 4
        assert locate(server, concurrency=1, attempts=2) == 0, "these decide nothing"
        assert locate(server, **change) == 4


def test_packaged_models_are_told_apart_by_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("writer", "grounder", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"one")
    monkeypatch.setattr(grounding_ways, "packaged", lambda name: tmp_path / name)
    found = {grounding_ways.packaged_fingerprint()}
    for name in ("writer", "grounder", "tuned"):
        (tmp_path / name / "model.safetensors").write_bytes(b"two")
        found.add(grounding_ways.packaged_fingerprint())
    assert len(found) == 4


def test_what_failed_is_asked_again_and_what_is_known_is_not(
    in_context: Opener, posts: list[Post], tmp_path: Path
) -> None:
    with FaultServer(refused(500), *[said(json.dumps({"box": None}))] * 9) as server:
        first = in_context(server, posts).locate(items_of(posts), tmp_path).located
        assert sum(isinstance(one, Failure) and one.stage == "api" for one in first) == 1
        second = in_context(server, posts).locate(items_of(posts), tmp_path).located
        assert second[:4] == [Located(None)] * 4
        assert len(server.asked) == 5
        in_context(server, posts, examples=1).locate(items_of(posts), tmp_path)
        assert len(server.asked) == 9, "other examples make another question"


def test_the_search_can_be_replaced(in_context: Opener, posts: list[Post]) -> None:
    asked: list[tuple[int, int]] = []

    def search(questions: np.ndarray, examples: np.ndarray, k: int, barred: object) -> list:
        asked.append((len(questions), len(examples)))
        return nearest(questions, examples, k, barred)  # type: ignore[arg-type]

    with FaultServer(said("x")) as server:
        way = in_context(server, posts)
        way._search = search
        (shown,) = way.choose([make_pool(posts).solved[0].case], ["p0"])
    assert asked == [(1, 4)]
    assert all(isinstance(one, Solved) for one in shown)
