from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest

from groundling.cli.data import FORMATS as NAMES
from groundling.data.formats import FORMATS


@pytest.mark.parametrize("name", ["stats", "check", "convert"])
def test_help_ends_with_examples_that_parse(
    name: str, data_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = data_command(name, "--help")
    assert shown.code == 0
    examples = [
        line.strip() for line in shown.out.partition("examples:")[2].splitlines() if line.strip()
    ]
    assert len(examples) >= 3
    monkeypatch.setattr(f"groundling.cli.data._{name}", lambda _: 0)
    for example in examples:
        program, data, *words = shlex.split(example)
        assert (program, data, words[0]) == ("groundling", "data", name)
        assert data_command(*words).code == 0


def test_a_wrong_call_exits_2(data_command: Any) -> None:
    assert data_command().code == 2
    assert data_command("stats").code == 2
    assert data_command("stats", "src", "--format", "coco").code == 2
    assert data_command("convert", "src", "out").code == 2


def test_the_format_names_are_those_of_the_readers() -> None:
    assert NAMES == FORMATS


def test_no_data_module_imports_torch() -> None:
    modules = (
        "groundling.cli.data",
        "groundling.data.check",
        "groundling.data.convert",
        "groundling.data.expressions_jsonl",
        "groundling.data.stats",
    )
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
