"""JSON as strictly as every file and reply of ours is read: what is ambiguous is refused.

Refused: bytes that are not UTF-8, NaN and Infinity, a key given twice in one object, half a
surrogate pair, nesting or digits beyond what the parser takes. Each is a ValueError that says in
one sentence what is wrong and where, never a RecursionError or a traceback of the parser's own.
Files of ours that are read back are read by `read_json`, whose faults are DataErrors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundling.errors import DataError


def parse_json(raw: bytes) -> object:
    """The value of a JSON text. Raises ValueError that says in one sentence what is wrong."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as fault:
        raise ValueError(f"not JSON: {fault.msg} at {_place(fault.doc, fault.pos)}") from fault
    except UnicodeDecodeError as fault:
        place = _place(raw.decode("latin-1"), fault.start)
        raise ValueError(f"not UTF-8: byte 0x{raw[fault.start]:02x} at {place}") from fault
    except UnicodeEncodeError as fault:
        raise ValueError("half a surrogate pair in a \\u escape; mend it") from fault
    except RecursionError as fault:
        raise ValueError("nested too deeply") from fault
    return value


def read_json(path: Path) -> object:
    """The value of a JSON file. Raises DataError where it is missing, unreadable or no JSON."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError as fault:
        raise DataError(path, "no such file") from fault
    except OSError as fault:
        raise DataError(path, f"cannot be read ({fault.strerror or fault})") from fault
    except ValueError as fault:
        raise DataError(path, str(fault)) from fault


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError, also for a value of another kind."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(path, f"got {type(value).__name__}; wanted a JSON object")
    return value


def read_numbers(path: Path) -> list[float]:
    """The list of numbers in a JSON file. Raises DataError, also for anything else."""
    value = read_json(path)
    if not isinstance(value, list) or not all(type(one) in (int, float) for one in value):
        raise DataError(path, "wanted a list of numbers; delete it to compute it anew")
    return value


def _place(text: str, offset: int) -> str:
    """Where in a text an offset is, for people: the column, after the line where there are more."""
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return f"column {column}" if line == 1 else f"line {line} column {column}"


def _unique_keys(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return dict(pairs)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
