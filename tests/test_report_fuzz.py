"""A run's own files with a value of another type: a page or one line, never a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from written_run import write_run

from groundling.cli import main

OTHERS: tuple[Any, ...] = (None, "x", [], 7, {}, -1.5)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys, a list's first place alone, however deep."""
    keys = list(value) if isinstance(value, dict) else [0] if value else []
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def check(run: Path, capsys: pytest.CaptureFixture[str], label: str) -> None:
    code = main(["report", str(run)])
    told = capsys.readouterr().err
    assert code == 0 or (code == 2 and told.count("\n") == 1), (label, code, told)


NAMES = ("metrics.json", "rounds/1/metrics.json", "config.yaml")


@pytest.mark.parametrize(
    ("name", "most"),
    [*((n, 6) for n in NAMES), *(pytest.param(n, 200, marks=pytest.mark.slow) for n in NAMES)],
)
def test_a_value_of_another_type_in_a_run(
    name: str, most: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run")
    path = tmp_path / "run" / name
    value = yaml.safe_load(path.read_text())
    tries = [(*place, other) for place in places(value) for other in OTHERS]
    random.Random(4).shuffle(tries)
    for owner, key, other in tries[:most]:
        kept, owner[key] = owner[key], other
        path.write_text(json.dumps(value))
        check(tmp_path / "run", capsys, f"{name} {key} {other!r}")
        owner[key] = kept


def test_an_event_of_another_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    path = tmp_path / "run/events.jsonl"
    lines = path.read_text().splitlines()
    for number, key in enumerate(("time", "stage", "kind", "payload")):
        event = json.loads(lines[1])
        event[key] = OTHERS[number % 3]
        path.write_text("\n".join([lines[0], json.dumps(event), *lines[2:], ""]))
        check(tmp_path / "run", capsys, f"{key} {event[key]!r}")
