from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_files import voc

from groundling.data.gmner import available_splits, read_gmner, write_gmner_split
from groundling.errors import DataError, InputError
from groundling.records import Box, Entity, Post

TEXT = """\
IMGID:p1
Lady\tB-PER
Gaga\tI-PER
in\tO
NYC\tB-LOC

IMGID:p2
Apple\tB-OTHER

"""


def test_an_entity_is_groundable_iff_its_name_has_a_box(release: Any) -> None:
    src = release(
        {"test": TEXT},
        {
            "p1": voc(
                ("Lady Gaga", (1, 2, 9, 8)), ("nyc", (1, 1, 2, 2)), ("Lady Gaga", (3, 3, 4, 9))
            )
        },
    )
    split = read_gmner(src, "test")
    gaga = Entity("Lady Gaga", "PER", 0, 2, (Box(1, 2, 9, 8), Box(3, 3, 4, 9)))
    assert split.posts == (
        Post("p1", ("Lady", "Gaga", "in", "NYC"), (gaga, Entity("NYC", "LOC", 3, 4))),
        Post("p2", ("Apple",), (Entity("Apple", "MISC", 0, 1),)),
    )
    assert (split.name, split.without_xml, split.missing_images) == ("test", 1, ())


def test_the_picture_size_stays_beside_the_posts(release: Any) -> None:
    src = release({"test": TEXT}, {"p1": voc(("NYC", (1, 2, 9, 8)), size=(31, 41))})
    split = read_gmner(src, "test")
    assert split.xml_sizes == {"p1": (31, 41)}
    names = {field.name for field in dataclasses.fields(split.posts[0])}
    assert names == {"id", "tokens", "entities", "image", "knowledge"}


def test_every_mention_gets_all_the_boxes(release: Any) -> None:
    text = "IMGID:p1\nNYC\tB-LOC\n,\tO\nNYC\tB-LOC\n"
    src = release({"dev": text}, {"p1": voc(("NYC", (1, 2, 9, 8)), ("NYC", (1, 2, 3, 4)))})
    first, second = read_gmner(src, "dev").posts[0].entities
    assert first.boxes == second.boxes == (Box(1, 2, 9, 8), Box(1, 2, 3, 4))


def test_an_xml_belongs_to_the_post_it_is_named_after(release: Any) -> None:
    src = release({"test": TEXT}, {"p1": voc(("Apple", (1, 2, 3, 4)), filename="p2.jpg")})
    assert not any(e.groundable for post in read_gmner(src, "test").posts for e in post.entities)


def test_an_orphan_tag_opens_an_entity_that_can_be_boxed(release: Any) -> None:
    src = release(
        {"train": "IMGID:p1\nthe\tO\nPark\tI-LOC\nLane\tI-LOC\n"},
        {"p1": voc(("Park Lane", (1, 2, 3, 4)))},
    )
    assert read_gmner(src, "train").posts[0].entities == (
        Entity("Park Lane", "LOC", 1, 3, (Box(1, 2, 3, 4),)),
    )


# --- pictures ----------------------------------------------------------------------------------


def test_pictures_are_found_and_absent_ones_reported(
    release: Any, picture: Any, tmp_path: Path
) -> None:
    src = release({"test": TEXT})
    found = picture(tmp_path / "images" / "twitter2017_images" / "p1.jpeg")
    split = read_gmner(src, "test", tmp_path / "images")
    assert [post.image for post in split.posts] == [str(found), None]
    assert split.missing_images == ("p2",)
    assert [post.image for post in read_gmner(src, "test").posts] == [None, None]


def test_a_missing_image_folder_is_an_error(release: Any, tmp_path: Path) -> None:
    src = release({"test": TEXT})
    with pytest.raises(InputError, match="no such image folder"):
        read_gmner(src, "test", tmp_path / "nowhere")


# --- what is wrong -----------------------------------------------------------------------------


def test_splits_come_in_their_usual_order(release: Any) -> None:
    src = release({"test": "", "val": "", "dev": "", "train": "", "._train": "", "extra": ""})
    assert available_splits(src) == ("train", "dev", "test", "extra", "val")


def test_only_the_splits_there_are_read(release: Any) -> None:
    src = release({"test": TEXT})
    assert available_splits(src) == ("test",)
    with pytest.raises(DataError, match="no split 'train'; it holds test"):
        read_gmner(src, "train")


def test_a_folder_in_another_layout_is_refused(release: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        available_splits(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a file; wanted a folder"):
        available_splits(Path(__file__))
    with pytest.raises(DataError, match="wanted the unpacked release"):
        available_splits(tmp_path)
    src = release({})
    with pytest.raises(DataError, match="release has one: pass that"):
        available_splits(tmp_path)
    with pytest.raises(DataError, match="holds no split"):
        available_splits(src)
    (src / "xml").rmdir()
    with pytest.raises(DataError, match="xml/ is not"):
        available_splits(src)


@pytest.mark.parametrize("fault", ["text", "xml"])
def test_a_bad_post_is_refused_or_left_out_and_recorded(release: Any, fault: str) -> None:
    xml = {"p1": voc(("NYC", (9, 2, 3, 8)))} if fault == "xml" else {}
    src = release({"test": TEXT if fault == "xml" else TEXT.replace("in\tO", "in")}, xml)
    with pytest.raises(DataError) as caught:
        read_gmner(src, "test")
    split = read_gmner(src, "test", skip_bad=True)
    assert [post.id for post in split.posts] == ["p2"]
    assert [(skip.file, skip.line) for skip in split.skipped] == [
        (str(caught.value.path), caught.value.line)
    ]
    assert caught.value.path.name == ("p1.xml" if fault == "xml" else "test.txt")


def test_a_quirk_is_no_reason_to_leave_a_post_out(release: Any) -> None:
    src = release({"test": TEXT}, {"p1": voc(("nobody\n", (1, 2, 3, 800)), filename="else.png")})
    assert len(read_gmner(src, "test").posts) == 2
    assert read_gmner(src, "test", skip_bad=True).skipped == ()


# --- writing -----------------------------------------------------------------------------------

TOKEN = st.text(
    st.one_of(
        st.sampled_from("aB&<>\"'-’\u200b\u200d\u2028\u0085\u00a0\r\ufffd 👩 "),
        st.characters(codec="utf-8", exclude_characters="\t\n\ufffe\uffff", min_codepoint=32),
    ),
    min_size=1,
    max_size=5,
)
POST_ID = st.from_regex(r"[A-Za-z0-9_][\w. -]{0,6}[\w-]", fullmatch=True, alphabet=st.characters())
COORDINATE = st.integers(-3, 900)


@st.composite
def boxes_px(draw: st.DrawFn) -> Box:
    x1, y1 = draw(COORDINATE), draw(COORDINATE)
    return Box(x1, y1, x1 + draw(st.integers(1, 500)), y1 + draw(st.integers(1, 500)))


@st.composite
def posts(draw: st.DrawFn) -> Post:
    tokens = tuple(draw(st.lists(TOKEN, max_size=8)))
    entities: list[Entity] = []
    owned: dict[str, tuple[Box, ...]] = {}
    start = 0
    while start < len(tokens):
        end = start + draw(st.integers(1, 3))
        if end <= len(tokens) and draw(st.booleans()):
            name = " ".join(tokens[start:end])
            if name not in owned:
                owned[name] = tuple(draw(st.lists(boxes_px(), max_size=3)))
            kind = draw(st.sampled_from(("PER", "LOC", "ORG", "MISC")))
            entities.append(Entity(name, kind, start, end, owned[name]))
        start = end
    return Post(draw(POST_ID), tokens, tuple(entities))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(posts(), max_size=4, unique_by=lambda post: post.id), st.data())
def test_what_is_written_reads_back(written: list[Post], data: st.DataObject) -> None:
    sides = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
    sizes = {post.id: data.draw(sides) for post in written if data.draw(st.booleans())}
    with tempfile.TemporaryDirectory() as folder:
        write_gmner_split(folder, "train", written, sizes)
        split = read_gmner(folder, "train")
        boxed = {post.id for post in written if any(e.groundable for e in post.entities)}
        assert split.posts == tuple(written)
        assert split.xml_sizes == {key: sizes[key] for key in boxed if key in sizes}
        assert {path.stem for path in Path(folder, "xml").iterdir()} == boxed


def entity(name: str = "a b", start: int = 0, end: int = 2, *boxes: Box) -> Entity:
    return Entity(name, "PER", start, end, boxes)


@pytest.mark.parametrize(
    ("post", "words"),
    [
        (Post("a/b", ("x",)), "cannot name a file"),
        (Post("a", ("x\ty",)), "does not fit a line"),
        (Post("a", ("x\ny",)), "does not fit a line"),
        (Post("a", ("",)), "does not fit a line"),
        (Post("a", ("\ud800",)), "does not fit a line"),
        (Post("a", ("a", "b"), (entity("a B"),)), "'a B' is called 'a b'"),
        (Post("a", ("a", "b"), (entity("b", 1, 3),)), "leave the text|out of order"),
        (Post("a", ("a", "b"), (entity("", 1, 1),)), "overlap or leave the text"),
        (Post("a", ("a", "b"), (entity(), entity("b", 1, 2))), "overlap"),
        (Post("a", ("a", "b"), (entity("b", 1, 2), entity("a", 0, 1))), "out of order"),
        (
            Post("a", ("a", "a"), (entity("a", 0, 1, Box(1, 2, 3, 4)), entity("a", 1, 2))),
            "differ in boxes",
        ),
        (Post("a", ("a", "b"), (entity("a b", 0, 2, Box(1, 2, 3.5, 4)),)), "whole pixels"),
        (Post("a", ("\x01",), (entity("\x01", 0, 1, Box(1, 2, 3, 4)),)), "which XML cannot"),
    ],
)
def test_a_post_the_layout_cannot_hold_writes_nothing(
    tmp_path: Path, post: Post, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        write_gmner_split(tmp_path, "train", [Post("fine", ("x",)), post], {})
    assert list(tmp_path.iterdir()) == []


def test_ids_are_unique_and_split_names_are_plain(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="comes twice"):
        write_gmner_split(tmp_path, "train", [Post("a", ()), Post("a", ())], {})
    with pytest.raises(InputError, match="cannot name a split"):
        write_gmner_split(tmp_path, "../train", [], {})


def test_rewriting_a_split_leaves_no_stale_boxes(tmp_path: Path) -> None:
    boxed = Post("a", ("a",), (entity("a", 0, 1, Box(1, 2, 3, 4)),))
    bare = Post("a", ("a",), (entity("a", 0, 1),))
    write_gmner_split(tmp_path, "train", [boxed], {})
    write_gmner_split(tmp_path, "test", [Post("b", ("b",))], {})
    write_gmner_split(tmp_path, "train", [bare], {})
    assert read_gmner(tmp_path, "train").posts == (bare,)
    assert list((tmp_path / "xml").iterdir()) == []
    assert available_splits(tmp_path) == ("train", "test")


def test_other_is_what_stands_on_disk(tmp_path: Path) -> None:
    post = Post("a", ("x", "y"), (Entity("x y", "MISC", 0, 2, (Box(1, 2, 3, 4),)),))
    write_gmner_split(tmp_path, "train", [post], {"a": (30, 20)})
    text = (tmp_path / "txt" / "train.txt").read_bytes()
    assert text == b"IMGID:a\nx\tB-OTHER\ny\tI-OTHER\n\n"
    xml = (tmp_path / "xml" / "a.xml").read_text(encoding="utf-8")
    assert "<filename>a.jpg</filename>" in xml
    assert "<xmax>3</xmax>" in xml
