from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from groundling.data.check import check_data
from groundling.data.gmner import read_gmner
from groundling.errors import DataError
from groundling.records import ABSENT, ENTITY_TYPES, Entity, Post, is_absent
from groundling.toyworld import identities as who
from groundling.toyworld.language import means
from groundling.toyworld.posts import (
    SOURCE,
    VAGUE,
    WorldJudge,
    WorldPost,
    boxes_of,
    draw_posts,
    read_scenes,
    write_world,
)
from groundling.toyworld.scene import SIZE_PX, TYPE_OF_REFERENT

QUERIES = {"train": 60, "dev": 25, "test": 30}


def written(folder: Path, seed: int) -> Path:
    folder.mkdir()
    write_world(folder, QUERIES, seed)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("worlds") / "one", 5)


def posts_of(world: Path, split: str) -> list[Post]:
    return list(read_gmner(world, split, world / "images").posts)


def test_a_seed_decides_every_byte(world: Path, tmp_path: Path) -> None:
    first = digests(world)
    assert digests(written(tmp_path / "again", 5)) == first
    other = digests(written(tmp_path / "other", 6))
    pictures = {digest for name, digest in first.items() if name.endswith(".jpg")}
    assert len(pictures) == sum(name.endswith(".jpg") for name in first)
    assert not pictures & set(other.values())


def test_another_seed_speaks_of_the_same_people() -> None:
    for seed in (1, 2):
        for drawn in draw_posts("train", 80, seed):
            for entity in drawn.post.entities:
                type_, _ = who.NAMES[entity.name]
                assert entity.type == type_


@pytest.mark.parametrize("split", QUERIES)
def test_what_was_drawn_is_what_is_read(world: Path, split: str) -> None:
    drawn = draw_posts(split, QUERIES[split], 5)
    found = posts_of(world, split)
    assert [(p.id, p.tokens, p.entities) for p in found] == [
        (d.post.id, d.post.tokens, d.post.entities) for d in drawn
    ]
    assert sum(len(post.entities) for post in found) == QUERIES[split]
    assert [read_scenes(world)[post.id] for post in found] == [d.scene for d in drawn]
    for post in found:
        assert post.image == str(world / "images" / f"{post.id}.jpg")
        with Image.open(post.image) as picture:
            assert picture.size == (SIZE_PX, SIZE_PX)


def test_a_posts_boxes_are_those_of_its_scene() -> None:
    for drawn in draw_posts("dev", 200, 1):
        for entity in drawn.post.entities:
            assert entity.boxes == boxes_of(drawn.scene, entity.name)
            named = [r for r in drawn.scene.referents() if r.name == entity.name]
            assert entity.groundable == bool(named)
            assert {TYPE_OF_REFERENT[r.kind] for r in named} <= {entity.type}


def test_presence_shows_in_no_word() -> None:
    """For each type, the words around a name are drawn alike whether it is there or not."""
    around: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for drawn in draw_posts("train", 6000, 2):
        tokens = ("", *drawn.post.tokens, "")
        for entity in drawn.post.entities:
            words = f"{tokens[entity.start]} … {tokens[entity.end + 1]}"
            around[entity.type, entity.groundable][words] += 1
    for kind in ENTITY_TYPES:
        there, absent = around[kind, True], around[kind, False]
        for words in there | absent:
            gap = there[words] / there.total() - absent[words] / absent.total()
            assert abs(gap) < 0.06, words


def test_vague_words_fit_any_type() -> None:
    def before(drawn: WorldPost, entity: Entity) -> str:
        return " ".join(drawn.post.tokens[: entity.start])

    openings = {clause.partition(" {}")[0] for clause in VAGUE if not clause.startswith("{}")}
    after = {clause.removeprefix("{} ") for clause in VAGUE if clause.startswith("{}")}
    count = Counter[str]()
    for drawn in draw_posts("dev", 400, 1, vague=1.0):
        for one in drawn.post.entities:
            follows = drawn.post.tokens[one.end] if one.end < len(drawn.post.tokens) else ""
            assert before(drawn, one).endswith(tuple(openings)) or follows in after
            count[one.type] += 1
    assert set(count) == set(ENTITY_TYPES)
    assert draw_posts("dev", 60, 1, vague=0.0) == draw_posts("dev", 60, 1)


def test_shares() -> None:
    """About half is there; of what is not, half is of a type that is: that takes a look."""
    entities: list[tuple[Entity, bool]] = []
    for drawn in draw_posts("train", 6000, 0):
        there = {TYPE_OF_REFERENT[r.kind] for r in drawn.scene.referents()}
        entities += [(entity, entity.type in there) for entity in drawn.post.entities]
    groundable = [entity for entity, _ in entities if entity.groundable]
    absent = [type_is_there for entity, type_is_there in entities if not entity.groundable]
    several = [entity for entity in groundable if len(entity.boxes) > 1]
    types = Counter(entity.type for entity, _ in entities)
    assert len(entities) == 6000
    assert 0.38 < len(groundable) / len(entities) < 0.45
    assert 0.46 < sum(absent) / len(absent) < 0.54
    assert 0.002 < len(several) / len(groundable) < 0.02
    assert all(count > 600 for count in types.values())
    assert {entity.name for entity, _ in entities} == set(who.NAMES)


def test_a_written_world_has_no_problem(world: Path) -> None:
    assert check_data(world, "twitter-gmner", world / "images") == []


# -------------------------------------------------------------------------------- the judge


@pytest.fixture(scope="module")
def judge(world: Path) -> WorldJudge:
    return WorldJudge(read_scenes(world), [posts_of(world, split) for split in QUERIES], 5)


def test_expert_expressions_are_exact_or_absent(world: Path, judge: WorldJudge) -> None:
    scenes = read_scenes(world)
    for split in QUERIES:
        for post in posts_of(world, split):
            for query, entity in zip(post.queries(), post.entities, strict=True):
                expert = judge.annotate(query.id)
                assert expert == judge.annotate(query.id)
                assert expert.source == SOURCE
                assert expert.absent != entity.groundable
                if entity.groundable:
                    assert judge.verdict(query.id, expert.text) == "exact"
                    meant = means(expert.text, scenes[post.id])
                    assert meant is not None
                    assert [r.box for r in meant] == [entity.largest_box]
                else:
                    assert expert.text == ABSENT


def test_experts_do_not_depend_on_the_other_queries(world: Path, judge: WorldJudge) -> None:
    post = next(p for p in posts_of(world, "test") if any(e.groundable for e in p.entities))
    scenes = read_scenes(world)
    alone = WorldJudge(scenes, [[post]], 5)
    other = WorldJudge(scenes, [posts_of(world, split) for split in QUERIES], 6)
    ids = [query.id for query in post.queries()]
    assert [alone.annotate(i) for i in ids] == [judge.annotate(i) for i in ids]
    everyone = [q.id for p in posts_of(world, "train") for q in p.queries()]
    assert [other.annotate(i) for i in everyone] != [judge.annotate(i) for i in everyone]


def test_verdicts(world: Path, judge: WorldJudge) -> None:
    scenes = read_scenes(world)
    seen: Counter[str] = Counter()
    for post in posts_of(world, "train"):
        for query, entity in zip(post.queries(), post.entities, strict=True):
            for words in ("the person", "the logo", "the biggest building", "hello there", ABSENT):
                verdict = judge.verdict(query.id, words)
                meant = means(words, scenes[post.id])
                hit = [r for r in meant or () if r.box in entity.boxes]
                assert (verdict == "not understood") == (meant is None)
                assert (verdict == "wrong") == (meant is not None and not hit)
                assert (verdict == "exact") == bool(hit and len(hit) == len(meant or ()))
                seen[verdict] += 1
                assert is_absent(words) <= (verdict == "not understood")
    assert set(seen) == {"exact", "ambiguous", "wrong", "not understood"}


def test_damaged_scenes_are_told_by_line(world: Path, tmp_path: Path) -> None:
    lines = (world / "scenes.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    for damaged in ("{", "[]", '{"id": "x"}', json.dumps({**row, "scene": {"figures": [{}]}})):
        (tmp_path / "scenes.jsonl").write_text("\n".join([lines[0], damaged]) + "\n")
        with pytest.raises(DataError, match=r"scenes\.jsonl:2: not a scene"):
            read_scenes(tmp_path)
