r"""Texts with tags in columns and nothing else, as most taggers read and write them.

    The<TAB>O
    Marder<TAB>B-vehicle
    <blank line>

A line's fields lie between its tabs, or, where it has none, between spaces. An `IMGID:<id>` line
may head a block; a block without one gets its id from its place: `train-1` is the first of split
`train`. A file may be packed (`.gz`). Such files say nothing of pictures: no entity has a box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundling.atomic import write_bytes
from groundling.data.conll import (
    ID_MARK,
    Block,
    TaggedPost,
    TagSet,
    bio_spans,
    bio_tags,
    blocks,
    is_file_id,
    shown,
)
from groundling.data.gmner import USUAL_SPLITS, Split, in_usual_order
from groundling.data.picture_index import PictureIndex
from groundling.data.problems import Problem, Report, keep_errors, refuse_errors
from groundling.errors import DataError, InputError
from groundling.records import TWITTER, Entity, Post, Scheme

ENDINGS = (".conll", ".bio", ".conll.gz", ".bio.gz")
"""Names of files that hold tagged texts, for those who look for them in a folder."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token's line (from 1) and fields, the token first."""

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowBlock:
    """The rows of one text. `place` counts all blocks of the file from 1, `id` is as stated."""

    place: int
    line: int
    id: str | None
    rows: tuple[Row, ...]


def read_rows(path: Path, report: Report) -> Iterator[RowBlock]:
    """The blocks of a file whose lines all have a token (maybe empty) and another field, in order.

    The others are reported and left out. Raises DataError where the file cannot be read.
    """
    for place, block in enumerate(blocks(path, report), start=1):
        first, head = block[0]
        post_id = None
        if head is not None and head.startswith(ID_MARK) and "\t" not in head:
            post_id, block = head.removeprefix(ID_MARK), block[1:]
        rows = _rows(path, block, report)
        if post_id is not None and not is_file_id(post_id):
            message = f"post id {shown(post_id)} cannot name a file; wanted no / \\ or outer space"
            report(Problem(str(path), first, "bad-post-id", message))
        elif rows is not None:
            yield RowBlock(place, first if post_id is not None else first - 1, post_id, rows)


def read_column_posts(
    path: Path, split: str, report: Report, scheme: Scheme = TWITTER
) -> Iterator[TaggedPost]:
    """The posts of a file of two columns, token and BIO tag; what is wrong goes to `report`.

    Raises DataError where the file cannot be read, and whatever `report` raises.
    """
    known = TagSet(scheme)
    first_line: dict[str, int] = {}
    for block in read_rows(path, report):
        post_id = block.id or f"{split}-{block.place}"
        faults = [problem for row in block.rows for problem in _row_faults(path, row, known)]
        if post_id in first_line:
            message = f"post id {post_id!r} was used before, in line {first_line[post_id]}"
            faults.append(Problem(str(path), block.line, "duplicate-post", message))
        for problem in faults:
            report(problem)
        if not faults:
            first_line[post_id] = block.line
            tokens = tuple(row.fields[0] for row in block.rows)
            tags = tuple(row.fields[1] for row in block.rows)
            yield TaggedPost(post_id, block.line, tokens, tags)


def read_columns(
    path: Path,
    split: str,
    images: Path | None = None,
    *,
    skip_bad: bool = False,
    scheme: Scheme = TWITTER,
) -> Split:
    """Read one file as a split; with `images`, pictures called by the posts' ids are looked for.

    A broken line raises DataError, or, with `skip_bad`, leaves its post out and is recorded.
    """
    skipped: list[Problem] = []
    report = keep_errors(skipped) if skip_bad else refuse_errors
    index = None if images is None else PictureIndex(images)
    posts = []
    for text in read_column_posts(path, split, report, scheme):
        picture = index.find(text.id) if index else None
        image = None if picture is None else str(picture)
        posts.append(Post(text.id, text.tokens, tagged_entities(text, scheme), image))
    missing = tuple(post.id for post in posts if index and post.image is None)
    return Split(split, tuple(posts), missing_images=missing, skipped=tuple(skipped))


def tagged_entities(text: TaggedPost, scheme: Scheme) -> tuple[Entity, ...]:
    """The entities that a text's tags mark, called by their tokens; none has a box."""
    return tuple(
        Entity(" ".join(text.tokens[span.start : span.end]), span.type, span.start, span.end)
        for span in bio_spans(text.tags, scheme)
    )


def write_columns(path: Path, posts: Sequence[Post], scheme: Scheme = TWITTER) -> None:
    """Write texts and tags under `IMGID:<id>` lines; boxes and pictures are not kept.

    Raises InputError, before anything is written, for a post that `read_columns` would not give
    back: an id that is no file name or comes twice, a token that is empty or has a tab or newline,
    entities that overlap or are out of order.
    """
    seen: set[str] = set()
    chunks = []
    for post in posts:
        if fault := _unfit(post, seen, scheme):
            raise InputError(f"post {post.id!r}: {fault}")
        seen.add(post.id)
        tags = bio_tags(len(post.tokens), post.entities, scheme)
        lines = (f"{token}\t{tag}\n" for token, tag in zip(post.tokens, tags, strict=True))
        chunks.append(f"{ID_MARK}{post.id}\n{''.join(lines)}\n")
    write_bytes(path, "".join(chunks).encode("utf-8"))


def column_files(src: Path) -> dict[str, Path]:
    """The files of tagged texts in a folder, or `src` itself, by split: train, dev, test first.

    A split is called like its file, or by the last word of that name where it is a usual one
    (`CCKS_Aug_train.conll.gz` is `train`). Raises DataError where there is none, or one twice.
    """
    files = [src] if src.is_file() else sorted(p for p in src.glob("*") if p.name.endswith(ENDINGS))
    found: dict[str, Path] = {}
    for path in files:
        name = _split_name(path)
        if name in found:
            raise DataError(path, f"{found[name].name} is split {name!r} too; rename one of them")
        found[name] = path
    if not found:
        raise DataError(src, f"no such file, nor a folder with {', '.join(ENDINGS)} files")
    return {name: found[name] for name in in_usual_order(found)}


def _split_name(path: Path) -> str:
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    last = re.split(r"[-_.]", stem)[-1]
    return last if last in USUAL_SPLITS else stem


def _rows(path: Path, block: Block, report: Report) -> tuple[Row, ...] | None:
    """The rows of a block; None where a line is broken (each one reported)."""
    rows = []
    for number, line in block:
        fields = None if line is None else _fields(line)
        if fields is not None and len(fields) < 2:
            message = f"{shown(line or '')} has no tag beside its token; wanted token<TAB>tag"
            report(Problem(str(path), number, "malformed-line", message))
            fields = None
        if fields is not None:
            rows.append(Row(number, fields))
    return tuple(rows) if len(rows) == len(block) else None


def _fields(line: str) -> tuple[str, ...]:
    return tuple(line.split("\t")) if "\t" in line else tuple(re.split(" +", line.rstrip(" ")))


def _row_faults(path: Path, row: Row, known: TagSet) -> Iterator[Problem]:
    token, *others = row.fields
    if not token or len(others) != 1:
        found = f"{len(others)} fields after its token" if token else "no token before its tab"
        message = f"{shown(' '.join(row.fields))} has {found}; wanted token<TAB>tag"
        yield Problem(str(path), row.line, "malformed-line", message)
    elif fault := known.fault(others[0]):
        yield Problem(str(path), row.line, "unknown-tag", fault)


def _unfit(post: Post, seen: set[str], scheme: Scheme) -> str | None:
    """Why a post does not fit the format, or None."""
    if post.id in seen or not is_file_id(post.id):
        return "its id comes twice or cannot name a file"
    for token in post.tokens:
        if not token or re.search(r"[\t\n\ud800-\udfff]", token):
            return f"token {token!r} does not fit a line; wanted text without tab or \\n"
    spans = bio_spans(bio_tags(len(post.tokens), post.entities, scheme), scheme)
    given = [(entity.type, entity.start, entity.end) for entity in post.entities]
    if given != [(span.type, span.start, span.end) for span in spans]:
        return "its entities overlap, leave the text or are out of order"
    return None
