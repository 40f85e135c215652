"""Grounding by analogy: a frozen multimodal LLM sees solved examples, then the case (ReFineG).

A shared module, no backend. ReFineG's prompt is not on its page; the one here is ours. Each example
is a picture with its post, an entity and the entity's box, in the very coordinates that the answer
is to use, so that how to write a box is shown too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from groundling.models.base import Case, LocatedCase, Question, Solved
from groundling.models.coordinates import Convention, ConventionName, Frame
from groundling.prompts import Message, entity_phrase
from groundling.records import Box, Failure
from groundling.replies import ReplyError, json_value

TASK = """\
You are given posts with their pictures. For a named entity of a post, say where it is in the \
picture, or that it is not there. An entity is there if the picture shows it itself: a person's \
face or figure, an organisation's logo or building, the named thing or place. A word in the \
picture that merely spells a person's name does not show the person.
A bounding box is [x1, y1, x2, y2], its top left and bottom right corners; {scale}."""
"""What is asked. Ours."""

CASE = "\nPost: {text}\nEntity: {entity}\n"
"""A case, after its picture."""

FORM = """\
Think step by step, then answer with one JSON object and nothing else:
{"reasoning": "how the entity may look and what the picture shows", "box": [x1, y1, x2, y2]}
Where the entity is not in the picture, "box" is null."""
"""The form of the answer, which the examples show without reasons, for nobody recorded any."""


def in_context_question(
    case: Case, shown: Sequence[Solved], convention: ConventionName, max_tokens: int = 512
) -> Question[LocatedCase]:
    """The question where an entity is, after solved examples (none: zero-shot).

    Boxes are written and read in `convention`; the answer's comes back in original pixels. One that
    leaves the convention, or has another form, cannot be read; nothing is clipped or guessed.
    """

    words_of = Convention(convention)

    def messages(frames: Sequence[Frame]) -> list[Message]:
        *before, own = frames
        parts = [_text(TASK.format(scale=_scale_words(words_of)))]
        for number, (solved, frame) in enumerate(zip(shown, before, strict=True), start=1):
            answer = json.dumps({"box": _numbers(solved.box, frame, words_of)})
            heading = f"\n\nExample {number}\n{_size_words(words_of, frame)}"
            words = f"{_case_words(solved.case)}Answer: {answer}"
            parts += [_text(heading), {"type": "image"}, _text(words)]
        heading = f"\n\nThe case\n{_size_words(words_of, own)}"
        parts += [_text(heading), {"type": "image"}, _text(_case_words(case) + FORM)]
        return [{"role": "user", "content": parts}]

    def read(text: str, frames: Sequence[Frame]) -> LocatedCase:
        return _read(text, frames[-1], words_of)

    pictures = (*(solved.case.image for solved in shown), case.image)
    return Question(messages, read, pictures, max_tokens)


def _read(answer: str, frame: Frame, convention: Convention) -> LocatedCase:
    value = json_value(answer)
    if not isinstance(value, dict) or not {"box"} <= value.keys() <= {"box", "reasoning"}:
        raise ReplyError("other-keys", 'wanted a JSON object with the keys "reasoning" and "box"')
    reasons, box = value.get("reasoning", ""), value["box"]
    if not isinstance(reasons, str):
        raise ValueError('"reasoning" is not text')
    if box is None:
        return None, reasons
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError('"box" is neither null nor four numbers')
    found = convention.to_box(box, frame)
    if isinstance(found, Failure):
        raise ReplyError("outside", found.reason)
    return found, reasons


def _numbers(box: Box | None, frame: Frame, convention: Convention) -> list[float] | None:
    if box is None:
        return None
    return [round(value, 3) for value in convention.from_box(box, frame)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _case_words(case: Case) -> str:
    return CASE.format(text=case.text, entity=entity_phrase(case.name, case.type))


def _scale_words(convention: Convention) -> str:
    if convention.name == "relative-1000":
        return "x goes from 0 to 1000 across the picture, y from 0 to 1000 down it"
    if convention.name == "relative-1":
        return "x goes from 0 to 1 across the picture, y from 0 to 1 down it"
    return "x and y count pixels of the picture from its top left corner"


def _size_words(convention: Convention, frame: Frame) -> str:
    if convention.name not in ("pixels", "resized-pixels"):
        return ""
    width, height = convention.scale(frame)
    return f"This picture is {width:g} pixels wide and {height:g} high.\n"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
