r"""What a language model has to say about posts, in the files that PGIM's authors published.

    Pak<TAB>B-LOC
    is<TAB>O
    <EOS><TAB>X
    Named<TAB>X
    entities:<TAB>X
    <blank line>

The post's tokens with their tags, then `<EOS>` and the words about it, tagged X (a few of them
are empty); lines end in `\r\n` or `\n`. There are no ids: a block belongs to the post of the same
tokens, and where several posts have those, to one after the other in the order of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from groundling.data.problems import read_bytes
from groundling.errors import DataError
from groundling.records import Post

_END, _TOLD = "<EOS>", "X"
_NAMES = {"dev": ("dev.txt", "valid.txt")}


@dataclass(frozen=True, slots=True)
class Told:
    """A block: the tokens of a post, and the words about it joined by single spaces."""

    tokens: tuple[str, ...]
    knowledge: str


def knowledge_path(folder: Path, split: str) -> Path:
    """The file of a split: `SPLIT.txt`, or `valid.txt` for dev. Raises DataError without one."""
    names = _NAMES.get(split, (f"{split}.txt",))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(folder, f"no knowledge of split {split}; wanted {' or '.join(names)}")


def read_knowledge(path: Path) -> list[Told]:
    """The blocks of a file, in order. Raises DataError with the line that breaks the format."""
    return [_told(path, block) for block in _blocks(path)]


def with_knowledge(posts: Sequence[Post], told: Sequence[Told]) -> tuple[Post, ...]:
    """Posts with what is told of them; without a block a post's `knowledge` stays as it is."""
    waiting: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for block in reversed(told):
        waiting[block.tokens].append(block.knowledge)
    return tuple(
        replace(post, knowledge=waiting[post.tokens].pop()) if waiting.get(post.tokens) else post
        for post in posts
    )


Line = tuple[int, str, str]
"""Line number (from 1), token, tag."""


def _blocks(path: Path) -> Iterator[list[Line]]:
    block: list[Line] = []
    for number, raw in enumerate(read_bytes(path).split(b"\n"), start=1):
        try:
            line = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as fault:
            raise DataError(path, "not UTF-8", number) from fault
        if line:
            token, _, tag = line.partition("\t")
            if not tag or "\t" in tag:
                raise DataError(path, f"got {line[:60]!r}; wanted token<TAB>tag", number)
            block.append((number, token, tag))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _told(path: Path, block: Sequence[Line]) -> Told:
    ends = (i for i, (_, token, tag) in enumerate(block) if (token, tag) == (_END, _TOLD))
    end = next(ends, None)
    if end is None:
        raise DataError(path, f"a post without {_END}<TAB>{_TOLD} behind it", block[0][0])
    for number, _, tag in block[end:]:
        if tag != _TOLD:
            raise DataError(path, f"tag {tag} behind {_END}; wanted {_TOLD}", number)
    tokens = tuple(token for _, token, _ in block[:end])
    return Told(tokens, " ".join(word for _, word, _ in block[end + 1 :] if word))
