"""What the reply of a language model holds, or why it holds no answer.

    shapes       what a reply can be instead of an answer, by name; ReplyError
    wrapping     what is around an answer and is taken off: a thought, a fence, quotes, a label
    refusals     words that decline or evade, in several languages
    expressions  replies that are a referring expression, or another text in plain words
    values       replies that are one JSON value

Every reply is read here, whoever was asked: what is certainly around an answer is taken off, and
whatever is then no answer is a ReplyError that names its shape. Boxes are read by
`models.box_text`, with the same rules. Nothing is searched for, completed or guessed.
"""

from groundling.replies.expressions import (
    names_entity,
    oddity,
    read_expression,
    read_text,
    spoken,
    word_count,
)
from groundling.replies.refusals import declines, evades
from groundling.replies.shapes import KINDS, ReplyError, shown, told_kind
from groundling.replies.values import folded, json_value
from groundling.replies.wrapping import opened, unfenced

__all__ = [
    "KINDS",
    "ReplyError",
    "declines",
    "evades",
    "folded",
    "json_value",
    "names_entity",
    "oddity",
    "opened",
    "read_expression",
    "read_text",
    "shown",
    "spoken",
    "told_kind",
    "unfenced",
    "word_count",
]
