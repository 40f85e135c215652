from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundling.data.ccks import read_ccks, write_ccks
from groundling.data.ccks_predictions import read_ccks_predictions, write_ccks_predictions
from groundling.data.check import check_data
from groundling.data.convert import Conversion, convert
from groundling.data.gmner import Split, read_gmner
from groundling.data.problems import Problem
from groundling.errors import DataError, InputError
from groundling.records import CCKS, Box, Entity, Failure, Post, PostPrediction, Prediction

BND = {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}
NEXT = {"xmin": 50, "ymin": 2, "xmax": 70, "ymax": 40}
BOX, OTHER = Box(1, 2, 30, 40), Box(50, 2, 70, 40)

Write = Callable[..., Path]


def item(name: str, label: str = "aircraft", bnd: object = None) -> dict[str, object]:
    return {"name": name, "label": label, "bnd": bnd}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write sample_text.json and sample_entity.json from values, or from bytes as they are."""

    def save(texts: object, entities: object = None) -> Path:
        folder = tmp_path / "ccks"
        folder.mkdir(exist_ok=True)
        for ending, value in (("text", texts), ("entity", entities)):
            if value is not None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                (folder / f"sample_{ending}.json").write_bytes(data)
        return folder / "sample_text.json"

    return save


TWO = {"13": {"text": "Two NH-90s follow an NH-90."}, "14": {"text": "Nothing."}}
ENTITIES = {"13": [item("NH-90", bnd=BND), item("NH-90s", bnd=NEXT), item("NH-90s", bnd=BND)]}


def test_entries_become_entities_with_their_tokens_and_boxes(write: Write) -> None:
    split = read_ccks(write(TWO, ENTITIES | {"14": []}))
    assert split.name == "sample"
    assert split.posts == (
        Post("13", ("Two", "NH", "-", "90s", "follow", "an", "NH", "-", "90", "."), (
            Entity("NH - 90s", "aircraft", 1, 4, (OTHER, BOX)),
            Entity("NH - 90", "aircraft", 6, 9, (BOX,)),
        )),
        Post("14", ("Nothing", "."), ()),
    )  # fmt: skip
    assert split.source_texts["13"] == "Two NH-90s follow an NH-90."


def test_entries_apart_are_those_of_the_file(write: Write) -> None:
    (post, _) = read_ccks(write(TWO, ENTITIES | {"14": []}), apart=True).posts
    assert [(entity.name, entity.boxes) for entity in post.entities] == [
        ("NH - 90", (BOX,)),
        ("NH - 90s", (OTHER,)),
        ("NH - 90s", (BOX,)),
    ]


def test_no_entity_file_means_that_nobody_knows(write: Write) -> None:
    assert [post.entities for post in read_ccks(write(TWO)).posts] == [(), ()]


def test_pictures_lie_beside_the_texts_or_where_they_are_said_to(
    write: Write, tmp_path: Path, picture: Any
) -> None:
    texts = write(TWO)
    beside = picture(tmp_path / "ccks" / "sample_image" / "13.jpg")
    split = read_ccks(texts)
    assert [post.image for post in split.posts] == [str(beside), None]
    assert split.missing_images == ("14",)
    elsewhere = picture(tmp_path / "images" / "14.png")
    assert [post.image for post in read_ccks(texts, tmp_path / "images").posts] == [
        None,
        str(elsewhere),
    ]


@pytest.mark.parametrize(
    ("entities", "kind", "words"),
    [
        (
            {"13": [item("Puma")]},
            "name-not-in-text",
            "'Puma' does not occur in the text",
        ),
        ({}, "post-without-entities", "post '13' is missing"),
        ({"13": {}}, "bad-record", "post '13': wanted a valid list"),
        ({"13": [{"name": "NH-90", "label": "aircraft"}]}, "bad-record", r"\[0\]\.bnd: missing"),
        ({"13": [item("NH-90", "plane")]}, "bad-record", r"\[0\]\.label: unknown .* 'plane'"),
        ({"13": [item("", "other")]}, "bad-record", r"\[0\]\.name"),
        ({"13": [item("NH-90", bnd=BND | {"xmax": 0})]}, "bad-record", r"\[0\]\.bnd: "),
        ({"13": [item("NH-90", bnd=BND | {"xmax": 1})]}, "bad-record", r"\[0\]\.bnd: "),
        ({"13": [item("NH-90", bnd=BND | {"xmax": "9"})]}, "bad-record", r"\[0\]\.bnd\.xmax"),
    ],
)
def test_a_faulty_post_is_refused_or_left_out(
    write: Write, entities: dict[str, object], kind: str, words: str
) -> None:
    texts = write(TWO, entities | {"14": []})
    with pytest.raises(DataError, match=words):
        read_ccks(texts)
    split = read_ccks(texts, skip_bad=True)
    assert [post.id for post in split.posts] == ["14"]
    assert [problem.kind for problem in split.skipped] == [kind]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (b'{"1": {"text": "a"},\n "1": {"text": "b"}}', "key '1' is given twice"),
        (b'{"1":\n  nope}', "not JSON: .* at line 2 column 3"),
        (b'{"1":\n "\xff"}', "byte 0xff at line 2 column 3"),
        ([{"text": "a"}], "holds a list; wanted an object"),
        ({"1": "a"}, "post '1': wanted"),
        ({"1": {}}, "post '1': text: missing"),
    ],
)
def test_a_faulty_file_is_refused(write: Write, texts: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_ccks(write(texts))


def test_a_name_within_a_token_keeps_its_spelling(write: Write) -> None:
    texts = write({"13": {"text": "An SA6."}}, {"13": [item("A6", "weapon")]})
    split = read_ccks(texts)
    assert split.posts[0].entities == (Entity("A6", "weapon", 1, 2),)
    problems = check_data(texts.parent, "ccks")
    assert [problem.kind for problem in problems] == ["name-differs"]
    write_ccks(texts.parent, "again", split.posts, split.source_texts)
    assert json.loads((texts.parent / "again_entity.json").read_text()) == {
        "13": [item("A6", "weapon")]
    }


def test_check_lists_what_is_wrong(write: Write, tmp_path: Path, picture: Any) -> None:
    texts = write(TWO | {"15": {"text": ""}}, ENTITIES | {"15": [], "16": []})
    picture(tmp_path / "ccks" / "sample_image" / "13.jpg", (60, 60))
    found = {(p.kind, Path(p.file).name) for p in check_data(texts.parent, "ccks")}
    assert found == {
        ("post-without-entities", "sample_entity.json"),
        ("entities-without-post", "sample_entity.json"),
        ("box-outside-image", "sample_text.json"),
        ("empty-post", "sample_text.json"),
        ("image-missing", "sample_text.json"),
    }


def test_what_is_written_reads_the_same(write: Write, tmp_path: Path) -> None:
    split = read_ccks(write(TWO, ENTITIES | {"14": []}))
    again = write_ccks(tmp_path / "out", "sample", split.posts, split.source_texts)
    assert read_ccks(again).posts == split.posts
    entities = json.loads((tmp_path / "out" / "sample_entity.json").read_text())
    assert [(entry["name"], entry["bnd"]) for entry in entities["13"]] == [
        ("NH-90s", NEXT),
        ("NH-90s", BND),
        ("NH-90", BND),
    ]
    with pytest.raises(InputError, match="comes twice"):
        write_ccks(tmp_path / "twice", "sample", split.posts * 2, {})


def test_to_other_layouts_and_back(write: Write, tmp_path: Path) -> None:
    src = write(TWO, ENTITIES | {"14": []}).parent
    posts = read_ccks(src / "sample_text.json").posts
    convert(Conversion(src, tmp_path / "twitter", "ccks", "twitter-gmner"))
    convert(Conversion(tmp_path / "twitter", tmp_path / "b", "twitter-gmner", "ccks", scheme=CCKS))
    assert read_gmner(tmp_path / "twitter", "sample", scheme=CCKS).posts == tuple(
        Post(post.id, post.tokens, post.entities) for post in posts
    )
    assert read_ccks(tmp_path / "b" / "sample_text.json").posts == posts


# --- predictions -------------------------------------------------------------------------------


@pytest.fixture
def gold(write: Write) -> Split:
    return read_ccks(write(TWO))


def predictions(path: Path, value: object, gold: Split, **how: Any) -> Any:
    path.write_text(json.dumps(value))
    problems: list[Problem] = []
    return read_ccks_predictions(path, gold.posts, problems.append, **how), problems


def test_predictions_have_tokens_and_one_box_each(gold: Split, tmp_path: Path) -> None:
    said, problems = predictions(tmp_path / "p.json", ENTITIES | {"14": []}, gold)
    assert problems == []
    assert said == [
        PostPrediction("13", (
            Prediction("NH - 90", "aircraft", BOX, 6, 9),
            Prediction("NH - 90s", "aircraft", OTHER, 1, 4),
            Prediction("NH - 90s", "aircraft", BOX, 1, 4),
        )),
        PostPrediction("14"),
    ]  # fmt: skip


def test_names_without_tokens_are_kept_and_told(gold: Split, tmp_path: Path) -> None:
    value = {"13": [item("ollow "), item("Puma", bnd=BND)], "99": [item("Puma")]}
    said, problems = predictions(tmp_path / "p.json", value, gold)
    assert said[0].predictions == (
        Prediction("ollow", "aircraft", None),
        Prediction("Puma", "aircraft", BOX),
    )
    assert said[1] == PostPrediction("99", (Prediction("Puma", "aircraft", None),))
    assert [problem.kind for problem in problems] == ["name-without-tokens"] * 2
    assert "'ollow ' is no run of the tokens of post '13'" in problems[0].message


def test_unknown_types_are_refused_or_kept(gold: Split, tmp_path: Path) -> None:
    value = {"13": [item("NH-90", "plane")]}
    with pytest.raises(DataError, match="unknown entity type 'plane'"):
        predictions(tmp_path / "p.json", value, gold)
    ((said,), _) = predictions(tmp_path / "p.json", value, gold, keep_unknown=True)
    assert said.predictions[0].type == "plane"


def test_predictions_are_spelt_as_in_the_text(gold: Split, tmp_path: Path) -> None:
    said = [
        PostPrediction("13", (
            Prediction("NH - 90", "aircraft", BOX, 6, 9),
            Prediction("NH - 90s", "aircraft", None),
            Prediction("NH - 91", "aircraft", None),
        )),
        PostPrediction("14", failure=Failure("timeout", "tag")),
    ]  # fmt: skip
    path = tmp_path / "result.json"
    assert write_ccks_predictions(path, said, gold.posts, gold.source_texts) == 1
    assert json.loads(path.read_text()) == {
        "13": [item("NH-90", bnd=BND), item("NH-90s"), item("NH - 91")]
    }
    for wrong in ([PostPrediction("99")], [PostPrediction("13")] * 2):
        with pytest.raises(InputError, match="nothing was written"):
            write_ccks_predictions(path, wrong, gold.posts, {})
