from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from groundling.data.columns import column_files, read_columns, write_columns
from groundling.errors import DataError, InputError
from groundling.records import CCKS, Entity, Post

TEXT = "A\tO\nMarder\tB-vehicle\n1A3\tI-vehicle\n\nSea Lynx\tB-aircraft\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.conll"


def read(path: Path, content: str | bytes) -> tuple[Post, ...]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_columns(path, "train", scheme=CCKS).posts


def test_posts_are_called_by_their_places(path: Path) -> None:
    assert read(path, TEXT) == (
        Post("train-1", ("A", "Marder", "1A3"), (Entity("Marder 1A3", "vehicle", 1, 3),)),
        Post("train-2", ("Sea Lynx",), (Entity("Sea Lynx", "aircraft", 0, 1),)),
    )


def test_spaces_part_fields_where_no_tab_does(path: Path) -> None:
    (post,) = read(path, "Marder   B-vehicle\n1A3 I-vehicle \n")
    assert post.tokens == ("Marder", "1A3")
    assert post.entities[0].name == "Marder 1A3"


def test_a_packed_file_reads_the_same(tmp_path: Path) -> None:
    packed = tmp_path / "train.conll.gz"
    plain = read(tmp_path / "train.conll", TEXT)
    assert read(packed, gzip.compress(TEXT.encode())) == plain
    with pytest.raises(DataError, match="not a whole gzip file"):
        read(packed, gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(DataError, match="not a whole gzip file"):
        read(packed, TEXT)


def test_stated_ids_count(path: Path) -> None:
    posts = read(path, "IMGID:7\nA\tO\n\nB\tO\n\nIMGID:9\n\n")
    assert [(post.id, post.tokens) for post in posts] == [
        ("7", ("A",)),
        ("train-2", ("B",)),
        ("9", ()),
    ]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("A\tO\nB\n", ":5: 'B' has no tag"),
        ("A O B-vehicle\n", ":4: 'A O B-vehicle' has 2 fields after its token"),
        ("A\tB-PER\n", "tag 'B-PER' is unknown; wanted O or B-/I- with aircraft, .* or other"),
        ("A\tS-vessel\n", "'S-vessel' is unknown"),
        ("\tO\n", ":4: .* no token before its tab"),
        (b"\xff\tO\n", "byte 0xff"),
        ("IMGID:a/b\nA\tO\n", "cannot name a file"),
        ("IMGID:1\nA\tO\n", "'1' was used before, in line 1"),
    ],
)
def test_a_broken_post_is_refused_or_left_out(path: Path, broken: str | bytes, words: str) -> None:
    raw = broken.encode() if isinstance(broken, str) else broken
    with pytest.raises(DataError, match=words):
        read(path, b"IMGID:1\nA\tO\n\n" + raw)
    path.write_bytes(b"IMGID:1\nA\tO\n\n" + raw + b"\nlast\tO\n")
    split = read_columns(path, "train", scheme=CCKS, skip_bad=True)
    assert [post.id for post in split.posts] == ["1", "train-3"]
    assert len(split.skipped) == 1


def test_pictures_are_called_by_ids(path: Path, tmp_path: Path, picture: Any) -> None:
    path.write_text("IMGID:7\nA\tO\n\nIMGID:8\nB\tO\n")
    picture(tmp_path / "images" / "7.jpg")
    split = read_columns(path, "train", tmp_path / "images", scheme=CCKS)
    assert [post.image for post in split.posts] == [str(tmp_path / "images" / "7.jpg"), None]
    assert split.missing_images == ("8",)


def test_what_is_written_reads_the_same(path: Path) -> None:
    posts = (
        Post("7", ("A", "Marder", "1A3", "Puma"), (
            Entity("Marder 1A3", "vehicle", 1, 3),
            Entity("Puma", "vehicle", 3, 4),
        )),
        Post("8", ()),
    )  # fmt: skip
    write_columns(path, posts, CCKS)
    assert read_columns(path, "x", scheme=CCKS).posts == posts


@pytest.mark.parametrize(
    ("post", "words"),
    [
        (Post("a/b", ("A",)), "cannot name a file"),
        (Post("7", ("",)), "token ''"),
        (Post("7", ("a\tb",)), "does not fit a line"),
        (Post("7", ("A",), (Entity("A", "vehicle", 0, 2),)), "overlap, leave the text"),
        (
            Post("7", ("A",), (Entity("A", "vehicle", 0, 1), Entity("A", "vehicle", 0, 1))),
            "overlap",
        ),
    ],
)
def test_what_does_not_fit_is_not_written(path: Path, post: Post, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_columns(path, [post], CCKS)
    assert not path.exists()


def test_splits_by_the_names_of_files(tmp_path: Path) -> None:
    for name in ("CCKS_test.conll", "CCKS_Aug_train.conll.gz", "more.bio", "notes.txt"):
        (tmp_path / name).touch()
    assert list(column_files(tmp_path)) == ["train", "test", "more"]
    (tmp_path / "test.conll").touch()
    with pytest.raises(DataError, match="is split 'test' too"):
        column_files(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        column_files(tmp_path / "elsewhere")
