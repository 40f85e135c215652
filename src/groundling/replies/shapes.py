"""What a reply can be instead of an answer."""

from __future__ import annotations

from collections.abc import Mapping

from groundling.records import Failure

KINDS: Mapping[str, str] = {
    # any reply
    "refused": "declines or evades; another model or server may answer",
    "filtered": "withheld by the server's content filter",
    "thought": "thinks aloud and gives no answer after it; turn thinking off, or raise max_tokens",
    "cut": "cut off at its token limit; raise max_tokens",
    "empty": "no visible character",
    "characters": "control characters, or half a surrogate pair",
    "beyond-limit": "far longer than max_tokens allows; the server ignores the limit",
    "echo": "repeats the prompt",
    # texts
    "json": "JSON where words were wanted",
    "markup": "code, tags or control tokens of a chat template among the words",
    "several": "several answers, or an answer and more; a lower max_tokens or another model helps",
    "absent": "says that what is marked or described is not there",
    "short": "too few words to be what was asked for",
    "named": "names the entity instead of describing it; --keep-odd keeps such expressions",
    "long": "far more words than an expression needs; --keep-odd keeps such expressions",
    "wrapped": "an expression with a fence, quotes, emphasis or a label around it; keep it alone",
    # boxes
    "prose": "the answer stands among other words; ask for it alone, or use another form",
    "list-then-list": "a box and then another list",
    "two-boxes": "more than one box for one entity",
    "strings": "a box whose numbers are written as text",
    "other-keys": "JSON with other keys than those asked for",
    "duplicate-keys": "a JSON key given twice",
    "other-form": "a box in another form than --set answer=… says",
    "no-box": "neither a box nor the sentence for absent",
    "outside": "a box outside the convention or without order; --set convention=… may be wrong",
    # JSON
    "not-json": "no JSON value alone",
    "content": "JSON of the right form with contents that cannot be used",
}
"""Each kind of reply that is no answer, and what it means: what `Failure.kind` may say of one."""

CHARACTERS_A_TOKEN = 32
"""No language's text has more characters a token, taken over a whole answer."""

_SHOWN = 80


class ReplyError(ValueError):
    """A reply that holds no answer: `kind` is a key of KINDS, the message one line."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind

    def failure(self, stage: str) -> Failure:
        """The failure that stands in the answer's place."""
        return Failure(str(self), stage, self.kind)


def told_kind(kind: str) -> str:
    """A kind with what it means, for people; anything else as it stands."""
    return f"{kind}: {KINDS[kind]}" if kind in KINDS else kind


def shown(text: str) -> str:
    """The beginning of a text in one line that every terminal and file can hold."""
    head = " ".join(text[: 4 * _SHOWN].split())
    head = "".join(c if c.isprintable() else "�" for c in head)
    return head if len(head) <= _SHOWN and len(text) <= 4 * _SHOWN else head[: _SHOWN - 1] + "…"
