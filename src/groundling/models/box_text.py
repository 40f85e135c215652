"""Boxes as a language model writes them: text in a fixed form, numbers in a convention.

A shared module, no backend. An answer that is not wholly in its form is a `Failure`; nothing is
searched for, completed or guessed.

| form | an answer |
|---|---|
| `list` | `[x1, y1, x2, y2]` |
| `qwen2-vl` | `(x1,y1),(x2,y2)`, with or without `<|box_start|>` and `<|box_end|>` |
| `bbox-2d` | `{"bbox_2d": [x1, y1, x2, y2]}`, alone, as a list of one, or in a code fence |
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from groundling.models.coordinates import Convention, Frame
from groundling.records import Box, Failure, is_absent

BoxForm = Literal["list", "qwen2-vl", "bbox-2d"]
"""The forms known here."""


_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\.?")
_QWEN2_VL = re.compile(
    rf"(?:<\|box_start\|>)?\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)(?:<\|box_end\|>)?"
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.S)


@dataclass(frozen=True, slots=True)
class BoxText:
    """A form and a convention: how one model writes boxes.

    >>> from groundling.models.coordinates import Convention, Frame
    >>> words = BoxText("qwen2-vl", Convention("relative-1000"))
    >>> frame = Frame((640, 480), (640, 480))
    >>> words.write(Box(64, 0, 320, 480), frame)
    '(100,0),(500,1000)'
    >>> words.read("(100,0),(500,1000)", frame)
    Box(x1=64.0, y1=0.0, x2=320.0, y2=480.0)
    """

    form: BoxForm
    convention: Convention

    def write(self, box: Box, frame: Frame) -> str:
        """The text of a box in original pixels; what lies outside the picture stops at its edge."""
        x1, y1, x2, y2 = (f"{value:g}" for value in self.convention.from_box(box, frame))
        if self.form == "qwen2-vl":
            return f"({x1},{y1}),({x2},{y2})"
        numbers = f"[{x1}, {y1}, {x2}, {y2}]"
        return f'{{"bbox_2d": {numbers}}}' if self.form == "bbox-2d" else numbers

    def read(self, text: str, frame: Frame) -> Box | Failure | None:
        """The box of an answer, in original pixels; None where it says "absent"."""
        said = read_box(text, self.form)
        return self.convention.to_box(said, frame) if isinstance(said, list) else said


def read_box(text: str, form: BoxForm) -> list[float] | Failure | None:
    """The four numbers of an answer in the model's own convention; None for "absent".

    The whole answer must be in the given form: `list` is `[x1, y1, x2, y2]`, `qwen2-vl` is
    `(x1,y1),(x2,y2)` with or without its box tokens, `bbox-2d` is one JSON object with `bbox_2d`,
    alone, as a list of one, or in a code fence. The sentence for "absent" may stand in the
    quotation marks of A.3. Anything else is a Failure.
    """
    answer = text.strip()
    if is_absent(answer.strip('“”"')):
        return None
    found = _json_box(answer) if form == "bbox-2d" else _matched(answer, form)
    if found is not None:
        return found
    shown = " ".join(answer.split())
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    return Failure(
        f"neither a box in the form {form} nor the sentence for absent: {shown}", "parse"
    )


def _matched(answer: str, form: BoxForm) -> list[float] | None:
    match = (_LIST if form == "list" else _QWEN2_VL).fullmatch(answer)
    return None if match is None else [float(number) for number in match.groups()]


def _json_box(answer: str) -> list[float] | None:
    fenced = _FENCE.fullmatch(answer)
    try:
        value: Any = json.loads(fenced.group(1) if fenced else answer)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    box = value.get("bbox_2d") if isinstance(value, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = [number for number in box if isinstance(number, int | float)]
    return numbers if len(numbers) == 4 and not any(isinstance(n, bool) for n in box) else None
