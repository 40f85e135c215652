"""The three prompts of ISR appendix A, word for word, and the chat messages made of them.

A message is a plain dictionary in the form every chat template understands; the picture stands
where the paper writes `{image}`, as its own part between two parts of text. Nothing here reads a
picture or knows a model.
"""

from __future__ import annotations

from typing import Any

from groundling.records import EntityType

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

_IMAGE_SLOT = "{image}"
_ENTITY_SLOT = "{entity (type)}"

Message = dict[str, Any]


def entity_phrase(name: str, type: EntityType) -> str:
    """Fill the paper's `{entity (type)}`.

    >>> entity_phrase("Neymar", "PER")
    'Neymar (PER)'
    """
    return f"{name} ({type})"


def expert_messages() -> list[Message]:
    """A.1 as one user turn: the marked picture, then the request."""
    return [_user_turn(_IMAGE_SLOT + EXPERT)]


def writer_messages(name: str, type: EntityType) -> list[Message]:
    """A.2 as one user turn: instruction, picture, entity.

    The instruction comes before the picture and the entity, as in the paper; so all writer
    prompts begin with the same tokens.
    """
    return [_user_turn(WRITE.replace(_ENTITY_SLOT, entity_phrase(name, type)))]


def direct_messages(name: str, type: EntityType) -> list[Message]:
    """A.3 as one user turn: instruction, picture, entity."""
    return [_user_turn(GROUND_DIRECTLY.replace(_ENTITY_SLOT, entity_phrase(name, type)))]


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
