"""What an LLM is asked for, and how its sentences become posts with marked tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from groundling.prompts import Message, type_lines
from groundling.records import Entity, Post, Scheme
from groundling.replies import ReplyError, json_value, read_text

Tokenise = Callable[[str], tuple[str, ...]]
"""How a text becomes tokens."""

Kind = Literal["same entities", "new entities", "no entities"]
"""What the sentences of a question are to hold."""

PROFILE = """\
Below are posts of one domain with the named entities that its annotators marked, as name [type].

Types:
{types}

{examples}

Describe in at most 150 words, for somebody who is to write further posts and annotate them alike: \
subject and tone; how names are written; what is marked; and above all what looks like an entity \
but is not marked here. Answer with the description and nothing else."""
"""Asks for the domain's profile. Ours."""

PROFILE_WORDS = (5, 600)
"""Fewest and most words of a profile that is taken; it is asked for in 150."""

SENTENCES = """\
You write labelled sentences to train a named-entity tagger in a narrow domain.

The domain: {profile}

Types:
{types}

A post of the domain with its entities, as name [type]:
{post}

Write {count} new sentences of {low} to {high} words that could be posts of the same domain. \
{kind} Vary wording, order and situation; do not copy the post. Mark names only, as the domain's \
annotators do: no generic terms, no pronouns. Mark every entity that a sentence holds, with its \
name exactly as the sentence writes it.
Answer with one JSON object and nothing else:
{{"sentences": [{{"text": "…", "entities": [{{"name": "…", "type": "{choices}"}}]}}]}}"""
"""Asks for sentences near one post. Ours, after what is known of ReFineG's run."""

KINDS: dict[Kind, str] = {
    "same entities": "Every sentence holds all of the post's entities, spelled as there.",
    "new entities": (
        "Every sentence holds other entities than the post's, of the same types: real names of the "
        "domain, as different from one another as possible."
    ),
    "no entities": "No sentence holds an entity.",
}
"""What a question's sentences are to hold."""

_TOKEN = re.compile(r"[@#]?\w+(?:[-']\w+)*|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as an LLM wrote it, with the names that it marked."""

    text: str
    entities: tuple[tuple[str, str], ...]


def kinds_for(post: Post) -> tuple[Kind, ...]:
    """The questions that a seed post gives rise to."""
    return ("same entities", "new entities") if post.entities else ("no entities",)


def profile_messages(posts: Sequence[Post], scheme: Scheme) -> list[Message]:
    """PROFILE over some posts, as one user turn."""
    examples = "\n".join(f"- {marked(post)}" for post in posts)
    return _turn(PROFILE.format(types=type_lines(scheme), examples=examples))


def sentence_messages(
    post: Post, kind: Kind, profile: str, scheme: Scheme, count: int, low: int, high: int
) -> list[Message]:
    """SENTENCES near one post, as one user turn; `low` and `high` are words."""
    return _turn(
        SENTENCES.format(
            profile=profile,
            types=type_lines(scheme),
            post=marked(post),
            count=count,
            low=low,
            high=high,
            kind=KINDS[kind],
            choices=" | ".join(scheme.types),
        )
    )


def marked(post: Post) -> str:
    """A post's text and its entities: `TEXT — NAME [TYPE]; …`."""
    names = "; ".join(f"{one.name} [{one.type}]" for one in post.entities)
    return f"{post.text} — {names or 'no entity'}"


def read_profile(answer: str) -> str:
    """A profile in one line. Raises ReplyError for what describes no domain.

    It goes into every later prompt, so a refusal or a few words of consent must not pass.
    """
    return read_text(answer, *PROFILE_WORDS)


def read_sentences(answer: str) -> tuple[Sentence, ...]:
    """The sentences of an answer. Raises ValueError, in words for a model, where it has no form.

    What a single sentence gets wrong is `screen`'s to find.
    """
    value = json_value(answer)
    rows = value.get("sentences") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ReplyError("other-keys", 'wanted a JSON object with a list "sentences"')
    return tuple(map(_sentence, rows))


def _sentence(row: Any) -> Sentence:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ValueError('every sentence needs "text" and "entities"')
    entities = row.get("entities")
    if not isinstance(entities, list):
        raise ValueError('every sentence needs "text" and "entities"')
    found = []
    for entity in entities:
        name, kind = (entity.get(key) if isinstance(entity, dict) else None for key in _KEYS)
        if not isinstance(name, str) or not isinstance(kind, str):
            raise ValueError('every entity needs "name" and "type", both text')
        found.append((name, kind))
    return Sentence(row["text"], tuple(found))


_KEYS = ("name", "type")


def tokenised(text: str) -> tuple[str, ...]:
    """Words, handles and punctuation marks as tokens, as the posts of the field have them."""
    return tuple(_TOKEN.findall(text))


def to_post(
    sentence: Sentence, post_id: str, scheme: Scheme, tokenise: Tokenise = tokenised
) -> Post:
    """The sentence with its names marked wherever they stand, longer names first.

    Raises ValueError with the reason where a name does not occur, is empty, has no known type or
    two types, or would overlap another one.
    """
    tokens = tokenise(sentence.text)
    taken: set[int] = set()
    entities: list[Entity] = []
    for name, kind in sorted(dict.fromkeys(sentence.entities), key=lambda one: -len(one[0])):
        words = tokenise(name)
        if kind not in scheme.types:
            raise ValueError("an unknown type")
        places = [
            start
            for start in range(len(tokens) - len(words) + 1)
            if words and tokens[start : start + len(words)] == words
        ]
        if not places:
            raise ValueError("a name that its text does not hold")
        before = len(entities)
        for start in places:
            span = range(start, start + len(words))
            if taken.isdisjoint(span):
                taken.update(span)
                entities.append(Entity(" ".join(words), kind, span.start, span.stop))
        if len(entities) == before:
            raise ValueError("overlaps")
    return Post(post_id, tokens, tuple(sorted(entities, key=lambda one: one.span)))


def _turn(text: str) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]
