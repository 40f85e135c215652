from __future__ import annotations

from pathlib import Path

import pytest

from groundling.data.conll import (
    Span,
    TaggedPost,
    bio_spans,
    bio_tags,
    is_file_id,
    listed_ids,
    read_tagged_posts,
)
from groundling.data.problems import Problem, refuse_errors
from groundling.errors import DataError
from groundling.records import Entity


def read(path: Path, content: str | bytes) -> tuple[list[TaggedPost], list[Problem]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[Problem] = []
    return list(read_tagged_posts(path, problems.append)), problems


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.txt"


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", []),
        ("B-PER I-PER O B-OTHER", [("PER", 0, 2, False), ("MISC", 3, 4, False)]),
        ("B-PER B-PER", [("PER", 0, 1, False), ("PER", 1, 2, False)]),
        ("O I-LOC I-LOC", [("LOC", 1, 3, True)]),
        ("I-ORG", [("ORG", 0, 1, True)]),
        ("B-PER I-ORG I-ORG", [("PER", 0, 1, False), ("ORG", 1, 3, True)]),
        ("B-PER O I-PER", [("PER", 0, 1, False), ("PER", 2, 3, True)]),
        ("B-MISC I-OTHER", [("MISC", 0, 2, False)]),
    ],
)
def test_spans_of_tags(tags: str, spans: list[tuple[str, int, int, bool]]) -> None:
    assert bio_spans(tags.split()) == [Span(*span) for span in spans]  # type: ignore[arg-type]


def test_tags_of_entities_say_other_and_split_neighbours() -> None:
    entities = [Entity("a b", "MISC", 0, 2), Entity("c", "MISC", 2, 3)]
    assert bio_tags(4, entities) == ["B-OTHER", "I-OTHER", "B-OTHER", "O"]


def test_a_file_is_split_at_newlines_only(path: Path) -> None:
    odd = ["a\u2028b", "c\u0085d", "\x0b", "\u00a0", "e\rf", "\u200b", "&amp", " "]
    lines = "".join(f"{token}\tO\n" for token in odd)
    posts, problems = read(path, f"IMGID:7\n{lines}\n\nIMGID:8\nx\tB-PER\n")
    assert [post.tokens for post in posts] == [tuple(odd), ("x",)]
    assert [post.line for post in posts] == [1, 12]
    assert posts[1].token_line(0) == 13
    assert problems == []


def test_a_token_may_look_like_an_id_line(path: Path) -> None:
    posts, problems = read(path, "IMGID:7\nIMGID:9\tO\n")
    assert [(post.id, post.tokens) for post in posts] == [("7", ("IMGID:9",))]
    assert problems == []
    assert listed_ids(path) == {"7"}


def test_windows_line_ends_and_a_byte_order_mark_are_read(path: Path) -> None:
    posts, problems = read(path, b"\xef\xbb\xbfIMGID:7\r\na\tB-PER\r\n\r\nIMGID:8\r\nb\tO\r\n")
    assert [(post.id, post.tags) for post in posts] == [("7", ("B-PER",)), ("8", ("O",))]
    assert [(problem.kind, problem.line) for problem in problems] == [("crlf", 1)]


GOOD = "IMGID:9\nok\tO\n"


@pytest.mark.parametrize(
    ("broken", "kind", "line", "words"),
    [
        ("IMGID:7\nx\n", "malformed-line", 2, "'x' has 0 tabs; wanted token<TAB>tag"),
        ("IMGID:7\nx\tO\tO\n", "malformed-line", 2, "2 tabs"),
        ("IMGID:7\n\tO\n", "malformed-line", 2, "no token before its tab"),
        ("IMGID:7\nx\tB-GPE\n", "unknown-tag", 2, "'B-GPE'"),
        ("IMGID:7\nx\tb-per\n", "unknown-tag", 2, "'b-per'"),
        ("IMGID:7\nx\t\n", "unknown-tag", 2, "''"),
        ("IMGID:7\nx\tO \n", "unknown-tag", 2, "'O '"),
        ("x\tO\ny\tO\n", "line-outside-post", 1, "belongs to no post"),
        ("IMGID:\nx\tO\n", "bad-post-id", 1, "''"),
        ("IMGID:../7\nx\tO\n", "bad-post-id", 1, "'../7'"),
        ("IMGID: 7\nx\tO\n", "bad-post-id", 1, "' 7'"),
        ("IMGID:9\nx\tO\n", "duplicate-post", 4, "in line 1"),
    ],
)
def test_a_broken_post_is_refused_or_left_out(
    path: Path, broken: str, kind: str, line: int, words: str
) -> None:
    content = f"{broken}\n{GOOD}"
    posts, problems = read(path, content)
    assert [post.id for post in posts] == ["9"]
    assert [(problem.kind, problem.line) for problem in problems] == [(kind, line)]
    assert words in problems[0].message
    with pytest.raises(DataError, match="--skip-bad") as caught:
        list(read_tagged_posts(path, refuse_errors))
    assert (caught.value.path, caught.value.line) == (path, line)


def test_every_broken_line_of_a_post_is_reported(path: Path) -> None:
    posts, problems = read(path, "IMGID:7\nx\ny\tO\nz\tQ\n")
    assert posts == []
    assert [problem.line for problem in problems] == [2, 4]


def test_a_line_that_is_not_utf8_names_its_byte(path: Path) -> None:
    posts, problems = read(path, b"IMGID:7\nca\xe9\tO\n\n" + GOOD.encode())
    assert [post.id for post in posts] == ["9"]
    assert problems == [
        Problem(str(path), 2, "not-utf8", "byte 0xe9 at column 3 is not UTF-8"),
    ]


def test_a_missing_blank_line_is_an_error_and_loses_no_post(path: Path) -> None:
    posts, problems = read(path, f"IMGID:7\nx\tO\n{GOOD}")
    assert [post.id for post in posts] == ["7", "9"]
    assert [(problem.kind, problem.line) for problem in problems] == [("missing-blank-line", 3)]


def test_a_post_may_be_empty(path: Path) -> None:
    posts, problems = read(path, f"IMGID:7\n\n\n{GOOD}")
    assert [(post.id, post.tokens) for post in posts] == [("7", ()), ("9", ("ok",))]
    assert problems == []


def test_a_long_line_is_cut_in_its_message(path: Path) -> None:
    _, problems = read(path, "IMGID:7\n" + "x" * 5000 + "\n")
    assert len(problems[0].message) < 200


def test_a_missing_file_is_a_data_error(path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_tagged_posts(path, refuse_errors))


@pytest.mark.parametrize(
    ("post_id", "fine"),
    [
        ("17_01_13620", True),
        ("O_41", True),
        ("ä b", True),
        ("..x", True),
        ("..", False),
        ("a/b", False),
        ("a\\b", False),
        ("a\x00", False),
        (" a", False),
        ("\ud800", False),
    ],
)
def test_which_ids_can_name_a_file(post_id: str, fine: bool) -> None:
    assert is_file_id(post_id) is fine
