from __future__ import annotations

from pathlib import Path

import pytest

from groundling.corpus import Case, Corpus
from groundling.data.expressions_jsonl import EntityExpression, write_expressions
from groundling.errors import DataError, InputError
from groundling.experts import collect_experts
from groundling.records import ABSENT, Box, Entity, EntityType, Expression, Post

BOX = (Box(1, 2, 3, 4),)
POSTS = (
    Post(
        "p#1",  # an id may hold the sign that sets off an entity's number
        ("Ann", "likes", "Paris"),
        (Entity("Ann", "PER", 0, 1, BOX), Entity("Paris", "LOC", 2, 3)),
        "a.jpg",
    ),
    Post("p2", ("Ann",), (Entity("Ann", "PER", 0, 1, BOX),), "b.jpg"),
)


def annotate(query_id: str) -> Expression:
    return Expression(f"about {query_id}", "expert:annotator")


def corpus(with_annotator: bool) -> tuple[Corpus, list[Case]]:
    found = Corpus({"train": POSTS}, {}, annotate=annotate if with_annotator else None)
    return found, found.cases("train")


def row(
    post_id: str, name: str, kind: EntityType, text: str, source: str = "human"
) -> EntityExpression:
    return EntityExpression(post_id, name, kind, Expression(text, source))


def stored(folder: Path, *rows: EntityExpression) -> Path:
    path = folder / "experts.jsonl"
    write_expressions(path, rows)
    return path


def test_the_annotator_that_a_corpus_brings() -> None:
    posts, cases = corpus(True)
    assert collect_experts(posts, cases, None) == {
        "p#1#0": "about p#1#0",
        "p#1#1": "about p#1#1",
        "p2#0": "about p2#0",
    }


def test_neither_a_file_nor_an_annotator() -> None:
    with pytest.raises(InputError, match=r"experts\.path"):
        collect_experts(*corpus(False), None)


def test_a_file_is_read_by_post_name_and_type(tmp_path: Path) -> None:
    path = stored(
        tmp_path,
        row("p#1", "Ann", "PER", "the woman"),
        row("p2", "Ann", "PER", "the girl"),
        row("p2", "Ann", "ORG", "the logo"),
        row("p3", "Ann", "PER", "the man"),
    )
    for with_annotator in (True, False):  # a file comes before the annotator
        assert collect_experts(*corpus(with_annotator), path) == {
            "p#1#0": "the woman",
            "p#1#1": ABSENT,
            "p2#0": "the girl",
        }


def test_what_is_not_there_is_absent_whatever_the_file_says(tmp_path: Path) -> None:
    path = stored(
        tmp_path,
        row("p#1", "Ann", "PER", "the woman"),
        row("p#1", "Paris", "LOC", "the tower"),
        row("p2", "Ann", "PER", "the girl"),
    )
    assert collect_experts(*corpus(False), path)["p#1#1"] == ABSENT


@pytest.mark.parametrize(
    "rows",
    [
        [row("p#1", "Ann", "PER", "the woman")],
        [row("p#1", "Ann", "PER", "the woman"), row("p2", "Ann", "ORG", "the logo")],
        [row("p#1", "Ann", "PER", "the woman"), row("p2", "Ann", "PER", ABSENT + ".")],
    ],
)
def test_what_is_there_must_have_words(tmp_path: Path, rows: list[EntityExpression]) -> None:
    path = stored(tmp_path, *rows)
    with pytest.raises(
        DataError,
        match=r"1 groundable .* the first Ann \(PER\) in post p2;",
    ):
        collect_experts(*corpus(False), path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I'm sorry, but I can't identify people in images.", "refused"),
        ("<think>the man", "thought"),
        ("```\nthe man\n```", "wrapped"),
        ('{"expression": "the man"}', "json"),
    ],
)
def test_field_e1_what_is_no_expression_is_never_a_training_target(
    text: str, kind: str, tmp_path: Path
) -> None:
    path = stored(
        tmp_path, row("p#1", "Ann", "PER", "the woman"), row("p2", "Ann", "PER", text, "expert:m")
    )
    with pytest.raises(DataError, match=rf"1 texts are no .*Ann in post p2 \({kind}\)") as caught:
        collect_experts(*corpus(False), path)
    assert f"groundling data check {path}" in str(caught.value)
    assert "\n" not in str(caught.value)
