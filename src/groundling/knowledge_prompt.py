"""What an LLM is asked about a whole post, and what its answer means (PGIM, first stage).

PGIM shows similar annotated posts, then the post, and asks for its named entities and the reasons;
the answer as it stands is the knowledge. The prompt here is ours, and so is the form of the answer:
one JSON object, whose names are copied from the post, so that nonsense is told from knowledge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groundling.prompts import Message, type_lines
from groundling.records import Post, Scheme
from groundling.replies import ReplyError, folded, json_value

TASK = """\
Posts of a social network come with a text and often with a picture. For a post, say which named \
entities its text holds, and what one has to know to see that.

Types of entities:
{types}
Whatever fits none of these, and whatever is not a name (pronouns, common nouns), is no entity.
"""
"""What is asked. Ours."""

EXAMPLE = "\nExample {number}, as annotators marked it\n"
CASE = "\nThe post to explain\n"
POST = "Post: {text}\n"

FORM = """\
Answer with one JSON object and nothing else:
{{"reasoning": "in at most {words} words: who or what each name is, and what in the text{look} \
tells so", "entities": [{{"name": "the name, copied from the post", "type": "{choices}"}}]}}
Where the post holds no named entity, "entities" is []."""
"""The form of the answer. Ours."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was said of a post: its entities as (name, type), and the reasons."""

    entities: tuple[tuple[str, str], ...]
    reasoning: str

    @property
    def words(self) -> str:
        """All of it in one line, the entities first: what a tagger cuts off is the reasons' end.

        >>> Explanation((("Pak", "LOC"),), "A country.").words
        'Named entities: Pak (LOC). A country.'
        """
        names = ", ".join(f"{name} ({kind})" for name, kind in self.entities) or "none"
        return " ".join(f"Named entities: {names}. {self.reasoning}".split())


def knowledge_messages(
    post: Post, shown: Sequence[Post], scheme: Scheme, words: int
) -> list[Message]:
    """The question about a post, after annotated examples, as one user turn.

    A post with an `image` is shown with its picture, in front of its text; the `knowledge` of an
    example is told as the reasons of its annotation.
    """
    parts = [_text(TASK.format(types=type_lines(scheme)))]
    for number, example in enumerate(shown, start=1):
        parts += _shown(EXAMPLE.format(number=number), example)
        parts.append(_text(_annotation(example)))
    parts += _shown(CASE, post)
    look = " and the picture" if post.image is not None else ""
    choices = " | ".join(scheme.types)
    parts.append(_text(FORM.format(words=words, look=look, choices=choices)))
    return [{"role": "user", "content": parts}]


def read_explanation(answer: str, post: Post, scheme: Scheme) -> Explanation:
    """What an answer says. Raises ValueError, in words for a model, for what is no answer.

    A name must occur in the post, white space and letter case apart.
    """
    value = json_value(answer)
    if not isinstance(value, dict) or value.keys() != {"reasoning", "entities"}:
        raise ReplyError(
            "other-keys", 'wanted a JSON object with the keys "reasoning" and "entities"'
        )
    reasoning, rows = value["reasoning"], value["entities"]
    if not isinstance(reasoning, str) or not reasoning.strip():
        raise ValueError('"reasoning" is empty')
    if not isinstance(rows, list):
        raise ValueError('"entities" is no list')
    entities = dict.fromkeys(_entity(row, post, scheme) for row in rows)
    return Explanation(tuple(entities), reasoning)


def _entity(row: Any, post: Post, scheme: Scheme) -> tuple[str, str]:
    name, kind = (row.get(key) if isinstance(row, dict) else None for key in ("name", "type"))
    if not isinstance(name, str) or not isinstance(kind, str):
        raise ValueError('every entity needs "name" and "type", both text')
    if kind not in scheme.types:
        raise ValueError(f"unknown type {kind!r}; wanted one of {', '.join(scheme.types)}")
    if not folded(name) or folded(name) not in folded(post.text):
        raise ValueError(f"{name!r} is not in the post; copy the name from the post")
    return name, kind


def _shown(heading: str, post: Post) -> list[Message]:
    """A post under its heading, its picture in front of its text."""
    picture: list[Message] = [] if post.image is None else [{"type": "image"}]
    return [_text(heading), *picture, _text(POST.format(text=post.text))]


def _annotation(post: Post) -> str:
    marked = dict.fromkeys((one.name, one.type) for one in post.entities)
    rows = [{"name": name, "type": kind} for name, kind in marked]
    told = f"Marked: {json.dumps(rows, ensure_ascii=False)}\n"
    return f"{told}Why: {post.knowledge}\n" if post.knowledge else told


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
