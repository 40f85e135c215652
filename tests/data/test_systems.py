"""Predictions of other systems: taggers' columns, RiVEG's table, and the command for them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from groundling.cli.data_predictions import SOURCES, TARGETS
from groundling.data import systems
from groundling.data.jsonl import read_predictions, write_posts, write_predictions
from groundling.data.problems import Problem
from groundling.data.riveg import read_riveg
from groundling.data.tagger_output import read_tagger_output
from groundling.errors import DataError
from groundling.records import (
    CCKS,
    UNPLACED,
    Box,
    Entity,
    FailedEntity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
)

SMALL, LARGE = Box(0, 0, 1, 1), Box(0, 0, 5, 5)
POSTS = (
    Post("p1", ("Ann", "meets", "Ann", "Lee"), (
        Entity("Ann", "PER", 0, 1, (SMALL, LARGE)),
        Entity("Ann Lee", "PER", 2, 4),
    )),
    Post("p2", ()),
    Post("p3", ("in", "Kent"), (Entity("Kent", "LOC", 1, 2, (SMALL,)),)),
)  # fmt: skip
ANN = Prediction("Ann", "PER", UNPLACED, 0, 1)
LEE = Prediction("Ann Lee", "PER", UNPLACED, 2, 4)
KENT = Prediction("Kent", "LOC", UNPLACED, 1, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pred.txt"


def test_the_format_names_are_those_of_the_readers() -> None:
    assert (SOURCES, TARGETS) == (systems.SOURCES, systems.TARGETS)


# --- columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        "Ann\tB-PER\nmeets\tO\nAnn\tB-PER\nLee\tI-PER\n\nin\tO\nKent\tB-LOC\n",
        "Ann S-PER\nmeets O\nAnn B-PER\nLee E-PER\n\nin O\nKent S-LOC\n\n",
        "Ann\tO\tB-PER\r\nmeets\tO\tO\r\nAnn\tO\tB-PER\r\nLee\tO\tI-PER\r\n\r\nin\tO\tO\r\nKent\tO\tB-LOC",
        "IMGID:p3\nin\tO\nKent\tB-LOC\n\nIMGID:p1\nAnn\tB-PER\nmeets\tO\nAnn\tB-PER\nLee\tI-PER\n",
        "Ann\tB-PER\nmeets\tO\nAnn\tB-PER\nLee\tI-PER\n<EOS>\tX\n\tX\n\nin\tO\nKent\tB-LOC\n",
    ],
    ids=["BIO", "BIOES", "gold tags, CRLF", "ids", "knowledge"],
)  # fmt: skip
def test_a_taggers_columns(path: Path, output: str) -> None:
    path.write_text(output, newline="")
    said = {post.id: post.predictions for post in read_tagger_output(path, POSTS)}
    assert said == {"p1": (ANN, LEE), "p3": (KENT,)}


def test_the_column_of_tags_may_be_named(path: Path) -> None:
    path.write_text("in O O 0.9\nKent O B-LOC 0.7\n")
    assert read_tagger_output(path, POSTS[2:], column=3)[0].predictions == (KENT,)
    with pytest.raises(DataError, match=r"txt:1: tag '0.9' is unknown; .* with --column"):
        read_tagger_output(path, POSTS[2:])
    for column in (1, 5):
        with pytest.raises(DataError, match=f"no tag column {column} of 4"):
            read_tagger_output(path, POSTS[2:], column=column)


def test_an_output_that_breaks_off_is_a_failure(path: Path) -> None:
    path.write_text("Ann\tB-PER\nmeets\tO\n\nin\tO\nKent\tB-LOC\n")
    reason = "the output ends after 2 of 4 tokens"
    assert read_tagger_output(path, POSTS) == [
        PostPrediction("p1", failure=Failure(reason, "import")),
        PostPrediction("p3", (KENT,)),
    ]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("in\tO\nKent\tO\n", "1 texts for 2 posts with tokens; without IMGID lines they go by"),
        ("Ann\tO\nsees\tO\n\nin\tO\nKent\tO\n", r":2: token 'sees' where post 'p1' has 'meets'"),
        ("Ann\tO\n\nin\tO\nKent\tO\n.\tO\n", "3 tokens for the 2 of post 'p3'"),
        ("IMGID:p9\nAnn\tO\n", ":1: IMGID 'p9' is none of the posts"),
        ("IMGID:p3\nin\tO\n\nIMGID:p3\nin\tO\n", ":4: IMGID 'p3' is none of the posts, or comes"),
        ("IMGID:p3\nin\tO\n\nin\tO\n", ":3: IMGID None is none of the posts"),
        ("Ann\n", ":1: 'Ann' has no tag"),
        ("Ann\tB-aircraft\n\nin\tO\n", "tag 'B-aircraft' is unknown; wanted O or B-/I-/E-/S- with"),
    ],
)
def test_columns_of_other_posts_are_refused(path: Path, output: str, words: str) -> None:
    path.write_text(output)
    with pytest.raises(DataError, match=words):
        read_tagger_output(path, POSTS)


def test_columns_with_other_types(path: Path) -> None:
    path.write_text("in\tO\nKent\tB-location\n")
    (said,) = read_tagger_output(path, POSTS[2:], CCKS)
    assert said.predictions == (Prediction("Kent", "location", UNPLACED, 1, 2),)


# --- RiVEG -------------------------------------------------------------------------------------

TABLE = """\
imgid\tentity\ttype\tgroundable
p1\tAnn\tPER\t2
p1\tAnn Lee\tPER\t2
p3\tKent\tLOC\t0
p3\tKent in\tOTHER\t2
p9\t"Bo\tMISC\t0
"""


def riveg(path: Path, table: str, **how: Any) -> tuple[list[PostPrediction], list[Problem]]:
    path.write_text(table)
    problems: list[Problem] = []
    return read_riveg(path, POSTS, problems.append, **how), problems


def test_rivegs_table(path: Path) -> None:
    said, problems = riveg(path, TABLE)
    assert said == [
        PostPrediction("p1", (ANN, LEE)),
        PostPrediction("p3", (
            Prediction("Kent", "LOC", None, 1, 2),
            Prediction("Kent in", "MISC", UNPLACED),
        )),
        PostPrediction("p9", (Prediction('"Bo', "MISC", None),)),
    ]  # fmt: skip
    assert [(problem.line, problem.kind) for problem in problems] == [(5, "name-without-tokens")]


def test_perfect_boxes_are_golds_as_far_as_gold_has_them(path: Path) -> None:
    said, _ = riveg(path, TABLE + "p1\tAnn\tPER\t2\n", perfect_boxes=True)
    assert [answer.box for answer in said[0].predictions] == [LARGE, UNPLACED, UNPLACED]
    assert [answer.box for answer in said[1].predictions] == [None, UNPLACED]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("imgid\tentity\n", ":1: its first line is not imgid entity type groundable"),
        (TABLE + "p1\tAnn\tPER\n", ":7: 3 fields; wanted"),
        (TABLE + "p1\t\tPER\t0\n", ":7: 4 fields; wanted"),
        (TABLE + "p1\tAnn\tPER\t1\n", ":7: groundable is '1'; wanted 0 or 2"),
        (TABLE + "p1\tAnn\tGPE\t0\n", ":7: unknown entity type 'GPE'"),
    ],
)
def test_a_faulty_table_is_refused(path: Path, table: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        riveg(path, table)


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    src = tmp_path / "posts.jsonl"
    write_posts(src, POSTS)
    return src


def test_a_table_becomes_predictions(posts: Path, tmp_path: Path, data_command: Any) -> None:
    table, out = tmp_path / "riveg.tsv.gz", tmp_path / "out.jsonl"
    table.write_bytes(gzip.compress(TABLE.encode()))
    done = data_command("convert-predictions", table, out, "--from", "riveg", "--posts", posts)
    assert done.code == 0
    assert done.out == f"3 posts, 5 entities, 3 of them with no box told; written to {out}\n"
    assert "riveg.tsv.gz:5: 'Kent in' is no run of the tokens of post 'p3'" in done.err
    assert read_predictions(out)[0] == PostPrediction("p1", (ANN, LEE))


def test_predictions_become_the_tasks(posts: Path, tmp_path: Path, data_command: Any) -> None:
    pred, out = tmp_path / "pred.jsonl", tmp_path / "out.json"
    failed = PostPrediction("p1", failure=Failure("timeout", "tag"))
    write_predictions(pred, [failed, PostPrediction("p3", (KENT,))])
    words = ("--from", "jsonl", "--to", "ccks", "--posts", posts)
    done = data_command("convert-predictions", pred, out, *words)
    assert done.out.startswith("2 posts, 1 entities, 1 error records")
    assert "1 error records are left out" in done.err
    assert list(json.loads(out.read_text())) == ["p3"]


def test_unknown_types_are_kept_where_asked(posts: Path, tmp_path: Path, data_command: Any) -> None:
    pred, out = tmp_path / "pred.json", tmp_path / "out.jsonl"
    pred.write_text(json.dumps({"p3": [{"name": "Kent", "label": "county", "bnd": None}]}))
    words = ("convert-predictions", pred, out, "--from", "ccks", "--posts", posts)
    assert "unknown entity type 'county'" in data_command(*words).err
    assert not out.exists()
    assert data_command(*words, "--keep-unknown-types").code == 0
    assert read_predictions(out, keep_unknown=True)[0].predictions[0].type == "county"


def test_field_r5_failed_entities_are_counted_and_left_out_of_the_tasks_format(
    posts: Path, tmp_path: Path, data_command: Any
) -> None:
    pred, out = tmp_path / "pred.jsonl", tmp_path / "out.json"
    lost = FailedEntity("Lee", "PER", Failure("timeout", "api"))
    half = PostPrediction("p1", (ANN,), failed=(lost,))
    write_predictions(pred, [half, PostPrediction("p3", failed=(lost,))])
    words = ("--from", "jsonl", "--to", "ccks", "--posts", posts)
    done = data_command("convert-predictions", pred, out, *words)
    assert done.out.startswith("2 posts, 1 entities, 2 error records")
    assert "2 error records are left out" in done.err
    written = json.loads(out.read_text())
    assert [(key, len(rows)) for key, rows in written.items()] == [("p1", 1)]
