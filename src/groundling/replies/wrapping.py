"""What is around an answer: a thought, a chat template's tokens, a fence, quotes, a label."""

from __future__ import annotations

import re
import unicodedata

from groundling.replies.shapes import ReplyError, shown

_THOUGHT = r"<(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷"
_THOUGHT_END = r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷"
_OPENS = re.compile(_THOUGHT, re.I)
_ENDS = re.compile(_THOUGHT_END, re.I)

_ROLE = re.compile(
    r"<\|im_start\|>assistant\s|<\|start_header_id\|>assistant<\|end_header_id\|>\s*|<\|assistant\|>\s*"
)
_END = re.compile(r"\s*(?:<\|(?:im_end|endoftext|eot_id|end|end_of_text)\|>|</s>)$")
_ANSWER = re.compile(r"<answer>(.*)</answer>", re.S | re.I)
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)\s*```", re.S)


def opened(reply: str) -> str:
    """A reply without what its chat template left around it and without one closed thought.

    A thought that the prompt opened may close in the reply. Raises ReplyError for a thought that
    is open, nested or without an answer after it, for a reply without a visible character, and for
    one with control characters or half a surrogate pair.
    """
    for character in reply:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r\v\f\x85":
            raise ReplyError("characters", f"holds the character U+{ord(character):04X}")
    text = _without_tokens(reply.strip())
    if _OPENS.search(text) or _ENDS.search(text):
        text = _without_tokens(_without_thought(text))
    if answer := _ANSWER.fullmatch(text):
        text = answer.group(1).strip()
    if not any(unicodedata.category(character)[0] in "LNPS" for character in text):
        raise ReplyError("empty", "an empty answer")
    return text


def unfenced(text: str) -> str:
    """What a code fence around a whole text holds; a text without one as it stands."""
    fenced = _FENCE.fullmatch(text.strip())
    return fenced.group(1).strip() if fenced and "```" not in fenced.group(1) else text


def _without_tokens(text: str) -> str:
    text = _ROLE.sub("", text, count=1) if _ROLE.match(text) else text
    while (shorter := _END.sub("", text)) != text:
        text = shorter
    return text.strip()


def _without_thought(text: str) -> str:
    """What follows the only thought, which begins the text or began before it."""
    opens, ends = _OPENS.findall(text), list(_ENDS.finditer(text))
    begins = not opens or (len(opens) == 1 and _OPENS.match(text))
    if len(ends) != 1 or not begins:
        raise ReplyError("thought", f"an unfinished thought: {shown(text)}")
    rest = text[ends[0].end() :].strip()
    if not rest:
        raise ReplyError("thought", f"a thought without an answer: {shown(text)}")
    return rest


# --- around a text in plain words ----------------------------------------------------------------

_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "「": "」", "『": "』", "`": "`", "'": "'"}
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_SLANTED = re.compile(r"([*_])(?=\S)([^*_\n]+)(?<=\S)\1([.!]?)")
_LABEL = re.compile(
    r"(?:#+\s*)?(?:(?:the|a|my|final)\s+)?(?:referring\s+expression|expression|description|caption|"
    r"answer|response|output|指代表达式?|描述|答案|回答|antwort|beschreibung|réponse|description|"
    r"respuesta|descripción|expresión(?:\s+referencial)?)(?:\s+(?:is|for\s+[^:\n]{1,60}))?\s*"
    r"(?:[:：]|(?<=\w)\n)\s*",
    re.I,
)
_PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|here(?:'s|’s| is| are)|"
    r"the following is|好的|当然|这是|以下是|natürlich|gerne|hier ist|bien sûr|voici|claro|aquí)\b"
    r"|好的|当然|这是|以下是)[^:：\n]{0,160}[:：]\s*",
    re.I,
)
_CONSENT = re.compile(r"(?:sure|certainly|of course|absolutely)[!.]\s+(?=\S)", re.I)
_ITEM = re.compile(r"(?:1[.)]|[-*•])\s+(?=\S)")


def unwrapped(text: str) -> str:
    """A text in plain words without what is certainly no part of it.

    That is: a code fence or quotes around the whole, marks of emphasis, a label or a polite
    sentence with a colon in front, the mark of a list's only item.
    """
    while (inner := _peeled(text.strip())) != text:
        text = inner
    return text


def _peeled(text: str) -> str:
    """One layer less."""
    for peel in (unfenced, _unquoted, _unstressed, _unlabelled):
        if (inner := peel(text)) != text:
            return inner.strip()
    return text


def _unquoted(text: str) -> str:
    closing = _QUOTES.get(text[:1])
    body = text.removesuffix(".") if closing and text.endswith(f"{closing}.") else text
    inner = body[1:-1]
    if closing is None or len(body) < 3 or not body.endswith(closing):
        return text
    if closing == "'" and re.search(r"\B'|'\B", inner):
        return text
    if closing != "'" and (closing in inner or text[0] in inner):
        return text
    return inner


def _unstressed(text: str) -> str:
    text = _BOLD.sub(r"\2", text)
    whole = _SLANTED.fullmatch(text)
    return whole.group(2) + whole.group(3) if whole else text


def _unlabelled(text: str) -> str:
    for around in (_LABEL, _PREAMBLE, _CONSENT):
        match = around.match(text)
        if match and text[match.end() :].strip():
            return text[match.end() :]
    item = _ITEM.match(text)
    if item and not re.search(r"\n\s*(?:\d+[.)]|[-*•])\s|\s2[.)]\s", text):
        return text[item.end() :]
    return text
