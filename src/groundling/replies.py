"""What the reply of a chat model holds."""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.S)


def json_value(reply: str) -> Any:
    """The JSON value of a reply, alone or in a code fence.

    Raises ValueError for anything else, and for text that no file can hold.
    """
    fenced = _FENCE.fullmatch(reply.strip())
    try:
        value = json.loads(fenced.group(1) if fenced else reply)
    except (ValueError, RecursionError) as fault:
        raise ValueError("not one JSON object") from fault
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as fault:
        raise ValueError("holds half a surrogate pair") from fault
    return value


def folded(text: str) -> str:
    """A text without white space and letter case: how a name that a model copied is looked for.

    >>> folded("New  York")
    'newyork'
    """
    return re.sub(r"\s+", "", text).casefold()
