"""Entities without positions, and without gold boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundling.collect import wanted_expressions
from groundling.data.annotators import as_predictions
from groundling.data.ccks import write_ccks
from groundling.data.columns import write_columns
from groundling.data.gmner import write_gmner_split
from groundling.data.jsonl import read_posts, write_posts
from groundling.errors import DataError, InputError
from groundling.models.taggers.labels import Labels
from groundling.records import ENTITY_TYPES, Box, Entity, Post

ANN = {"name": "Ann", "type": "PER"}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[Post, ...]]:
    """The posts of a file with these lines."""

    def read(*lines: dict[str, Any]) -> tuple[Post, ...]:
        path = tmp_path / "posts.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_posts(path).posts

    return read


def test_field_d9_rows_of_names_are_posts(read: Callable[..., Any], tmp_path: Path) -> None:
    first, second = read(
        {"image": "a.jpg", "entity": "Ann", "type": "PER"},
        {"image": "b.jpg", "entity": "NASA", "type": "ORG", "id": "second", "text": "at NASA"},
        {"image": "a.jpg", "entity": "Bo", "type": "MISC", "boxes": []},
    )
    assert first == Post(
        "a.jpg",
        (),
        (Entity("Ann", "PER", None, None, (), False), Entity("Bo", "MISC", None, None)),
        str(tmp_path / "a.jpg"),
    )
    assert (second.id, second.entities) == ("second", (Entity("NASA", "ORG", 1, 2, (), False),))
    assert [query.name for query in first.queries()] == ["Ann", "Bo"]


def test_field_d9_names_are_located_where_they_stand(read: Callable[..., Any]) -> None:
    placed = {**ANN, "start": 0, "end": 1, "boxes": [[1, 2, 3, 4]]}
    (post,) = read(
        {
            "id": "p1",
            "tokens": ["Ann", "met", "Ann", "Bo", "and", "Ann"],
            "entities": [placed, ANN, {"name": "Ann Bo", "type": "PER"}, {**ANN, "name": "Cy"}],
        }
    )
    assert [(one.start, one.end) for one in post.entities] == [(0, 1), (5, 6), (2, 4), (None, None)]
    assert [one.boxes_known for one in post.entities] == [True, False, False, False]


def test_field_d9_what_nobody_knows_is_written_so(read: Any, tmp_path: Path) -> None:
    posts = read(
        {"image": "a.jpg", "entity": "Ann", "type": "PER"},
        {"id": "p2", "tokens": ["Bo"], "entities": [{"name": "Bo", "type": "PER", "boxes": []}]},
    )
    write_posts(tmp_path / "again.jsonl", posts)
    assert read_posts(tmp_path / "again.jsonl").posts == posts


def test_field_d9_unknown_boxes_are_never_absent() -> None:
    entity = Entity("Ann", "PER", 0, 1, (), False)
    post = Post("p1", ("Ann",), (entity,), "a.jpg")
    asked: list[Callable[[], object]] = [
        lambda: entity.groundable,
        lambda: entity.largest_box,
        lambda: as_predictions([post]),
        lambda: as_predictions([post], "all"),
        lambda: wanted_expressions([post]),
    ]
    for ask in asked:
        with pytest.raises(InputError, match=r"'Ann' \(PER\) comes without gold boxes"):
            ask()


def test_field_d9_experts_are_not_asked_without_boxes(tmp_path: Path) -> None:
    post = Post("p1", ("Ann",), (Entity("Ann", "PER", 0, 1, (), False),))
    with pytest.raises(InputError, match="comes without gold boxes"):
        write_gmner_split(tmp_path / "out", "test", [post], {})
    with pytest.raises(InputError, match="comes without gold boxes"):
        write_ccks(tmp_path, "test", [post], {})


def test_field_d9_what_needs_positions_refuses(tmp_path: Path) -> None:
    post = Post("p1", ("Ann",), (Entity("Bo", "PER", None, None, (Box(1, 2, 3, 4),)),))
    needing: list[Callable[[], object]] = [
        lambda: write_columns(tmp_path / "out.conll", [post]),
        lambda: write_gmner_split(tmp_path / "out", "test", [post], {}),
        lambda: Labels(ENTITY_TYPES).encode(post),
    ]
    for write in needing:
        with pytest.raises(InputError, match=r"'Bo' \(PER\) has no place in its text"):
            write()
    assert not (tmp_path / "out.conll").exists()


def test_rows_that_disagree_are_refused(read: Callable[..., Any]) -> None:
    row = {"image": "a.jpg", "entity": "Ann", "type": "PER"}
    with pytest.raises(DataError, match="another image or text than row 1"):
        read({**row, "text": "Ann"}, {**row, "text": "Ann again"})
    with pytest.raises(DataError, match=r"'a\.jpg' was used before, in line 1"):
        read(row, {"id": "a.jpg", "tokens": []})
    with pytest.raises(DataError, match="id: missing"):
        read({"entity": "Ann", "type": "PER"})
    with pytest.raises(DataError, match="wanted either 'tokens' or 'text'"):
        read({**row, "start": 0, "end": 1})


def test_check_tells_names_that_have_no_place(tmp_path: Path, data_command: Any) -> None:
    lines = [
        {"image": "a.jpg", "entity": "Ann", "type": "PER"},
        {"id": "p2", "text": "Bo was here", "entities": [ANN, {"name": "Bo", "type": "PER"}]},
    ]
    path = tmp_path / "posts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "a.jpg").write_bytes(b"")
    found = data_command("check", path, "--json").json["problems"]
    assert [(one["kind"], one.get("line")) for one in found] == [
        ("image-unreadable", None),
        ("name-without-tokens", 2),
    ]
    stats = data_command("stats", path, "--json").json["splits"]["posts"]
    assert (stats["entities"]["all"], stats["groundable"]["all"]) == (3, 0)
    assert stats["boxes_unknown"] == 3
