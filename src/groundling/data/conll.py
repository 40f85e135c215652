r"""Texts with BIO tags, one token a line; in Twitter-GMNER with an id above each post.

    IMGID:71044
    of<TAB>O
    Garfield<TAB>B-LOC
    Park<TAB>I-LOC
    <blank line>

Lines end in `\n` alone: tokens hold other characters that some splitters take for line ends.
An `I-` tag after `O`, or after another type, opens an entity. A scheme says which types there are
and how they are written: Twitter-GMNER's OTHER on disk is MISC in memory. `columns` reads files
without ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundling.data.problems import Problem, Report, read_bytes
from groundling.records import TWITTER, Entity, EntityType, Scheme

ID_MARK = "IMGID:"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TaggedPost:
    """A post as its text file has it; `line` (from 1) is the one above its first token."""

    id: str
    line: int
    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    def token_line(self, index: int) -> int:
        """The line of token `index`, from 1."""
        return self.line + 1 + index


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of one type; `orphan` where an `I-` tag opened it."""

    type: EntityType
    start: int
    end: int
    orphan: bool = False


def is_file_id(post_id: str) -> bool:
    """Whether an id can name a file on its own: no separator, control character or outer space."""
    return (
        post_id not in {"", ".", ".."}
        and post_id == post_id.strip()
        and not re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", post_id)
    )


class TagSet:
    """The tags of a scheme: `O`, and each of `marks` with each type, as in memory or on disk."""

    def __init__(self, scheme: Scheme, marks: str = "BI") -> None:
        spellings = {*scheme.types, *map(scheme.on_disk, scheme.types)}
        self._known = {"O", *(f"{mark}-{kind}" for mark in marks for kind in spellings)}
        *first, last = map(scheme.on_disk, scheme.types)
        types = f"{', '.join(first)} or {last}" if first else last
        self._wanted = f"wanted O or {'/'.join(f'{mark}-' for mark in marks)} with {types}"

    def fault(self, tag: str) -> str | None:
        """What is wrong with a tag, in one sentence; None where it is one of the scheme's."""
        return None if tag in self._known else f"tag {shown(tag)} is unknown; {self._wanted}"


def bio_spans(tags: Sequence[str], scheme: Scheme = TWITTER) -> list[Span]:
    """The entity spans of a valid BIO tag sequence, in order.

    >>> bio_spans(["B-PER", "I-PER", "O", "I-LOC"])
    [Span(type='PER', start=0, end=2, orphan=False), Span(type='LOC', start=3, end=4, orphan=True)]
    """
    spans: list[Span] = []
    for index, tag in enumerate(tags):
        if tag == "O":
            continue
        mark, kind = tag[0], scheme.parse(tag[2:])
        last = spans[-1] if spans else None
        if mark == "I" and last and last.end == index and last.type == kind:
            spans[-1] = Span(kind, last.start, index + 1, last.orphan)
        else:
            spans.append(Span(kind, index, index + 1, orphan=mark == "I"))
    return spans


def bio_tags(length: int, entities: Sequence[Entity], scheme: Scheme = TWITTER) -> list[str]:
    """BIO tags for entities over `length` tokens, as on disk (in Twitter-GMNER MISC is OTHER).

    Positions outside the text are left out; of two overlapping entities the later one wins, so a
    caller compares `bio_spans` of the result with what was to be written. Raises InputError for an
    entity whose tokens are not known.
    """
    tags = ["O"] * length
    for entity in entities:
        kind = scheme.on_disk(entity.type)
        start, end = entity.span
        for index in range(max(start, 0), min(end, length)):
            tags[index] = f"{'B' if index == start else 'I'}-{kind}"
    return tags


def read_tagged_posts(path: Path, report: Report, scheme: Scheme = TWITTER) -> Iterator[TaggedPost]:
    """The posts of one text file, in order; what is wrong goes to `report`.

    A post with a broken line is reported and left out; of two posts with one id the first stays.
    Raises DataError where the file cannot be read, and whatever `report` raises.
    """
    first_line: dict[str, int] = {}
    tags = TagSet(scheme)
    for block in blocks(path, report):
        post = _parse_block(path, block, tags, report)
        if post is None:
            continue
        if post.id in first_line:
            message = f"post id {post.id!r} was used before, in line {first_line[post.id]}"
            report(Problem(str(path), post.line, "duplicate-post", message))
            continue
        first_line[post.id] = post.line
        yield post


def listed_ids(path: Path) -> set[str]:
    """Every id that an IMGID line of the file states, also those of broken posts."""
    text = read_bytes(path).decode("utf-8", "replace")
    return {
        line.removeprefix(ID_MARK).removesuffix("\r")
        for line in text.split("\n")
        if line.startswith(ID_MARK) and "\t" not in line
    }


Block = list[tuple[int, str | None]]
"""Consecutive numbered lines without a blank one; None stands for one that is not UTF-8."""


def blocks(path: Path, report: Report) -> Iterator[Block]:
    """The blocks of a file; a line that is not UTF-8, or an id without a blank line above it, is
    reported.
    """
    data = read_bytes(path).removeprefix(_BOM)
    block: Block = []
    crlf_seen = False
    for number, raw in enumerate(data.split(b"\n"), start=1):
        if raw.endswith(b"\r"):
            raw = raw[:-1]
            if not crlf_seen:
                report(Problem(str(path), number, "crlf", "lines end in \\r\\n; wanted \\n alone"))
            crlf_seen = True
        line = _decoded(path, number, raw, report)
        if line == "":
            if block:
                yield block
            block = []
            continue
        if block and line is not None and line.startswith(ID_MARK) and "\t" not in line:
            message = f"{shown(line)} follows a token; wanted a blank line above it"
            report(Problem(str(path), number, "missing-blank-line", message))
            yield block
            block = []
        block.append((number, line))
    if block:
        yield block


def _decoded(path: Path, number: int, raw: bytes, report: Report) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        message = f"byte 0x{raw[fault.start]:02x} at column {fault.start + 1} is not UTF-8"
        report(Problem(str(path), number, "not-utf8", message))
        return None


def _parse_block(path: Path, block: Block, known: TagSet, report: Report) -> TaggedPost | None:
    """The post in a block, or None where a line is broken (each one reported)."""
    number, head = block[0]
    if head is None:
        return None
    if not head.startswith(ID_MARK) or "\t" in head:
        message = f"{shown(head)} belongs to no post; wanted {ID_MARK}<id> after a blank line"
        report(Problem(str(path), number, "line-outside-post", message))
        return None
    post_id = head.removeprefix(ID_MARK)
    whole = is_file_id(post_id)
    if not whole:
        message = (
            f"post id {shown(post_id)} cannot name a file; wanted one without / \\ or outer space"
        )
        report(Problem(str(path), number, "bad-post-id", message))
    tokens, tags = [], []
    for at, line in block[1:]:
        fields = _token_and_tag(path, at, line, known, report)
        if fields is None:
            whole = False
        else:
            tokens.append(fields[0])
            tags.append(fields[1])
    return TaggedPost(post_id, number, tuple(tokens), tuple(tags)) if whole else None


def _token_and_tag(
    path: Path, number: int, line: str | None, known: TagSet, report: Report
) -> tuple[str, str] | None:
    if line is None:
        return None
    token, _, tag = line.partition("\t")
    if not token or line.count("\t") != 1:
        tabs = line.count("\t")
        found = "no token before its tab" if tabs == 1 else f"{tabs} tabs"
        message = f"{shown(line)} has {found}; wanted token<TAB>tag"
        report(Problem(str(path), number, "malformed-line", message))
        return None
    if fault := known.fault(tag):
        report(Problem(str(path), number, "unknown-tag", fault))
        return None
    return token, tag


def shown(text: str, limit: int = 60) -> str:
    """Text as a Python literal, cut where it is long, so that a message stays one line."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}…"
