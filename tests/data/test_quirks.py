"""What `groundling data check` says of entities, tokens and files that are not what they seem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundling.data.ccks import write_ccks
from groundling.errors import ImageError
from groundling.images import load_image, stored_frame
from groundling.records import CCKS

TOKENS = ["Bank", "of", "New", "York"]


@pytest.fixture
def problems(tmp_path: Path, data_command: Callable[..., Any]) -> Callable[..., Any]:
    """What is found in one post with these entities (start, end, type)."""

    def check(tokens: list[str], *spans: tuple[int, int, str]) -> list[tuple[str, str]]:
        entities = [
            {"name": " ".join(tokens[a:b]), "type": kind, "start": a, "end": b, "boxes": []}
            for a, b, kind in spans
        ]
        path = tmp_path / "posts.jsonl"
        path.write_text(json.dumps({"id": "p1", "tokens": tokens, "entities": entities}) + "\n")
        found = data_command("check", path, "--json").json["problems"]
        return [(one["kind"], one["message"]) for one in found]

    return check


def test_field_d3_the_same_span_twice(problems: Callable[..., Any]) -> None:
    ((kind, message),) = problems(TOKENS, (2, 4, "LOC"), (2, 4, "LOC"))
    assert kind == "duplicate-entity"
    assert message == "'New York' (LOC, post p1) is the same as 'New York' (LOC)"
    kinds = [kind for kind, _ in problems(TOKENS, (2, 4, "LOC"), (2, 4, "ORG"))]
    assert kinds == ["type-conflict"]


def test_field_d3_overlapping_spans(problems: Callable[..., Any]) -> None:
    ((kind, message),) = problems(TOKENS, (0, 4, "ORG"), (2, 4, "LOC"))
    assert kind == "overlapping-entities"
    assert message == "'New York' (LOC, post p1) shares tokens with 'Bank of New York' (ORG)"
    assert problems(TOKENS, (0, 2, "ORG"), (2, 4, "LOC")) == []


def test_field_d3_a_name_without_place_twice(tmp_path: Path, data_command: Any) -> None:
    row = json.dumps({"image": "a.jpg", "entity": "Ann", "type": "PER"}) + "\n"
    path = tmp_path / "posts.jsonl"
    path.write_text(row + row + row.replace("PER", "LOC"))
    found = data_command("check", path, "--json").json["problems"]
    assert [one["kind"] for one in found if one["kind"] != "image-unreadable"] == [
        "type-conflict",
        "duplicate-entity",
    ]


@pytest.mark.parametrize("target", ["conll", "twitter-gmner"])
@pytest.mark.parametrize("second", [(2, 4), (0, 4)])
def test_field_d3_formats_of_tags_refuse_what_they_cannot_hold(
    problems: Any, tmp_path: Path, data_command: Any, target: str, second: tuple[int, int]
) -> None:
    problems(TOKENS, (0, 4, "ORG"), (*second, "LOC"))
    out = tmp_path / "out"
    done = data_command("convert", tmp_path / "posts.jsonl", out, "--to", target)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "overlap" in done.err
    assert not list(tmp_path.glob("out/**/*.*"))


@pytest.mark.parametrize(
    "token",
    [
        *("\ufe0f", "\u200b", "\u200d", "\u0301", "\u2800", "\u3164", "\u115f", "\u00a0", "\u00ad"),
        *("\u3000", "\U000e0100", "\u180b", "\ufe0f\u200d", "\u2028", "\ufeff", "\u20dd"),
    ],
)
def test_field_d4_a_token_without_a_visible_character_is_noted(
    problems: Callable[..., Any], token: str
) -> None:
    ((kind, message),) = problems(["hi", token])
    assert kind == "odd-character"
    assert f"U+{ord(token[0]):04X}" in message


@pytest.mark.parametrize("token", ["\u2764\ufe0f", "cafe\u0301", "\u0939\u093f", "-", "\u2801"])
def test_field_d4_marks_on_visible_characters_are_not_noted(
    problems: Callable[..., Any], token: str
) -> None:
    assert problems(["hi", token]) == []


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_field_d5_an_empty_file_holds_no_posts(
    tmp_path: Path, data_command: Any, content: str
) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text(content, encoding="utf-8")
    found = data_command("check", path, "--json")
    assert found.code == 1
    assert [(one["kind"], one["file"]) for one in found.json["problems"]] == [
        ("no-posts", str(path))
    ]


def test_field_d5_other_formats_hold_no_posts_either(
    tmp_path: Path, release: Any, data_command: Any
) -> None:
    write_ccks(tmp_path / "ccks", "test", [], {}, CCKS)
    (tmp_path / "none.conll").write_bytes(b"")
    for src in (tmp_path / "ccks", tmp_path / "none.conll", release({"test": "", "dev": "\n"})):
        kinds = [one["kind"] for one in data_command("check", src, "--json").json["problems"]]
        assert set(kinds) == {"no-posts"}


@pytest.mark.parametrize("read", [load_image, stored_frame])
def test_field_d5_an_empty_image_is_called_so(tmp_path: Path, read: Callable[..., Any]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="an empty file; fetch or export it again") as told:
        read(path)
    assert "convert" not in str(told.value)


def test_field_d10_what_was_right_stays_so(tmp_path: Path, release: Any, data_command: Any) -> None:
    text = "\ufeffIMGID:p1\n#\tO\nof\tI-PER\n\n"
    src = release({"test": text})
    found = data_command("check", src, "--json").json["problems"]
    assert [one["kind"] for one in found] == ["orphan-inside"]
    for box, words in (
        ([5, 2, 3, 4], "xmax 3 < xmin 5"),
        ([1, 2, 1, 4], "wanted an area above 0"),
        ([1, 2, 3, float("nan")], "NaN"),
    ):
        entity = {"name": "#", "type": "PER", "start": 0, "end": 1, "boxes": [box]}
        path = tmp_path / "posts.jsonl"
        path.write_text(json.dumps({"id": "p1", "tokens": ["#"], "entities": [entity]}) + "\n")
        (problem,) = data_command("check", path, "--json").json["problems"]
        assert problem["kind"] == "bad-record"
        assert words in problem["message"]
