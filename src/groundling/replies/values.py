"""Replies that are one JSON value."""

from __future__ import annotations

import re
from typing import Any

from groundling.replies.refusals import declines
from groundling.replies.shapes import ReplyError, shown
from groundling.replies.wrapping import opened, unfenced
from groundling.strict_json import parse_json


def json_value(reply: str) -> Any:
    """The JSON value of a reply, alone or in a code fence, after at most one closed thought.

    Raises ReplyError for anything else, and for text that no file can hold.
    """
    said = opened(reply)
    text = unfenced(said)
    try:
        return parse_json(text.encode())
    except ValueError as fault:
        if "surrogate" in str(fault):
            raise ReplyError("characters", "holds half a surrogate pair") from fault
        if "given twice" in str(fault):
            raise ReplyError("duplicate-keys", str(fault)) from fault
        if declines(said):
            raise ReplyError("refused", f"declines to answer: {shown(said)}") from fault
        if re.search(r"```.*[{\[]", said, re.S):
            raise ReplyError("prose", "words around the code fence") from fault
        raise ReplyError("not-json", "not one JSON object") from fault


def folded(text: str) -> str:
    """A text without white space and letter case: how a name that a model copied is looked for.

    >>> folded("New  York")
    'newyork'
    """
    return re.sub(r"\s+", "", text).casefold()
