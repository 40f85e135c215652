from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import SHARED

from groundling.data.gmner import read_gmner
from groundling.data.knowledge import Told, knowledge_path, read_knowledge, with_knowledge
from groundling.errors import DataError
from groundling.records import Post

TWO = "Pak\tB-LOC\nis\tO\n<EOS>\tX\nPak\tX\n\tX\n(country)\tX\n\nhome\tO\n<EOS>\tX\n\n"


def written(folder: Path, text: str, name: str = "train.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blocks_are_tokens_and_words_about_them(tmp_path: Path, end: str) -> None:
    path = written(tmp_path, TWO.replace("\n", end))
    assert read_knowledge(path) == [Told(("Pak", "is"), "Pak (country)"), Told(("home",), "")]


def test_posts_find_their_block_by_text_and_repeats_by_order() -> None:
    told = [Told(("a",), "first"), Told(("b",), "of b"), Told(("a",), "second")]
    posts = [
        Post("1", ("b",)),
        Post("2", ("a",)),
        Post("3", ("c",), knowledge="kept"),
        Post("4", ("a",)),
        Post("5", ("a",)),
    ]
    found = with_knowledge(posts, told)
    assert [post.knowledge for post in found] == ["of b", "first", "kept", "second", ""]
    assert [post.id for post in found] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a\tO\nb\n<EOS>\tX\n", 2, r"got 'b'; wanted token<TAB>tag"),
        ("a\tO\tO\n<EOS>\tX\n", 1, "wanted token<TAB>tag"),
        ("a\tO\n\nb\tO\n<EOS>\tX\n", 1, "a post without <EOS><TAB>X behind it"),
        ("a\tO\n<EOS>\tX\nb\tB-PER\n", 3, "tag B-PER behind <EOS>; wanted X"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=words) as caught:
        read_knowledge(path)
    assert caught.value.line == line


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"a\tO\n\xff\tO\n<EOS>\tX\n")
    with pytest.raises(DataError, match=r"train\.txt:2: not UTF-8"):
        read_knowledge(path)


def test_the_file_of_a_split(tmp_path: Path) -> None:
    valid = written(tmp_path, TWO, "valid.txt")
    assert knowledge_path(tmp_path, "dev") == valid
    dev = written(tmp_path, TWO, "dev.txt")
    assert knowledge_path(tmp_path, "dev") == dev
    with pytest.raises(DataError, match=r"no knowledge of split test; wanted test\.txt"):
        knowledge_path(tmp_path, "test")


def test_the_published_files_tell_of_every_post_of_the_release(
    gmner_v2: Path, tmp_path: Path
) -> None:
    archive = SHARED / "pgim-knowledge.zip"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not in ../shared/data beside the checkout")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    for split in ("dev", "test"):
        posts = read_gmner(gmner_v2, split).posts
        told = read_knowledge(knowledge_path(tmp_path, split))
        assert [block.tokens for block in told] == [post.tokens for post in posts]
        known = with_knowledge(posts, told)
        assert [post.knowledge for post in known] == [block.knowledge for block in told]
        assert all(post.knowledge for post in known)
