"""The `groundling` command: a table of subcommands, each in its own module.

A subcommand's module has `add_parser(subparsers)`, which sets `func`, called with the parsed
arguments, to return an exit code. Modules keep heavy imports inside `func`: help imports no torch.

Exit codes: 0 done, 1 the check found something, 2 the input or the call is wrong (one line on
stderr), 130 interrupted, 141 the reader of a pipe went away.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from groundling import __version__
from groundling.cli.parser import Parser
from groundling.errors import GroundlingError, InputError
from groundling.team import in_company, size

COMMANDS = {
    "demo": "groundling.cli.demo",
    "isr": "groundling.cli.isr",
    "plan": "groundling.cli.plan",
    "ground": "groundling.cli.ground",
    "data": "groundling.cli.data",
    "score": "groundling.cli.score",
    "experts": "groundling.cli.experts",
    "direct": "groundling.cli.direct",
    "baseline": "groundling.cli.baseline",
    "tagger": "groundling.cli.tagger",
    "gmner": "groundling.cli.gmner",
    "refineg": "groundling.cli.refineg",
    "ablate": "groundling.cli.ablate",
    "report": "groundling.cli.report",
    "convert-ofa": "groundling.cli.convert_ofa",
}
"""Subcommands and their modules, in the order of the help."""

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a library may meet when it writes, without saying where."""

FOR_TEAMS = ("isr", "baseline")
"""Those that several processes may run together (docs/several-gpus.md)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits for help and bad calls."""
    _show_everything()
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser(words).parse_args(words)
    try:
        _refuse_company(words)
        with in_company():
            code: int = args.func(args)
        sys.stdout.flush()
    except GroundlingError as fault:
        return _fail(str(fault), fault.exit_code)
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as fault:
        if fault.filename is not None:
            return _fail(f"{fault.filename}: {fault.strerror}", 2)
        if fault.errno not in DISK_FAULTS:
            raise
        return _fail(f"the disk is at its end: {fault.strerror}; make room, then run again", 2)
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; where the call names a subcommand, no other subcommand's module is imported."""
    parser = Parser(
        prog="groundling",
        description="Says where a named entity is in a picture, and in what words.",
    )
    parser.add_argument("--version", action="version", version=f"groundling {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    named = words[0] if words and words[0] in COMMANDS else None
    for name, module in COMMANDS.items():
        if named in (None, name):
            import_module(module).add_parser(subparsers)
    return parser


def _refuse_company(words: Sequence[str]) -> None:
    """Raise InputError where several processes run a command that is for one."""
    if size() > 1 and words[0] not in FOR_TEAMS:
        raise InputError(
            f"{words[0]}: {size()} processes were started together (WORLD_SIZE), and this command "
            f"is for one; start it by itself. Several may run {' and '.join(FOR_TEAMS)}"
        )


def _fail(message: str, code: int) -> int:
    print(f"groundling: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


def _show_everything() -> None:
    """Have what stdout cannot encode, as a path that is no UTF-8, printed as an escape.

    JSON reads the escape back.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's own exit stays quiet."""
    with contextlib.suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
