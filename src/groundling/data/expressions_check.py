"""Whether stored expressions are ones: the rules by which replies are read, for files."""

from __future__ import annotations

from pathlib import Path

from groundling.data.expressions_jsonl import read_numbered_expressions
from groundling.data.problems import Problem, read_bytes
from groundling.errors import DataError
from groundling.records import TWITTER, Scheme
from groundling.replies import ReplyError, oddity, read_expression, shown
from groundling.strict_json import parse_json


def holds_expressions(path: Path) -> bool:
    """Whether a file is expressions as JSON lines, by its first line that is an object."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    try:
        lines = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except DataError:
        return False
    for raw in filter(bytes.strip, lines):
        try:
            value = parse_json(raw)
        except ValueError:
            continue
        return isinstance(value, dict) and {"entity", "expression", "source"} <= value.keys()
    return False


def check_expressions(path: Path, scheme: Scheme = TWITTER) -> list[Problem]:
    """Every line of an expressions file that is none, or whose text is no expression or odd.

    Raises DataError where the file cannot be read.
    """
    found: list[Problem] = []
    for number, line in read_numbered_expressions(path, found.append, scheme):
        kept = line.expression
        fault = expression_fault(kept.text)
        if fault is None and not kept.absent:
            fault = oddity(kept.text, line.name)
        if fault is not None:
            found.append(Problem(str(path), number, fault.kind, str(fault)))
    return sorted(found, key=lambda problem: problem.line or 0)


def expression_fault(text: str) -> ReplyError | None:
    """Why a stored text is no expression; `wrapped` where one is in it, with something around."""
    try:
        read = read_expression(text)
    except ReplyError as fault:
        return fault
    if read == " ".join(text.split()):
        return None
    return ReplyError("wrapped", f"{shown(text)}; wanted {read!r} alone")
