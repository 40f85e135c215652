from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from groundling.config import GmnerData, ToyworldData
from groundling.corpus import (
    Case,
    Corpus,
    draw_labelled,
    draw_world,
    read_corpus,
    read_release,
    read_world,
    split_training,
)
from groundling.errors import DataError, InputError
from groundling.records import Box, Entity, Post, Query


def cases(count: int) -> list[Case]:
    entity = Entity("Ann", "PER", 0, 1)
    return [Case(Query(f"p{i}#0", "a.jpg", "Ann", "PER"), entity) for i in range(count)]


def ids(part: list[Case]) -> list[str]:
    return [case.query.id for case in part]


# ------------------------------------------------------------------------ D_SFT and D_PL


@pytest.mark.parametrize("size", [0, 1, 7, 19])
def test_training_is_split_in_two_without_loss(size: int) -> None:
    everything = cases(20)
    first, rest = split_training(everything, size, seed=3)
    assert len(first) == size
    order = {query_id: place for place, query_id in enumerate(ids(everything))}
    for part in (first, rest):
        assert ids(part) == sorted(ids(part), key=order.__getitem__)  # in corpus order
    assert Counter(ids(first) + ids(rest)) == Counter(ids(everything))


def test_the_split_is_seeded_and_random() -> None:
    everything = cases(200)
    first = ids(split_training(everything, 50, 1)[0])
    assert ids(split_training(everything, 50, 1)[0]) == first
    assert ids(split_training(everything, 50, 2)[0]) != first
    counts: Counter[str] = Counter()
    for seed in range(1000):
        counts.update(ids(split_training(cases(20), 5, seed)[0]))
    assert all(abs(counts[f"p{i}#0"] - 250) < 60 for i in range(20))


# ------------------------------------------------------------------------------- a corpus

POSTS = (
    Post("p0", ("Ann", "Bob"), (Entity("Ann", "PER", 0, 1), Entity("Bob", "PER", 1, 2)), "a.jpg"),
    Post("p1", ("Cy",), (Entity("Cy", "PER", 0, 1),), None),
    Post("p2", ("hm",), (), "b.jpg"),
)


def test_a_case_needs_a_picture() -> None:
    corpus = Corpus({"train": POSTS, "dev": POSTS[:1], "test": ()}, {})
    assert ids(corpus.cases("train")) == ["p0#0", "p0#1"]
    assert [case.entity.name for case in corpus.cases("train")] == ["Ann", "Bob"]
    assert corpus.pictures() == ["a.jpg", "b.jpg"]
    assert corpus.without_picture() == 1


def test_labelled_posts_are_drawn_by_the_seed_and_in_order() -> None:
    posts = [Post(f"p{number:02}", ("w",), ()) for number in range(40)]
    few, more = draw_labelled(posts, 8, 0), draw_labelled(posts, 20, 0)
    assert (len(few), len(more)) == (8, 20)
    assert more == sorted(more, key=lambda post: post.id)
    assert {post.id for post in few} < {post.id for post in more}
    assert draw_labelled(posts, 8, 1) != few
    assert draw_labelled(posts, None, 0) == posts


def test_the_embedded_world_comes_with_its_judge(tmp_path: Path) -> None:
    data = ToyworldData(train_queries=14, validation_queries=6, test_queries=5)
    draw_world(tmp_path, data, seed=4)
    corpus = read_world(tmp_path, 4)
    counts = {split: len(corpus.cases(split)) for split in corpus.splits}
    assert counts == {"train": 14, "dev": 6, "test": 5}
    assert corpus.without_picture() == 0
    assert corpus.judge is not None
    assert corpus.annotate is not None
    there = [case for case in corpus.cases("train") if case.entity.groundable]
    assert there
    for case in there:
        expert = corpus.annotate(case.query.id)
        assert corpus.judge(case.query.id, expert.text) == "exact"
        assert corpus.judge(case.query.id, "blah") == "not understood"
    shown = {case.query.id.rpartition("#")[0] for case in there}
    assert set(corpus.sizes_wh_px.values()) == {(224, 224)}
    assert shown <= corpus.sizes_wh_px.keys()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Three splits of one post; only the training post has a picture."""
    (tmp_path / "txt").mkdir()
    (tmp_path / "xml").mkdir()
    (tmp_path / "pictures").mkdir()
    for split in ("train", "dev", "test"):
        text = f"IMGID:{split}1\nAnn\tB-PER\nhere\tO\n\n"
        (tmp_path / "txt" / f"{split}.txt").write_text(text)
    Image.new("RGB", (30, 20)).save(tmp_path / "pictures" / "train1.jpg")
    (tmp_path / "xml" / "train1.xml").write_text(
        "<annotation><size><width>30</width><height>20</height></size><object><name>Ann</name>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox></object>"
        "</annotation>"
    )
    return tmp_path


def test_a_real_release(release: Path) -> None:
    config = GmnerData(source=str(release), images=str(release / "pictures"))
    corpus = read_release(config)
    (case,) = corpus.cases("train")
    assert case.entity == Entity("Ann", "PER", 0, 1, (Box(1, 2, 9, 8),))
    assert case.query.image == str(release / "pictures" / "train1.jpg")
    assert corpus.cases("test") == []
    assert corpus.without_picture() == 2
    assert corpus.sizes_wh_px == {"train1": (30, 20)}
    assert (corpus.judge, corpus.annotate) == (None, None)


def test_a_query_carries_nothing_of_the_answer(release: Path) -> None:
    """Not the boxes, nor anything that only posts with boxes have."""
    config = GmnerData(source=str(release), images=str(release / "pictures"))
    (case,) = read_release(config).cases("train")
    assert case.query == Query("train1#0", str(release / "pictures" / "train1.jpg"), "Ann", "PER")


def test_what_is_missing_is_said(release: Path) -> None:
    pictures = release / "pictures"
    with pytest.raises(InputError, match="no such folder"):
        read_release(GmnerData(source=str(release), images=str(release / "gone")))
    (pictures / "train1.jpg").unlink()
    with pytest.raises(DataError, match="no picture of any post"):
        read_corpus(release, pictures)
    (release / "txt" / "dev.txt").unlink()
    with pytest.raises(DataError, match="dev"):
        read_corpus(release, pictures)
