"""Boxes drawn on the stored pixels of images that EXIF turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageOps

from groundling.config import GmnerData
from groundling.config_gmner import PostsData
from groundling.corpus import fingerprint, read_labelled, read_release
from groundling.data.formats import read_splits
from groundling.data.jsonl import read_posts
from groundling.errors import DataError
from groundling.images import load_image, stored_frame
from groundling.records import TWITTER, Box

STORED, UPRIGHT = Box(200, 20, 290, 60), Box(140, 200, 180, 290)
"""One rectangle on the stored pixels of 300 × 200, and where orientation 6 shows it."""


def save(path: Path, orientation: int, size: tuple[int, int] = (300, 200)) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, exif=exif)
    return path


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """A posts file with one box drawn on the stored pixels of an image that EXIF turns."""
    save(tmp_path / "images" / "p1.jpg", 6)
    return write_posts_file(tmp_path / "test.jsonl", STORED)


def write_posts_file(path: Path, *boxes: Box) -> Path:
    entities = [
        {"name": "Ann", "type": "PER", "start": 0, "end": 1, "boxes": [list(box.xyxy)]}
        for box in boxes
    ]
    post = {"id": "p1", "image": "images/p1.jpg", "tokens": ["Ann"], "entities": entities}
    path.write_text(json.dumps(post) + "\n")
    return path


@pytest.fixture
def voc(tmp_path: Path) -> tuple[Path, Path]:
    """A release in Twitter-GMNER's layout whose XML states the stored size, and its images."""
    root = tmp_path / "release"
    for split in ("train", "dev", "test"):
        post_id = f"{split}1"
        save(tmp_path / "images" / f"{post_id}.jpg", 6)
        for folder, name, text in (
            ("txt", f"{split}.txt", f"IMGID:{post_id}\nAnn\tB-PER\n\n"),
            ("xml", f"{post_id}.xml", xml_of(post_id)),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_text(text)
    return root, tmp_path / "images"


def xml_of(post_id: str) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), STORED.xyxy, strict=True)
    box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
    size = "<size><width>300</width><height>200</height></size>"
    object_ = f"<object><name>Ann</name><bndbox>{box}</bndbox></object>"
    return f"<annotation><filename>{post_id}.jpg</filename>{size}{object_}</annotation>"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_field_d1_a_rectangle_moves_as_pillow_moves_its_pixels(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    drawn = Image.new("L", (31, 17))
    box = Box(5, 3, 12, 7)
    ImageDraw.Draw(drawn).rectangle((5, 3, 11, 6), fill=255)  # Pillow draws the last pixel too
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"drawn.{ending}"
    drawn.save(path, exif=exif, **({"quality": 100} if ending == "jpg" else {}))
    with Image.open(path) as stored:
        shown = ImageOps.exif_transpose(stored).point(lambda level: 255 if level > 127 else 0)
    frame = stored_frame(path)
    assert (frame.stored_wh_px, frame.orientation) == ((31, 17), orientation)
    assert frame.upright_wh_px == shown.size == load_image(path).size
    assert frame.upright(box).xyxy == shown.getbbox()


def test_field_d1_boxes_on_stored_pixels_are_turned_upright(posts: Path) -> None:
    (as_upright,) = read_splits(posts, "jsonl")
    (turned,) = read_splits(posts, "jsonl", boxes="stored")
    assert as_upright.posts[0].entities[0].boxes == (STORED,)
    assert turned.posts[0].entities[0].boxes == (UPRIGHT,)
    assert (as_upright.turned, turned.turned) == (0, 1)
    assert fingerprint(as_upright.posts) != fingerprint(turned.posts)


def test_field_d1_training_reads_the_frame_that_its_config_names(voc: tuple[Path, Path]) -> None:
    source, images = map(str, voc)
    plain = read_release(GmnerData(source=source, images=images))
    turned = read_release(GmnerData(source=source, images=images, boxes="stored"))
    assert [case.entity.boxes for case in plain.cases("train")] == [(STORED,)]
    assert [case.entity.boxes for case in turned.cases("train")] == [(UPRIGHT,)]
    assert turned.sizes_wh_px["train1"] == (200, 300)
    assert plain.fingerprints() != turned.fingerprints()
    labelled = PostsData(source=source, images=images, boxes="stored")
    assert read_labelled(labelled, ["dev"], TWITTER)["dev"][0].entities[0].boxes == (UPRIGHT,)


def test_field_d1_a_flow_keeps_posts_whose_image_is_not_there(voc: tuple[Path, Path]) -> None:
    source, images = voc
    (images / "dev1.jpg").unlink()
    corpus = read_release(GmnerData(source=str(source), images=str(images), boxes="stored"))
    assert [len(corpus.splits[name]) for name in ("train", "dev", "test")] == [1, 1, 1]
    assert not corpus.cases("dev")


@pytest.mark.parametrize("target", ["jsonl", "twitter-gmner", "ccks"])
def test_field_d1_convert_writes_upright_boxes_and_says_so(
    voc: tuple[Path, Path], tmp_path: Path, data_command: Callable[..., Any], target: str
) -> None:
    source, images = voc
    out = tmp_path / "out"
    done = data_command(
        *("convert", source, out, "--to", target, "--images", images, "--split", "test"),
        *("--boxes", "stored"),
    )
    assert done.code == 0
    assert "boxes are upright now (those of 1 posts were turned)" in done.out
    (back,) = read_splits(out, target, images, scheme=TWITTER)
    assert back.posts[0].entities[0].boxes == (UPRIGHT,)
    if target == "twitter-gmner":
        assert back.xml_sizes == {"test1": (200, 300)}


def test_field_d1_split_writes_upright_boxes(
    posts: Path, tmp_path: Path, data_command: Callable[..., Any]
) -> None:
    out = tmp_path / "honest"
    done = data_command("split", posts, out, "--held-out", "0", "--boxes", "stored")
    assert done.code == 0
    assert read_posts(out / "train.jsonl").posts[0].entities[0].boxes == (UPRIGHT,)


def test_field_d1_check_tells_which_setting_looks_right(
    posts: Path, data_command: Callable[..., Any]
) -> None:
    plain = data_command("check", posts, "--json").json["problems"]
    assert {problem["kind"] for problem in plain} == {"box-outside-image", "box-frame"}
    assert "--boxes stored" in next(p["message"] for p in plain if p["kind"] == "box-frame")
    assert data_command("check", posts, "--json", "--boxes", "stored").json["problems"] == []


def test_field_d1_check_tells_it_the_other_way_round(
    posts: Path, data_command: Callable[..., Any]
) -> None:
    write_posts_file(posts, Box(10, 210, 150, 290))
    found = data_command("check", posts, "--boxes", "stored", "--json").json["problems"]
    assert {problem["kind"] for problem in found} == {"box-outside-image", "box-frame"}
    assert "--boxes upright" in next(p["message"] for p in found if p["kind"] == "box-frame")


def test_field_d1_check_takes_the_size_that_xml_states_as_evidence(
    voc: tuple[Path, Path], data_command: Callable[..., Any]
) -> None:
    source, images = voc
    plain = data_command("check", source, "--images", images, "--json").json["problems"]
    assert [p["kind"] for p in plain].count("image-size-differs") == 3
    assert [p["kind"] for p in plain].count("box-frame") == 1
    stored = data_command("check", source, "--images", images, "--boxes", "stored", "--json")
    assert stored.json["problems"] == []


@pytest.mark.parametrize("spoil", ["missing", "broken"])
def test_field_d1_boxes_that_cannot_be_turned_are_refused_or_left_out(
    posts: Path, tmp_path: Path, spoil: str, data_command: Callable[..., Any]
) -> None:
    image = tmp_path / "images" / "p1.jpg"
    image.unlink() if spoil == "missing" else image.write_bytes(b"GIF")
    with pytest.raises(DataError, match=r"'p1' are on stored pixels and cannot be turned"):
        read_splits(posts, "jsonl", boxes="stored")
    (split,) = read_splits(posts, "jsonl", boxes="stored", skip_bad=True)
    assert (split.posts, [one.kind for one in split.skipped]) == ((), ["unturned-boxes"])
    done = data_command("stats", posts, "--boxes", "stored")
    assert (done.code, done.err.count("\n")) == (2, 1)
