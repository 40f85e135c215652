from __future__ import annotations

from pathlib import Path

import pytest

from groundling.data.picture_index import PictureIndex
from groundling.errors import InputError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_where_pictures_are_looked_for(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.jpg",
        "b.JPEG",
        "c.png",
        "d.gif",
        "twitter2015_images/e.jpg",
        "twitter2017_images/f.png",
        "elsewhere/g.jpg",
        "x.y.jpg",
    )
    index = PictureIndex(tmp_path)
    found = {stem: index.find(stem) for stem in ("a", "b", "c", "d", "e", "f", "g", "x.y", "A")}
    names = {stem: path and path.relative_to(tmp_path).as_posix() for stem, path in found.items()}
    assert names == {
        "a": "a.jpg",
        "b": "b.JPEG",
        "c": "c.png",
        "d": None,
        "e": "twitter2015_images/e.jpg",
        "f": "twitter2017_images/f.png",
        "g": None,
        "x.y": "x.y.jpg",
        "A": None,
    }


def test_the_folder_comes_before_its_subfolders_and_jpg_before_png(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "a.jpg", "b.png", "twitter2015_images/b.jpg")
    index = PictureIndex(tmp_path)
    assert index.find("a") == tmp_path / "a.jpg"
    assert index.find("b") == tmp_path / "b.png"


def test_an_id_never_leaves_the_folder(tmp_path: Path) -> None:
    make(tmp_path, "secret.jpg", "images/a.jpg")
    index = PictureIndex(tmp_path / "images")
    assert index.find("../secret") is None
    assert index.find(str(tmp_path / "secret")) is None


def test_a_folder_called_like_a_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    assert PictureIndex(tmp_path).find("a") is None


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--images"):
        PictureIndex(tmp_path / "nowhere")
