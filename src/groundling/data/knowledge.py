r"""What a language model has to say about posts: JSON lines, and the files of PGIM's authors.

    {"id": "17_06", "knowledge": "Named entities: Pak (LOC). …", "source": …, "examples": […]}

One line a post, by its id; a post that nothing is told of has no line. Who told it (`source`) and
which posts they were shown beside it (`examples`, ids) may be left out; other keys are ignored.

    Pak<TAB>B-LOC
    is<TAB>O
    <EOS><TAB>X
    Named<TAB>X
    entities:<TAB>X
    <blank line>

PGIM's: the post's tokens with their tags, then `<EOS>` and the words about it, tagged X (a few of
them are empty); lines end in `\r\n` or `\n`. There are no ids: a block belongs to the post of the
same tokens, and where several posts have those, to one after the other in the order of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from groundling.data.json_lines import Open, Text, read_json_lines, refuse, write_json_lines
from groundling.data.problems import read_bytes
from groundling.errors import DataError
from groundling.records import Post

LINES = ".jsonl"
"""How the names of files of JSON lines end."""

_END, _TOLD = "<EOS>", "X"
_NAMES: dict[str, tuple[str, ...]] = {"dev": ("dev.txt", "valid.txt")}


@dataclass(frozen=True, slots=True)
class Told:
    """Words about a post, which is named by its id or, in PGIM's files, by its tokens.

    `source` is who told them, `examples` the ids of the posts that they were shown beside it.
    """

    about: str | tuple[str, ...]
    knowledge: str
    source: str = ""
    examples: tuple[str, ...] = ()


def knowledge_path(folder: Path, split: str) -> Path:
    """The file of a split: `SPLIT.txt` (for dev also `valid.txt`) or `SPLIT.jsonl`.

    Raises DataError without one, and where there are both kinds.
    """
    names = (*_NAMES.get(split, (f"{split}.txt",)), f"{split}{LINES}")
    found = [name for name in names if (folder / name).is_file()]
    if not found:
        raise DataError(folder, f"no knowledge of split {split}; wanted {' or '.join(names)}")
    if len(found) > 1 and names[-1] in found:
        raise DataError(folder, f"holds {found[0]} and {names[-1]}; keep one of them")
    return folder / found[0]


def read_knowledge(path: Path) -> list[Told]:
    """What a file tells, in order. Raises DataError with the line that breaks the format."""
    if path.suffix == LINES:
        return list(_read_lines(path))
    return [_told(path, block) for block in _blocks(path)]


def write_knowledge(path: Path, told: Iterable[Told]) -> None:
    """Write JSON lines, the file whole or not at all.

    Raises InputError for what `read_knowledge` would refuse: words that say nothing, an id twice.
    """
    lines: Iterator[dict[str, object]] = (
        {
            "id": one.about,
            "knowledge": one.knowledge,
            "source": one.source,
            "examples": list(one.examples),
        }
        for one in told
    )
    write_json_lines(path, lines, _Line, unique_ids=True)


def with_knowledge(posts: Sequence[Post], told: Sequence[Told]) -> tuple[Post, ...]:
    """Posts with what is told of them; where nothing is, a post's `knowledge` stays as it is."""
    waiting: dict[str | tuple[str, ...], list[str]] = defaultdict(list)
    for one in reversed(told):
        waiting[one.about].append(one.knowledge)

    def known(post: Post) -> Post:
        found = waiting.get(post.id) or waiting.get(post.tokens)
        return replace(post, knowledge=found.pop()) if found else post

    return tuple(map(known, posts))


# --- JSON lines --------------------------------------------------------------------------------


def _says_something(words: str) -> str:
    if not words.strip():
        raise ValueError("says nothing; leave the line of such a post out")
    return words


class _Line(Open):
    id: Text
    knowledge: Annotated[str, AfterValidator(_says_something)]
    source: str = ""
    examples: list[str] = Field(default_factory=list)


def _read_lines(path: Path) -> Iterator[Told]:
    seen: set[str] = set()
    for number, line in read_json_lines(path, _Line, refuse):
        if line.id in seen:
            raise DataError(path, f"id {line.id!r} comes twice; wanted one line a post", number)
        seen.add(line.id)
        yield Told(line.id, line.knowledge, line.source, tuple(line.examples))


# --- PGIM's files ------------------------------------------------------------------------------


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
