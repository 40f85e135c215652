"""What an uncertain mention's question says, and what its answer means (ReFineG, refinement stage).

ReFineG asks a multimodal LLM, with a chain of thought, for a corrected entity and a corrected type,
and allows boundary edits of one or two words; the wording of its prompts is not on its page. The
prompt here is ours: one question for both, answered by one JSON object, in which the entity is
copied from the post, so that its tokens are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groundling.prompts import Message, type_lines
from groundling.records import Mention, Post, Scheme
from groundling.replies import ReplyError, folded, json_value

ASK = """\
A tagger marked a part of a post as a named entity, and is not sure. Decide what is right.

Types of entities:
{types}
Whatever fits none of these, and whatever is not a name (pronouns, common nouns), is no entity.

Post: {text}
Marked part: {name}
Marked as: {type}
{picture}
Think step by step: what does the post say about the marked part{look}? Does the name end where it \
is marked, or does it take in or leave out a word beside it? Which type fits? Then answer with one \
JSON object and nothing else:
{{"reasoning": "your thoughts in a few sentences", "entity": "the name, copied from the post", \
"type": "{choices}"}}
Where the marked part is no named entity, "entity" and "type" are null. The name may begin and end \
at most {reach} words before or after the marked part does."""
"""The question about one mention. Ours, after the description of ReFineG's prompts."""


def refinement_messages(
    post: Post, mention: Mention, scheme: Scheme, reach: int, *, picture: bool
) -> list[Message]:
    """ASK for one mention of a post, as one user turn, with the post's picture in front or not."""
    words = ASK.format(
        types=type_lines(scheme),
        text=post.text,
        name=" ".join(post.tokens[mention.start : mention.end]),
        type=mention.type,
        picture="The picture of the post is shown above.\n" if picture else "",
        look=", and what does the picture show" if picture else "",
        choices=" | ".join(scheme.types),
        reach=reach,
    )
    shown: list[Message] = [{"type": "image"}] if picture else []
    return [{"role": "user", "content": [*shown, {"type": "text", "text": words}]}]


def refinement_schema(scheme: Scheme) -> dict[str, Any]:
    """The JSON schema of an answer to ASK, for a model that can be held to it."""
    text_or_null = {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string"},
            "entity": text_or_null,
            "type": {**text_or_null, "enum": [*scheme.types, None]},
        },
        "required": ["reasoning", "entity", "type"],
        "additionalProperties": False,
    }


def read_refinement(
    answer: str, post: Post, mention: Mention, scheme: Scheme, reach: int
) -> tuple[Mention | None, str]:
    """What the mention should be, None where it is no entity, and the reasons given.

    Raises ValueError, in words that can be told to a model, for what is no answer to ASK.
    """
    value = _object(answer)
    reasons = value["reasoning"]
    if not isinstance(reasons, str) or not reasons.strip():
        raise ValueError('"reasoning" is empty')
    name, kind = value["entity"], value["type"]
    if name is None and kind is None:
        return None, reasons
    if not isinstance(name, str) or not isinstance(kind, str):
        raise ValueError('"entity" and "type" must both be text, or both null')
    if kind not in scheme.types:
        raise ValueError(f"unknown type {kind!r}; wanted one of {', '.join(scheme.types)}")
    span = locate(name, post.tokens, mention, reach)
    if span is None:
        raise ValueError(
            f"{name!r} is not in the post within {reach} words of where the marked part begins "
            "and ends; copy the name from the post"
        )
    return Mention(*span, kind, mention.confidence), reasons


def locate(
    name: str, tokens: Sequence[str], mention: Mention, reach: int
) -> tuple[int, int] | None:
    """Tokens [start, end) that spell `name`, each end at most `reach` tokens from the mention's.

    White space and letter case do not matter. Of several the one nearest to the mention is taken,
    of equally near ones the first; None where there is none.
    """
    wanted = folded(name)
    found = [
        (abs(start - mention.start) + abs(end - mention.end), start, end)
        for start in range(max(0, mention.start - reach), mention.start + reach + 1)
        for end in range(max(start + 1, mention.end - reach), mention.end + reach + 1)
        if end <= len(tokens) and folded("".join(tokens[start:end])) == wanted
    ]
    return min(found)[1:] if wanted and found else None


def _object(answer: str) -> dict[str, Any]:
    """The JSON object of an answer, alone or in a code fence, with exactly the three keys."""
    value = json_value(answer)
    if not isinstance(value, dict) or value.keys() != {"reasoning", "entity", "type"}:
        raise ReplyError(
            "other-keys", 'wanted a JSON object with the keys "reasoning", "entity" and "type"'
        )
    return value
