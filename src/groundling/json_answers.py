"""JSON in the answer of a language model, alone or in a code fence."""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.S)


def read_object(answer: str) -> dict[str, Any]:
    """The one JSON object that an answer is.

    Raises ValueError, in words that can be told to a model, for anything before, after or instead
    of it, and for text that no file can hold.
    """
    fenced = _FENCE.fullmatch(answer.strip())
    try:
        value = json.loads(fenced.group(1) if fenced else answer)
    except (ValueError, RecursionError) as fault:
        raise ValueError("not one JSON object") from fault
    if not isinstance(value, dict):
        raise ValueError("not one JSON object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as fault:
        raise ValueError("holds half a surrogate pair") from fault
    return value
