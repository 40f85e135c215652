from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from release_files import voc

from groundling.data.gmner import Split
from groundling.data.problems import Problem
from groundling.data.stats import format_stats, split_stats
from groundling.records import Box, Entity, Post

BOXES = (Box(1, 2, 3, 4), Box(1, 2, 30, 40))
POSTS = (
    Post(
        "p1",
        ("a", "b", "a"),
        (
            Entity("a", "PER", 0, 1, BOXES),
            Entity("b", "LOC", 1, 2),
            Entity("a", "PER", 2, 3, BOXES),
        ),
    ),
    Post("p2", ("c",), (Entity("c", "MISC", 0, 1, BOXES[:1]),)),
    Post("p3", ("d",)),
)


def test_each_mention_counts() -> None:
    skipped = (Problem("f", 1, "malformed-line", "m"),)
    stats = split_stats(Split("dev", POSTS, {}, 1, ("p3",), skipped))
    assert stats.as_json() == {
        "posts": 3,
        "entities": {"PER": 2, "LOC": 1, "ORG": 0, "MISC": 1, "all": 4},
        "groundable": {"PER": 2, "LOC": 0, "ORG": 0, "MISC": 1, "all": 3},
        "boxes": 5,
        "several_boxes": 2,
        "without_xml": 1,
        "images_found": 0,
        "skipped": 1,
    }


def test_a_picture_counts_where_its_file_is(picture: Any, tmp_path: Path) -> None:
    found = picture(tmp_path / "a.jpg")
    posts = (Post("a", (), image=str(found)), Post("b", (), image=str(tmp_path / "b.jpg")))
    assert split_stats(Split("dev", posts)).images_found == 1


def test_the_table_shows_counts_shares_and_what_was_left_out() -> None:
    stats = split_stats(Split("dev", POSTS, {}, 1, (), (Problem("f", 1, "crlf", "m"),)))
    table = format_stats([("dev", stats), ("test", split_stats(Split("test", ())))]).splitlines()
    assert table[0].split() == ["split", "PER", "LOC", "ORG", "MISC", "all"]
    assert table[1].split() == ["dev", "entities", "2", "1", "0", "1", "4"]
    assert table[2].split() == ["groundable", "2", "0", "0", "1", "3"]
    assert table[3].split() == ["share", "100.0", "%", "0.0", "%", "–", "100.0", "%", "75.0", "%"]
    assert "3 posts (1 without XML), 0 of their pictures found" in table[4]
    assert "5 (entity, box) pairs; with several boxes: 2" in table[5]
    assert "1 faults; their posts are left out" in table[6]
    assert table[7].split() == ["test", "entities", "0", "0", "0", "0", "0"]
    assert len({len(line) for line in (table[0], *table[1:4])}) == 1


def test_stats_command_on_a_release(release: Any, data_command: Any, picture: Any) -> None:
    text = "IMGID:p1\nNYC\tB-LOC\n\nIMGID:p2\nx\tO\n"
    src = release({"test": text}, {"p1": voc(("NYC", (1, 2, 3, 4)))})
    images = picture(src / "images" / "p2.png").parent
    command = ["stats", src, "--format", "twitter-gmner", "--images", images]
    found = data_command(*command, "--json")
    assert found.code == 0
    assert found.json == {
        "splits": {
            "test": {
                "posts": 2,
                "entities": {"PER": 0, "LOC": 1, "ORG": 0, "MISC": 0, "all": 1},
                "groundable": {"PER": 0, "LOC": 1, "ORG": 0, "MISC": 0, "all": 1},
                "boxes": 1,
                "several_boxes": 0,
                "without_xml": 1,
                "images_found": 1,
                "skipped": 0,
            }
        }
    }
    table = data_command(*command)
    assert table.code == 0
    assert "2 posts (1 without XML), 1 of their pictures found" in table.out


def test_stats_command_on_jsonl(tmp_path: Path, data_command: Any, release: Any) -> None:
    src = release({"dev": "IMGID:p1\nNYC\tB-LOC\n", "train": "IMGID:p2\nx\tO\n"})
    data_command("convert", src, tmp_path / "posts", "--to", "jsonl")
    whole = data_command("stats", tmp_path / "posts", "--json").json["splits"]
    assert list(whole) == ["train", "dev"]
    one = data_command("stats", tmp_path / "posts" / "dev.jsonl", "--format", "jsonl", "--json")
    assert one.json["splits"]["dev"] == whole["dev"]
    assert whole["dev"]["entities"]["LOC"] == 1
    assert whole["dev"]["without_xml"] is None


def test_stats_command_refuses_or_leaves_out_a_broken_post(release: Any, data_command: Any) -> None:
    src = release({"test": "IMGID:p1\nNYC\n\nIMGID:p2\nx\tO\n"})
    refused = data_command("stats", src)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "test.txt:2: 'NYC' has 0 tabs" in refused.err
    found = data_command("stats", src, "--skip-bad", "--json")
    assert found.code == 0
    assert found.json["splits"]["test"]["posts"] == 1
    assert found.json["splits"]["test"]["skipped"] == 1
    assert "left out: " in found.err


@pytest.mark.parametrize("form", ["twitter-gmner", "jsonl"])
def test_stats_command_on_nothing(tmp_path: Path, data_command: Any, form: str) -> None:
    found = data_command("stats", tmp_path / "nowhere", "--format", form)
    assert found.code == 2
    assert "nowhere" in found.err
