"""What every `--json` prints: one JSON value, always valid."""

from __future__ import annotations

import json
import sys

from groundling.errors import GroundlingError


def json_text(value: object) -> str:
    """The value as indented JSON. Raises GroundlingError where it holds NaN or an infinity.

    Where stdout is not UTF-8, letters beyond ASCII are JSON's escapes.
    """
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    try:
        return json.dumps(value, indent=2, ensure_ascii=plain, allow_nan=False)
    except ValueError as fault:
        raise GroundlingError(
            f"--json: the result holds a number that JSON cannot ({_where(value, 'result')}); "
            "wanted finite numbers; run without --json to see it, and look at its inputs"
        ) from fault


def _where(value: object, place: str) -> str:
    """The first number that is not finite, with the keys that lead to it; empty without one."""
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return f"{place}: {value}"
    parts: list[tuple[object, object]] = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    return next((found for key, one in parts if (found := _where(one, f"{place}.{key}"))), "")
