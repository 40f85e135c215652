from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from release_files import voc

from groundling.data.convert import Conversion, convert
from groundling.data.formats import guess_format, read_splits
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_posts
from groundling.errors import DataError, ImageError, InputError

TEST = "IMGID:p1\nNYC\tB-LOC\nnow\tO\n\nIMGID:p2\nApple\tB-OTHER\n\n"
TRAIN = "IMGID:q1\nx\tO\n"


@pytest.fixture
def src(release: Any) -> Path:
    found: Path = release(
        {"test": TEST, "train": TRAIN},
        {"p1": voc(("NYC", (1, 2, 100, 80)), ("NYC", (1, 2, 3, 4)))},
    )
    return found


def test_to_jsonl_and_back(src: Path, tmp_path: Path, data_command: Any) -> None:
    there = data_command(
        "convert", src, tmp_path / "posts", "--from", "twitter-gmner", "--to", "jsonl"
    )
    assert there.code == 0
    assert there.out.splitlines() == [
        f"train: 1 posts in {tmp_path / 'posts' / 'train.jsonl'}",
        f"test: 2 posts in {tmp_path / 'posts' / 'test.jsonl'}",
    ]
    back = data_command(
        "convert", tmp_path / "posts", tmp_path / "back", "--from", "jsonl", "--to", "twitter-gmner"
    )
    assert back.code == 0
    assert "test: 1 XML files state no picture size" in back.err
    for name in ("train", "test"):
        assert read_gmner(tmp_path / "back", name).posts == read_gmner(src, name).posts
    assert read_posts(tmp_path / "posts" / "test.jsonl").posts == read_gmner(src, "test").posts


def test_jsonl_does_not_give_groundability_away(src: Path, tmp_path: Path) -> None:
    convert(Conversion(src, tmp_path / "posts", "twitter-gmner", "jsonl"))
    first, second = (tmp_path / "posts" / "test.jsonl").read_text().splitlines()
    assert "xml" not in first + second
    assert "size" not in first + second


def test_from_release_to_release_keeps_stated_sizes(src: Path, tmp_path: Path) -> None:
    (done,) = convert(
        Conversion(src, tmp_path / "copy", "twitter-gmner", "twitter-gmner", splits=("test",))
    )
    assert (done.split.name, done.unsized) == ("test", 0)
    assert read_gmner(tmp_path / "copy", "test").xml_sizes == {"p1": (100, 80)}
    assert not (tmp_path / "copy" / "txt" / "train.txt").exists()


def test_pictures_travel_as_paths_and_give_sizes(
    src: Path, tmp_path: Path, picture: Any, data_command: Any
) -> None:
    picture(tmp_path / "images" / "p1.jpg", (100, 80))
    target = tmp_path / "out" / "only.jsonl"
    there = data_command(
        "convert", src, target, "--to", "jsonl", "--split", "test", "--images", tmp_path / "images"
    )
    assert there.code == 0
    assert there.err == "test: 1 posts have no picture there\n"
    assert read_posts(target).posts[0].image == str(tmp_path / "images" / "p1.jpg")
    back = data_command(
        "convert", target, tmp_path / "back", "--to", "twitter-gmner", "--split", "dev"
    )
    assert (back.code, back.err) == (0, "")
    assert read_gmner(tmp_path / "back", "dev").xml_sizes == {"p1": (100, 80)}


def test_a_needed_picture_must_be_readable(src: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "p1.jpg").write_bytes(b"not a picture")
    job = Conversion(src, tmp_path / "p", "twitter-gmner", "jsonl", images=tmp_path / "images")
    convert(job)
    with pytest.raises(ImageError, match=r"p1\.jpg"):
        convert(Conversion(tmp_path / "p", tmp_path / "b", "jsonl", "twitter-gmner"))


def test_one_file_holds_one_split(src: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one file for 2 splits"):
        convert(Conversion(src, tmp_path / "all.jsonl", "twitter-gmner", "jsonl"))
    assert not (tmp_path / "all.jsonl").exists()


def test_a_source_is_never_overwritten(src: Path, tmp_path: Path, data_command: Any) -> None:
    before = (src / "txt" / "test.txt").read_bytes()
    found = data_command("convert", src, src, "--to", "twitter-gmner")
    assert found.code == 2
    assert "is the source itself" in found.err
    assert (src / "txt" / "test.txt").read_bytes() == before
    convert(Conversion(src, tmp_path / "p", "twitter-gmner", "jsonl"))
    with pytest.raises(InputError, match="is the source itself"):
        convert(Conversion(tmp_path / "p" / "test.jsonl", tmp_path / "p", "jsonl", "jsonl"))


def test_a_fault_is_refused_or_left_out(release: Any, tmp_path: Path, data_command: Any) -> None:
    src = release({"test": TEST.replace("now\tO", "now")})
    refused = data_command("convert", src, tmp_path / "p", "--to", "jsonl")
    assert refused.code == 2
    assert "test.txt:3: " in refused.err
    assert not (tmp_path / "p").exists()
    found = data_command("convert", src, tmp_path / "p", "--to", "jsonl", "--skip-bad")
    assert found.code == 0
    assert "left out: " in found.err
    assert [post.id for post in read_posts(tmp_path / "p" / "test.jsonl").posts] == ["p2"]


def test_an_unknown_split_is_refused(src: Path, tmp_path: Path) -> None:
    job = Conversion(src, tmp_path / "p", "twitter-gmner", "jsonl", splits=("dev",))
    with pytest.raises(DataError, match="no split 'dev'; it holds train, test"):
        convert(job)


def test_formats_are_guessed_by_what_is_there(src: Path, tmp_path: Path) -> None:
    convert(Conversion(src, tmp_path / "p", "twitter-gmner", "jsonl"))
    assert guess_format(src) == "twitter-gmner"
    assert guess_format(tmp_path / "p") == "jsonl"
    assert guess_format(tmp_path / "p" / "test.jsonl") == "jsonl"
    assert guess_format(tmp_path / "nowhere") == "twitter-gmner"
    assert [split.name for split in read_splits(tmp_path / "p", "jsonl")] == ["train", "test"]
    with pytest.raises(DataError, match=r"folder with \.jsonl files"):
        read_splits(tmp_path / "nowhere", "jsonl")
