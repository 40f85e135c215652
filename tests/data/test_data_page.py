"""docs/data.md says what the commands do."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groundling.cli import data, score, tagger
from groundling.data.schemes import read_scheme

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_its_commands_parse() -> None:
    parser = argparse.ArgumentParser(prog="groundling")
    commands = parser.add_subparsers(required=True)
    data.add_parser(commands)
    score.add_parser(commands)
    tagger.add_parser(commands)
    lines = [line for line in PAGE.splitlines() if line.startswith("    groundling ")]
    assert len(lines) == 12
    for line in lines:
        parser.parse_args(shlex.split(line)[1:])


def test_its_scheme_reads(tmp_path: Path) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(PAGE.partition("```yaml\n")[2].partition("```")[0])
    assert read_scheme(str(path)).types == ("species", "place")


def test_its_leaks_are_those_found(shared: Callable[[str], Path], data_command: Any) -> None:
    found = data_command("leaks", shared("ccks-aug"), "--scheme", "ccks")
    assert found.code == 1
    assert found.out == PAGE.partition("```text\n")[2].partition("```")[0]
