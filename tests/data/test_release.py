"""The released data against its known figures; skipped where it is not beside the checkout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from groundling.data.check import check_data
from groundling.data.gmner import available_splits, read_gmner, write_gmner_split
from groundling.data.problems import Problem
from groundling.records import Box


def by_type(per: int, loc: int, org: int, misc: int, total: int) -> dict[str, int]:
    return {"PER": per, "LOC": loc, "ORG": org, "MISC": misc, "all": total}


V2 = {
    "train": {
        "posts": 7000,
        "entities": by_type(5019, 1918, 3035, 1807, 11779),
        "groundable": by_type(3266, 168, 834, 465, 4733),
        "boxes": 5723,
        "several_boxes": 421,
        "without_xml": 3075,
        "images_found": 0,
        "skipped": 0,
    },
    "dev": {
        "posts": 1500,
        "entities": by_type(1072, 407, 595, 376, 2450),
        "groundable": by_type(698, 42, 139, 112, 991),
        "boxes": 1171,
        "several_boxes": 85,
        "without_xml": 668,
        "images_found": 0,
        "skipped": 0,
    },
    "test": {
        "posts": 1500,
        "entities": by_type(1104, 404, 638, 397, 2543),
        "groundable": by_type(711, 40, 181, 114, 1046),
        "boxes": 1254,
        "several_boxes": 103,
        "without_xml": 645,
        "images_found": 0,
        "skipped": 0,
    },
}
"""The v2 table; its test row is the paper's Table 5."""


@pytest.fixture(scope="session")
def v1_problems(gmner_v1: Path) -> list[Problem]:
    return check_data(gmner_v1, "twitter-gmner")


@pytest.fixture(scope="session")
def v2_problems(gmner_v2: Path) -> list[Problem]:
    return check_data(gmner_v2, "twitter-gmner")


def test_v2_counts(gmner_v2: Path, data_command: Any) -> None:
    found = data_command("stats", gmner_v2, "--format", "twitter-gmner", "--json")
    assert found.code == 0
    assert found.json == {"splits": V2}
    assert list(found.json["splits"]) == ["train", "dev", "test"]


def test_v1_counts(gmner_v1: Path, data_command: Any) -> None:
    splits = data_command("stats", gmner_v1, "--json").json["splits"]
    figures = {name: (s["entities"]["all"], s["groundable"]["all"]) for name, s in splits.items()}
    assert figures == {"train": (11782, 4694), "dev": (2453, 986), "test": (2543, 1036)}


def test_v1_orphan_tags_lie_where_they_are_known_to(v1_problems: list[Problem]) -> None:
    orphans = [problem for problem in v1_problems if problem.kind == "orphan-inside"]
    found: dict[str, set[str]] = {}
    for problem in orphans:
        lines = Path(problem.file).read_text(encoding="utf-8").split("\n")
        assert problem.line is not None
        assert lines[problem.line - 1].split("\t")[1].startswith("I-")
        above = range(problem.line - 1, -1, -1)
        head = next(lines[at] for at in above if lines[at].startswith("IMGID:"))
        found.setdefault(Path(problem.file).stem, set()).add(head.removeprefix("IMGID:"))
    assert len(orphans) == 8
    assert found == {
        "train": {"117533", "34026", "951168", "34965"},
        "dev": {"72448", "31911", "221490"},
        "test": {"15427"},
    }


def test_v1_quirks(v1_problems: list[Problem]) -> None:
    assert Counter(problem.kind for problem in v1_problems) == {
        "filename-differs": 766,
        "unmatched-object": 60,
        "odd-character": 146,  # 131 of them a variation selector alone
        "orphan-inside": 8,
        "name-whitespace": 2,
        "type-conflict": 1,
    }
    newlines = [Path(p.file).stem for p in v1_problems if p.kind == "name-whitespace"]
    assert newlines == ["2115416", "O_41"]


def test_v2_quirks(v2_problems: list[Problem]) -> None:
    assert Counter(problem.kind for problem in v2_problems) == {
        "filename-differs": 765,
        "odd-character": 146,  # 131 of them a variation selector alone
        "type-conflict": 1,
    }
    conflict = next(problem for problem in v2_problems if problem.kind == "type-conflict")
    assert Path(conflict.file).name == "train.txt"
    assert "'Canada' (post 17_01_13620) is LOC before and ORG here" in conflict.message


def test_v2_coordinates_and_names_are_raw(gmner_v2: Path) -> None:
    splits = [read_gmner(gmner_v2, name) for name in available_splits(gmner_v2)]
    entities = [e for split in splits for post in split.posts for e in post.entities]
    boxes = {box for entity in entities for box in entity.boxes}
    assert min(min(box.x1, box.y1) for box in boxes) == 1
    assert all(value.is_integer() for box in boxes for value in box.xyxy)
    assert any("&amp" in entity.name and entity.groundable for entity in entities)
    bieber = next(p for split in splits for p in split.posts if p.id == "1000046")
    assert Box(132, 22, 500, 706) in [b for e in bieber.entities for b in e.boxes]


def test_v2_round_trip(gmner_v2: Path, tmp_path: Path) -> None:
    split = read_gmner(gmner_v2, "test")
    write_gmner_split(tmp_path, "test", split.posts, split.xml_sizes)
    again = read_gmner(tmp_path, "test")
    assert again.posts == split.posts
    assert again.xml_sizes == split.xml_sizes
    assert again.without_xml == split.without_xml


def test_the_22_posts_with_their_pictures(gmner_22: Path, data_command: Any) -> None:
    images = gmner_22 / "images"
    found = data_command("stats", gmner_22, "--images", images, "--json").json["splits"]
    assert list(found) == ["test"]
    assert (found["test"]["posts"], found["test"]["images_found"]) == (22, 22)
    checked = data_command("check", gmner_22, "--images", images, "--json")
    assert checked.code == 1
    kinds = [problem["kind"] for problem in checked.json["problems"]]
    assert kinds == ["odd-character", "filename-differs", "filename-differs"]
