from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groundling.data.expressions_check import check_expressions, holds_expressions
from groundling.records import ABSENT

TEXTS = [
    ("the man on the left", None),
    (ABSENT, None),
    ("I'm sorry, but I can't identify people in images.", "refused"),
    ("<think>Who is it?</think> the man", "wrapped"),
    ("<think>Who is it?", "thought"),
    ("```\nthe man\n```", "wrapped"),
    ("Referring expression: the man", "wrapped"),
    ("1. the man\n2. the woman", "several"),
    ("Ann in a red coat", "named"),
    ("word " * 900, "long"),
    ("the \x07 man", "characters"),
]


def stored(path: Path) -> Path:
    lines = [
        {"id": f"p{i}", "entity": "Ann", "type": "PER", "expression": text, "source": "expert:m"}
        for i, (text, _) in enumerate(TEXTS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_field_e3_a_stored_file_is_held_to_the_rules_of_replies(tmp_path: Path) -> None:
    path = stored(tmp_path / "experts.jsonl")
    found = {problem.line: problem.kind for problem in check_expressions(path)}
    assert found == {i: kind for i, (_, kind) in enumerate(TEXTS, 1) if kind is not None}


def test_the_command_tells_expressions_by_what_is_in_the_file(
    tmp_path: Path, data_command: Any
) -> None:
    path = stored(tmp_path / "experts.jsonl")
    shown = data_command("check", path, "--json")
    assert shown.code == 1
    kinds = [problem["kind"] for problem in json.loads(shown.out)["problems"]]
    assert kinds == [kind for _, kind in TEXTS if kind is not None]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert data_command("check", path).code == 0


def test_a_line_that_is_none_is_told_too(tmp_path: Path) -> None:
    path = stored(tmp_path / "experts.jsonl")
    path.write_text(path.read_text().splitlines(keepends=True)[0] + '{"id": "p"}\n')
    (problem,) = check_expressions(path)
    assert (problem.kind, problem.line) == ("bad-record", 2)


def test_other_files_hold_no_expressions(tmp_path: Path) -> None:
    posts = tmp_path / "posts.jsonl"
    posts.write_text(json.dumps({"id": "p", "text": "Ann", "entities": []}) + "\n")
    assert not holds_expressions(posts)
    assert not holds_expressions(tmp_path)
    assert not holds_expressions(tmp_path / "missing.jsonl")
