from __future__ import annotations

import argparse
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from groundling import __version__, cli
from groundling.errors import ConfigError, RunError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], int]:
    """Runs `groundling act`, whose work is the given function."""

    def run(work: Callable[[], int]) -> int:
        module = ModuleType("groundling.cli.act")

        def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
            subparsers.add_parser("act", help="acts").set_defaults(func=lambda _: work())

        module.add_parser = add_parser  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "act", module.__name__)
        return cli.main(["act"])

    return run


def raising(fault: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise fault

    return work


def test_the_exit_code_is_the_commands(command: Callable[[Callable[[], int]], int]) -> None:
    assert command(lambda: 0) == 0
    assert command(lambda: 1) == 1


def test_what_stdout_cannot_show_is_an_escape(
    command: Callable[[Callable[[], int]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "utf-8", errors="strict"))
    value = {"image": os.fsdecode(b"p\xff.jpg"), "name": "Zoë"}
    assert command(lambda: print(json.dumps(value, ensure_ascii=False)) or 0) == 0
    assert shown.getvalue().decode() == '{"image": "p\\udcff.jpg", "name": "Zoë"}\n'
    assert json.loads(shown.getvalue()) == value


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (RunError("runs/a: locked"), 2, "groundling: error: runs/a: locked"),
        (ConfigError("a.yaml", ["x", "y\nz"]), 2, "groundling: error: a.yaml: x; y z"),
        (KeyboardInterrupt(), 130, "groundling: error: interrupted"),
        (
            FileNotFoundError(2, "No such file or directory", "a.jsonl"),
            2,
            "groundling: error: a.jsonl: No such file or directory",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "groundling: error: the disk is at its end: No space left on device; make room, "
            "then run again",
        ),
    ],
)
def test_a_fault_is_one_line(
    command: Callable[[Callable[[], int]], int],
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    line: str,
) -> None:
    assert command(raising(fault)) == code
    assert capsys.readouterr().err == line + "\n"


def test_one_of_several_processes_may_not_run_what_is_for_one(
    command: Callable[[Callable[[], int]], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done: list[int] = []
    assert command(lambda: done.append(0) or 0) == 2  # type: ignore[func-returns-value]
    assert not done
    assert "act: 2 processes were started together" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(command: Callable[[Callable[[], int]], int]) -> None:
    with pytest.raises(ZeroDivisionError):
        command(raising(ZeroDivisionError()))


def test_version_and_calls_that_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["--version"], 0), ([], 2), (["dance"], 2)):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == code
    assert capsys.readouterr().out == f"groundling {__version__}\n"


def test_a_reader_that_goes_away_is_not_an_error() -> None:
    code = (
        "import sys, types; from groundling import cli\n"
        "m = types.ModuleType('act'); sys.modules['act'] = m\n"
        "def work(args):\n"
        "    for _ in range(100000): print('line')\n"
        "    return 0\n"
        "m.add_parser = lambda s: s.add_parser('act').set_defaults(func=work)\n"
        "cli.COMMANDS['act'] = 'act'\n"
        "sys.exit(cli.main(['act']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
