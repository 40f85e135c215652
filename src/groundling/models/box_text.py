"""Boxes as a language model writes them: text in a fixed form, numbers in a convention.

A shared module, no backend. An answer that is not wholly in its form is a `Failure` whose kind
names its shape (`groundling.replies.KINDS`); nothing is searched for, completed or guessed. Only
what is certainly around an answer is taken off: one closed thought, tokens of a chat template, a
code fence.

| form | an answer |
|---|---|
| `list` | `[x1, y1, x2, y2]` |
| `qwen2-vl` | `(x1,y1),(x2,y2)`, perhaps a name directly before it, and box and name tokens |
| `bbox-2d` | `{"bbox_2d": [x1, y1, x2, y2]}`, alone or as a list of one |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from groundling.models.coordinates import Convention, Frame
from groundling.records import Box, Failure, is_absent
from groundling.replies import ReplyError, declines, opened, shown, unfenced
from groundling.strict_json import parse_json

BoxForm = Literal["list", "qwen2-vl", "bbox-2d"]
"""The forms known here."""


_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_LIST = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\.?")
_NAME = r"(?:<\|object_ref_start\|>)?(?:[^\n(]|\((?!\s*-?\d))*(?<![\s:=])(?:<\|object_ref_end\|>)?"
"""What a Qwen2-VL writes before a box: the name of what it marks, nothing between the two. A space,
a colon or another pair of numbers makes it a sentence about a box, which is refused."""

_QWEN2_BOX = re.compile(
    rf"(?:<\|box_start\|>)?\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)(?:<\|box_end\|>)?"
)
"""To be looked for anywhere: without the name, at which a search would start again everywhere."""
_QWEN2_VL = re.compile(rf"(?:{_NAME})?{_QWEN2_BOX.pattern}")
_QUOTE = r"""\s*["']?\s*"""
_TEXT_BOX = re.compile(
    rf"\[(?=[^\[\]]*[\"'])(?:{_QUOTE}-?[\d.]+{_QUOTE},){{3}}{_QUOTE}-?[\d.]+{_QUOTE}\]"
)
_BARE = re.compile(rf"\(?{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\)?\.?")
_OTHER_LIST = re.compile(r"\[[^\[\]]*\]")


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

    @property
    def longest(self) -> int:
        """Tokens that the longest answer in the form takes, and the sentence for "absent".

        A Qwen repeats in it what it was asked for, up to 64 tokens, and each of its digits is a
        token: a fenced object with a label takes some 45 beside the label.
        """
        return 48 if self.form == "list" else 128

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
    `(x1,y1),(x2,y2)` with or without its box tokens and a name before it, `bbox-2d` is one JSON
    object with `bbox_2d`, alone or as a list of one; a code fence may stand around it. The sentence
    for "absent" may stand in the quotation marks of A.3. Anything else is a Failure, of a kind that
    names its shape.
    """
    try:
        answer = unfenced(opened(text))
        if is_absent(answer.strip('“”"')):
            return None
        found = _json_box(answer) if form == "bbox-2d" else _matched(answer, form)
    except ReplyError as fault:
        return fault.failure("parse")
    if found is not None:
        return found
    reason = f"neither a box in the form {form} nor the sentence for absent: {shown(answer)}"
    return Failure(reason, "parse", _kind(answer))


def _matched(answer: str, form: BoxForm) -> list[float] | None:
    match = (_LIST if form == "list" else _QWEN2_VL).fullmatch(answer)
    return None if match is None else [float(number) for number in match.groups()]


def _json_box(answer: str) -> list[float] | None:
    """The box of a JSON answer, or None. Raises ReplyError for a key given twice."""
    value = _parsed(answer)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    box = value.get("bbox_2d") if isinstance(value, dict) else None
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = [number for number in box if isinstance(number, int | float)]
    return numbers if len(numbers) == 4 and not any(isinstance(n, bool) for n in box) else None


def _parsed(answer: str) -> object:
    """The JSON value of an answer, or None. Raises ReplyError for a key given twice."""
    try:
        return parse_json(answer.encode())
    except ValueError as fault:
        if "given twice" in str(fault):
            raise ReplyError("duplicate-keys", str(fault)) from fault
        return None


def _kind(answer: str) -> str:
    """The shape of an answer that is none in its form."""
    boxes = len(_LIST.findall(answer)) + len(_QWEN2_BOX.findall(answer))
    try:
        value = _parsed(answer)
    except ReplyError as fault:
        return fault.kind
    if boxes > 1:
        return "two-boxes"
    if _TEXT_BOX.search(answer):
        return "strings"
    if boxes and len(_OTHER_LIST.findall(answer)) > 1:
        return "list-then-list"
    if _box_alone(answer, value):
        return "other-form"
    if isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(v, dict) for v in value)
    ):
        return "other-keys"
    if boxes:
        return "prose"
    return "refused" if declines(answer) else "no-box"


def _box_alone(answer: str, value: object) -> bool:
    """Whether an answer is one box and nothing else, in whatever form."""
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    keyed = (
        isinstance(one, dict) and isinstance(one.get("bbox_2d"), list) and len(one["bbox_2d"]) == 4
    )
    return keyed or any(form.fullmatch(answer) for form in (_LIST, _QWEN2_VL, _BARE))
