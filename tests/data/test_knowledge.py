from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import SHARED

from groundling.data.gmner import read_gmner
from groundling.data.knowledge import (
    Told,
    knowledge_path,
    read_knowledge,
    with_knowledge,
    write_knowledge,
)
from groundling.errors import DataError, InputError
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
    with pytest.raises(DataError, match=r"no knowledge of split test; wanted test\.txt or"):
        knowledge_path(tmp_path, "test")
    lines = written(tmp_path, "", "test.jsonl")
    assert knowledge_path(tmp_path, "test") == lines
    written(tmp_path, "", "dev.jsonl")
    with pytest.raises(DataError, match=r"holds dev\.txt and dev\.jsonl; keep one of them"):
        knowledge_path(tmp_path, "dev")


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
        assert [block.about for block in told] == [post.tokens for post in posts]
        known = with_knowledge(posts, told)
        assert [post.knowledge for post in known] == [block.knowledge for block in told]
        assert all(post.knowledge for post in known)


# --- JSON lines -----------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    told = [
        Told("17_06", "Named entities: Pak (LOC).", "llm:m", ("1", "2")),
        Told("é/2", "line \u2028 end", "llm:m"),
    ]
    write_knowledge(path, told)
    assert read_knowledge(path) == told
    assert len(path.read_text().splitlines()) == 2


def test_lines_of_others_need_an_id_and_words_alone(tmp_path: Path) -> None:
    text = '{"id": "2", "knowledge": "of two", "by": "hand"}\n\n{"id": "9", "knowledge": "x"}\n'
    told = read_knowledge(written(tmp_path, text, "train.jsonl"))
    assert told == [Told("2", "of two"), Told("9", "x")]
    posts = [Post("1", ("a",)), Post("2", ("a",)), Post("3", ("2",), knowledge="kept")]
    found = with_knowledge(posts, told)
    assert [post.knowledge for post in found] == ["", "of two", "kept"]


def test_an_id_is_not_mistaken_for_a_text() -> None:
    posts = [Post("a", ("b",)), Post("b", ("a",))]
    by_id = with_knowledge(posts, [Told("a", "x")])
    assert [post.knowledge for post in by_id] == ["x", ""]
    by_text = with_knowledge(posts, [Told(("a",), "x")])
    assert [post.knowledge for post in by_text] == ["", "x"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "1", "knowledge": ""}', "knowledge: says nothing; leave the line"),
        ('{"id": "1", "knowledge": " \\n"}', "knowledge: says nothing"),
        ('{"id": "1", "knowledge": null}', "knowledge: wanted a valid string, got None"),
        ('{"id": "1"}', "knowledge: missing"),
        ('{"id": "", "knowledge": "x"}', "id: "),
        ('{"id": "0", "knowledge": "x"}', "id '0' comes twice; wanted one line a post"),
        ("words", "not JSON"),
    ],
)
def test_an_empty_or_repeated_line_is_refused(tmp_path: Path, line: str, words: str) -> None:
    path = written(tmp_path, f'{{"id": "0", "knowledge": "x"}}\n{line}\n', "train.jsonl")
    with pytest.raises(DataError, match=words) as caught:
        read_knowledge(path)
    assert caught.value.line == 2


def test_nothing_that_would_be_refused_is_written(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with pytest.raises(InputError, match="says nothing"):
        write_knowledge(path, [Told("1", " ")])
    with pytest.raises(InputError, match="comes twice"):
        write_knowledge(path, [Told("1", "x"), Told("1", "y")])
    assert not path.exists()
