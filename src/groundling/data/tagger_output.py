"""What taggers print: tokens, gold tags where they had them, and their own tags.

    Marder<TAB>O<TAB>B-vehicle        or    Marder B-vehicle
    1A3<TAB>O<TAB>I-vehicle                 1A3 I-vehicle

BIO or BIOES. Blocks belong to posts by their `IMGID:<id>` lines, or, where no block has one, in
order. Their tokens must be those of the posts; what follows an `<EOS>` token is not looked at
(some systems append knowledge to a text). A tagger says nothing of pictures: every box is UNPLACED.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from groundling.data.columns import Row, RowBlock, read_rows
from groundling.data.conll import TagSet, bio_spans
from groundling.data.json_lines import refuse
from groundling.data.problems import Problem
from groundling.errors import DataError
from groundling.records import (
    TWITTER,
    UNPLACED,
    Failure,
    Post,
    PostPrediction,
    Prediction,
    Scheme,
)

STAGE = "import"
"""The stage of a post whose output breaks off before its text ends."""

_END_OF_TEXT = "<EOS>"
_AS_BIO = str.maketrans({"S": "B", "E": "I"})


def read_tagger_output(
    path: Path, posts: Sequence[Post], scheme: Scheme = TWITTER, *, column: int | None = None
) -> list[PostPrediction]:
    """Read a file of columns, packed (.gz) or not; `column` (from 1) has the tags, else the last.

    A post whose output breaks off before its text ends is a failure. Raises DataError for a broken
    line, an unknown tag, tokens that are not the post's, and for blocks that cannot be paired with
    posts: an unknown id or one used twice, or, without ids, another number of them.
    """
    known = TagSet(scheme, "BIES")
    return [
        _predicted(path, post, block, _tags(path, block, column, known), scheme)
        for post, block in _paired(path, posts)
    ]


def _paired(path: Path, posts: Sequence[Post]) -> Iterator[tuple[Post, RowBlock]]:
    blocks = list(read_rows(path, _refuse_errors))
    if all(block.id is None for block in blocks):
        speaking = [post for post in posts if post.tokens]
        if len(blocks) != len(speaking):
            counts = f"{len(blocks)} texts for {len(speaking)} posts with tokens"
            raise DataError(path, f"{counts}; without IMGID lines they go by order")
        yield from zip(speaking, blocks, strict=True)
        return
    waiting = {post.id: post for post in posts}
    for block in blocks:
        post = waiting.pop(block.id or "", None)
        if post is None:
            message = f"IMGID {block.id!r} is none of the posts, or comes twice"
            raise DataError(path, message, block.line)
        yield post, block


def _refuse_errors(problem: Problem) -> None:
    """Lines that end in \\r\\n are read; nothing broken is."""
    if problem.severity == "error":
        refuse(problem)


def _tags(path: Path, block: RowBlock, column: int | None, known: TagSet) -> list[tuple[Row, str]]:
    """The rows of a text with the tags of one column, as BIO."""
    found = []
    for row in block.rows:
        if row.fields[0] == _END_OF_TEXT:
            break
        if column is not None and not 2 <= column <= len(row.fields):
            raise DataError(path, f"no tag column {column} of {len(row.fields)}", row.line)
        tag = row.fields[-1 if column is None else column - 1]
        if fault := known.fault(tag):
            raise DataError(path, f"{fault}; name the column of tags with --column", row.line)
        found.append((row, tag[0].translate(_AS_BIO) + tag[1:]))
    return found


def _predicted(
    path: Path,
    post: Post,
    block: RowBlock,
    tagged: Sequence[tuple[Row, str]],
    scheme: Scheme,
) -> PostPrediction:
    if len(tagged) > len(post.tokens):
        message = f"{len(tagged)} tokens for the {len(post.tokens)} of post {post.id!r}"
        raise DataError(path, message, block.line)
    for (row, _), token in zip(tagged, post.tokens, strict=False):
        if row.fields[0] != token:
            message = f"token {row.fields[0]!r} where post {post.id!r} has {token!r}"
            raise DataError(path, message, row.line)
    if len(tagged) < len(post.tokens):
        reason = f"the output ends after {len(tagged)} of {len(post.tokens)} tokens"
        return PostPrediction(post.id, failure=Failure(reason, STAGE))
    answers = []
    for span in bio_spans([tag for _, tag in tagged], scheme):
        name = " ".join(post.tokens[span.start : span.end])
        answers.append(Prediction(name, span.type, UNPLACED, span.start, span.end))
    return PostPrediction(post.id, tuple(answers))
