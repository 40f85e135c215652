"""The three prompts of ISR appendix A, word for word, and the chat messages made of them.

A message is a plain dictionary in the form every chat template understands; the picture stands
where the paper writes `{image}`, as its own part between two parts of text. Nothing here reads a
picture or knows a model.
"""

from __future__ import annotations

from typing import Any

from groundling.records import EntityType, Scheme

EXPERT = (
    "Give a referring expression in one sentence, according to which the green bounding box in "
    "the image can be determined without any other prior knowledge."
)
"""A.1: asks for the expert expression of a picture on which the gold box is drawn in green."""

WRITE = (
    "Given an image and a named entity, please check if the entity appears in the image. "
    "If it exists, please provide a description of the entity in the image.\n"
    "\n"
    "Image: {image}\n"
    "\n"
    "Entity: {entity (type)}"
)
"""A.2: asks the writer for a referring expression, or for word that the entity is absent."""

GROUND_DIRECTLY = (
    "Given an image and a named entity, please check if the entity appears in the image. "
    "If it exists, please provide the corresponding bounding box; otherwise, please answer "
    "“The entity does not appear in the image.”\n"
    "\n"
    "Image: {image}\n"
    "\n"
    "Entity: {entity (type)}"
)
"""A.3: asks a multimodal model for the box itself (the end-to-end baselines)."""

BOX_FORM = (
    "\n\nWrite a bounding box as [x1, y1, x2, y2] and nothing else: its top left and bottom right "
    "corners, x from 0 to {width} across the image, y from 0 to {height} down it."
)
"""Ours: A.3 names no form, so a model that was not tuned for one is told which to use."""

BOX_SCHEMA_FORM = (
    ' Write it as JSON: {"box": [x1, y1, x2, y2]}, or {"box": null} where the entity does not '
    "appear in the image."
)
"""Ours: what stands after BOX_FORM for a model that is held to BOX_SCHEMA."""

BOX_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "box": {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]}
    },
    "required": ["box"],
    "additionalProperties": False,
}
"""The JSON schema of such an answer."""

LOCATE = (
    "Give the bounding box of the region that this expression describes.\n"
    "\n"
    "Image: {image}\n"
    "\n"
    "Expression: {expression}"
)
"""Ours: asks a multimodal model for the box of an expression (the grounder of ISR Table 4)."""

_IMAGE_SLOT = "{image}"
_ENTITY_SLOT = "{entity (type)}"

Message = dict[str, Any]


def entity_phrase(name: str, type: EntityType) -> str:
    """Fill the paper's `{entity (type)}`.

    >>> entity_phrase("Neymar", "PER")
    'Neymar (PER)'
    """
    return f"{name} ({type})"


def type_lines(scheme: Scheme) -> str:
    """The types of a scheme with what they cover, a line each, for prompts that ask for one."""
    covers = scheme.descriptions
    return "\n".join(
        f"- {one}: {covers[one]}" if one in covers else f"- {one}" for one in scheme.types
    )


def expert_messages() -> list[Message]:
    """A.1 as one user turn: the marked picture, then the request."""
    return [_user_turn(_IMAGE_SLOT + EXPERT)]


def writer_messages(name: str, type: EntityType) -> list[Message]:
    """A.2 as one user turn: instruction, picture, entity.

    The instruction comes before the picture and the entity, as in the paper; so all writer
    prompts begin with the same tokens.
    """
    return ask_for_expression(entity_phrase(name, type))


def ask_for_expression(entity: str) -> list[Message]:
    """A.2 around an entity phrase."""
    return [_user_turn(WRITE.replace(_ENTITY_SLOT, entity))]


def direct_messages(name: str, type: EntityType) -> list[Message]:
    """A.3 as one user turn: instruction, picture, entity."""
    return ask_for_box(entity_phrase(name, type))


def ask_for_box(entity: str) -> list[Message]:
    """A.3 around an entity phrase."""
    return [_user_turn(GROUND_DIRECTLY.replace(_ENTITY_SLOT, entity))]


def locate_messages(expression: str) -> list[Message]:
    """LOCATE as one user turn: instruction, picture, expression."""
    return [_user_turn(LOCATE.replace("{expression}", expression))]


def box_form(width: float, height: float) -> str:
    """BOX_FORM for coordinates that end at `width` and `height`.

    >>> box_form(640, 480).partition("x from ")[2]
    '0 to 640 across the image, y from 0 to 480 down it.'
    """
    return BOX_FORM.format(width=f"{width:g}", height=f"{height:g}")


def as_text(messages: list[Message]) -> str:
    """The words of a conversation, `{image}` where a picture stands; for logs and reports."""
    parts = (part for message in messages for part in message["content"])
    return "".join(part["text"] if part["type"] == "text" else _IMAGE_SLOT for part in parts)


def _user_turn(text: str) -> Message:
    before, _, after = text.partition(_IMAGE_SLOT)
    parts: list[Message] = [{"type": "text", "text": before}] if before else []
    return {
        "role": "user",
        "content": [*parts, {"type": "image"}, {"type": "text", "text": after}],
    }
