"""Replies that are a referring expression, or another text in plain words."""

from __future__ import annotations

import re
from functools import cache

from groundling.prompts import EXPERT, WRITE
from groundling.records import is_absent
from groundling.replies.refusals import declines, denies, evades
from groundling.replies.shapes import ReplyError, shown
from groundling.replies.wrapping import opened, unwrapped

MOST_WORDS = 80
"""Longest expression that is not odd, in words: OFA's grounder reads no more."""
ECHOED_WORDS = 7
"""Words of a prompt in a row that make a text its echo."""

_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_MARKUP = re.compile(r"```|<\|[\w ]+\|>|</?[a-z][\w-]*>|\[/?INST\]|^#{1,6}\s|\\boxed|\$\$", re.M)
_SECOND_ITEM = re.compile(r"(?:^|\n)\s*(?:2[.)]|[-*•])\s+\S|^1[.)]\s.*\s2[.)]\s", re.S)


def read_expression(reply: str) -> str:
    """The expression that a reply holds, in one line; ABSENT as it stands.

    Raises ReplyError for a reply that is no expression. What names the entity or is overlong is
    one: `oddity` tells.
    """
    text = opened(unwrapped(opened(reply)))
    if is_absent(text):
        return " ".join(text.split())
    _refuse_shapes(text, most_paragraphs=1)
    line = " ".join(text.split())
    if declines(line) or evades(line):
        raise ReplyError("refused", f"no expression: {shown(line)}")
    if denies(line):
        raise ReplyError("absent", f"says in other words that it is not there: {shown(line)}")
    if _echoes(line):
        raise ReplyError("echo", f"repeats the prompt: {shown(line)}")
    return line


def read_text(reply: str, least_words: int, most_words: int) -> str:
    """A reply in plain words of a given length, in one line; it may have several paragraphs.

    Raises ReplyError for one that declines, is JSON or code, or is shorter or longer.
    """
    text = opened(unwrapped(opened(reply)))
    line = " ".join(text.split())
    if declines(line):
        raise ReplyError("refused", f"declines to answer: {shown(line)}")
    if text[:1] in ("{", "["):
        raise ReplyError("json", f"JSON where words were wanted: {shown(line)}")
    if "```" in text or re.search(r"<\|[\w ]+\|>", text):
        raise ReplyError("markup", f"code or control tokens among the words: {shown(line)}")
    words = word_count(line)
    if words < least_words:
        raise ReplyError("short", f"{words} words are too few: {shown(line)}")
    if words > most_words:
        raise ReplyError("long", f"{words} words; wanted at most {most_words}: {shown(line)}")
    return line


def spoken(text: str) -> str:
    """What a writer's text says, for a grounder: the text itself, or what follows one thought.

    Raises ReplyError where it declines, denies or does nothing but think. All else is a matter
    between writer and grounder.
    """
    try:
        said = opened(text)
    except ReplyError as fault:
        if fault.kind == "thought":
            raise
        return text
    line = " ".join(said.split())
    if declines(line):
        raise ReplyError("refused", f"no expression: {shown(line)}")
    if denies(line) and not is_absent(line):
        raise ReplyError("absent", f"says in other words that it is not there: {shown(line)}")
    return text if said == text.strip() else said


def oddity(expression: str, name: str) -> ReplyError | None:
    """Why an expression is one to look at: `named` (names the entity) or `long`."""
    if names_entity(expression, name):
        return ReplyError("named", f"names the entity: {shown(expression)}")
    if (words := word_count(expression)) > MOST_WORDS:
        return ReplyError(
            "long", f"{words} words; wanted at most {MOST_WORDS}: {shown(expression)}"
        )
    return None


def names_entity(expression: str, name: str) -> bool:
    """Whether an expression holds an entity's name, whole and as words of its own.

    A name of one word counts only as it is spelled, or with a capital: `rose` is no Rose.

    >>> names_entity("Neymar in a yellow shirt", "Neymar"), names_entity("a red rose", "Rose")
    (True, False)
    """
    wanted = name.strip().lstrip("@#").strip()
    if not re.search(r"\w", wanted):
        return False
    if expression.strip(" .!\"'").casefold() == wanted.casefold():
        return True
    words = r"\s+".join(map(re.escape, wanted.split()))
    if _CJK.search(wanted):
        return len(wanted) > 1 and wanted in expression
    if len(wanted.split()) > 1:
        return re.search(rf"(?<!\w){words}(?!\w)", expression, re.I) is not None
    capital = wanted[:1].upper() + wanted[1:]
    spelled = {one for one in (wanted, capital) if one != one.lower() or one == one.upper()}
    return len(wanted) > 1 and any(
        re.search(rf"(?<!\w){re.escape(one)}(?!\w)", expression) for one in spelled
    )


def word_count(text: str) -> int:
    """Words of a text; two characters of a script without spaces count as one."""
    dense = len(_CJK.findall(text))
    return len(_CJK.sub(" ", text).split()) + (dense + 1) // 2


def _refuse_shapes(text: str, most_paragraphs: int) -> None:
    if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
        raise ReplyError("json", f"JSON where words were wanted: {shown(text)}")
    if _MARKUP.search(text):
        raise ReplyError("markup", f"code, tags or control tokens: {shown(text)}")
    if len(re.split(r"\n\s*\n", text)) > most_paragraphs or _SECOND_ITEM.search(text):
        raise ReplyError("several", f"more than one answer: {shown(text)}")


def _echoes(line: str) -> bool:
    return not _runs(line).isdisjoint(_prompt_runs())


@cache
def _prompt_runs() -> frozenset[str]:
    return frozenset(_runs(EXPERT) | _runs(WRITE.partition("\n")[0]))


def _runs(text: str) -> set[str]:
    words = re.findall(r"\w+", text.casefold())
    return {" ".join(words[i : i + ECHOED_WORDS]) for i in range(len(words) - ECHOED_WORDS + 1)}
