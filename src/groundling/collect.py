"""Collects expert expressions (ISR §3.2) into an expressions file, and goes on where it stopped.

For a groundable entity an expert describes its largest box, drawn on the picture; an ungroundable
entity's expression is ABSENT and nobody is asked. One line serves all mentions of a name with one
type in one post.

The file is the state: what is in it is done, corrections by hand included. A line is on the disk
before the next answer is waited for; when all is done the file is put into the order of the posts.
What failed, and what is no expression or an odd one, is not in it but in a file beside it, those
that were asked longest ago first, and is asked again by the next run of its posts, after what was
never asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from groundling.asking import write_failures
from groundling.data.expressions_jsonl import (
    EntityExpression,
    read_expressions,
    write_expressions,
)
from groundling.errors import DataError
from groundling.journal import Journal
from groundling.progress import Progress
from groundling.records import (
    ABSENT,
    NO_PICTURE,
    Box,
    EntityType,
    Expression,
    Failure,
    Post,
    is_absent,
)
from groundling.replies import ReplyError, oddity, read_expression
from groundling.strict_json import parse_json

DRAWN_BOX_WORDS = ("bounding box", "green box", "green rectangle", "green outline")
"""Words of an expression that speaks of the drawn box, which is on no other picture."""


class Expert(Protocol):
    """Whoever can describe a marked region; `source` is `expert:MODEL`."""

    source: str

    def describe(
        self, marked: Sequence[tuple[str, Box]]
    ) -> Iterator[tuple[int, Expression | Failure]]:
        """One expression for each (picture path, box in original pixels), in any order."""
        ...


Key = tuple[str, str, EntityType]
"""Post id, name, type: what one line of the file is about."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An expression that a file should hold; `box` None where the answer is ABSENT."""

    key: Key
    image: str | None
    box: Box | None


@dataclass
class Collected:
    """What a run of the collection did, in expressions."""

    asked: int = 0
    """Groundable entities that the expert was asked about in this run."""
    written: int = 0
    """Expressions that it gave."""
    absent: int = 0
    """Lines that say ABSENT, written in this run."""
    kept: int = 0
    """Wanted expressions that the file held before."""
    left: int = 0
    """Wanted expressions that the limit left for another run."""
    speaks_of_box: int = 0
    """Expressions in the file that speak of the drawn box: read and mend them."""
    odd: Counter[str] = field(default_factory=Counter)
    """Expressions in the file that name their entity (`named`) or are overlong (`long`)."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failures by kind."""

    def as_json(self) -> dict[str, object]:
        """The counts for a command's summary."""
        return {
            "asked": self.asked,
            "written": self.written,
            "absent": self.absent,
            "kept": self.kept,
            "left": self.left,
            "speaks_of_box": self.speaks_of_box,
            "odd": dict(self.odd.most_common()),
            "failed": dict(self.failed.most_common()),
        }


def wanted_expressions(posts: Sequence[Post]) -> list[Wanted]:
    """One for each name and type of each post, in order; groundable iff any of its mentions is."""
    found: dict[Key, Wanted] = {}
    for post in posts:
        for entity in post.entities:
            key = (post.id, entity.name, entity.type)
            if key not in found or found[key].box is None:
                found[key] = Wanted(key, post.image, entity.largest_box)
    return list(found.values())


def failures_path(out: Path) -> Path:
    """Where the failures of a collection into `out` are told."""
    return out.with_name(f"{out.stem}.failures.jsonl")


def collect_expressions(
    posts: Sequence[Post],
    expert: Expert,
    out: Path,
    *,
    limit: int | None = None,
    keep_odd: bool = False,
    progress: Progress | None = None,
) -> Collected:
    """Bring the expressions file `out` up to date with `posts`, asking about `limit` at most.

    What failed before is asked last, so that a limit always gets on. An expression that names its
    entity or is overlong is a failure too, unless `keep_odd`. Raises DataError where `out`
    holds another expert's expressions or cannot be read, and what the expert raises; what was
    written until then stays.
    """
    wanted = wanted_expressions(posts)
    summary = Collected()
    with Journal(out, edited=True) as journal:
        there = _held(out, wanted, expert.source)
        summary.kept = sum(want.key in there for want in wanted)
        missing = [want for want in wanted if want.key not in there]
        if progress is not None:
            progress.skip(sum(want.box is not None and want.key in there for want in wanted))
        for want in missing:
            if want.box is None:
                _add(want, Expression(ABSENT, expert.source), there, journal)
                summary.absent += 1
        waiting = [want for want in missing if want.box is not None]
        told = _told_failures(failures_path(out))
        failed = {key: failure for key, failure in told.items() if key not in there}
        age = {key: place for place, key in enumerate(failed, start=1)}
        waiting.sort(key=lambda want: age.get(want.key, 0))
        summary.left = 0 if limit is None else max(0, len(waiting) - limit)
        if progress is not None:
            progress.expect(-summary.left)
        try:
            for want, said in _described(waiting[:limit], expert):
                summary.asked += 1
                failed.pop(want.key, None)
                said = said if isinstance(said, Failure) else _judged(said, want, keep_odd)
                if isinstance(said, Failure):
                    failed[want.key] = said
                    summary.failed[kind_of(said)] += 1
                else:
                    _add(want, said, there, journal)
                    summary.written += 1
                if progress is not None:
                    progress.advance()
        finally:
            write_failures(failures_path(out), [(_about(key), one) for key, one in failed.items()])
        write_expressions(out, _in_order(wanted, there))
    summary.speaks_of_box = sum(
        any(words in line.expression.text.lower() for words in DRAWN_BOX_WORDS)
        for lines in there.values()
        for line in lines
    )
    for key, lines in there.items():
        found = (oddity(line.expression.text, key[1]) for line in lines)
        summary.odd.update(one.kind for one in found if one is not None)
    return summary


def _judged(said: Expression, want: Wanted, keep_odd: bool) -> Expression | Failure:
    """An expert's words as they are kept, or why they are not."""
    try:
        text = read_expression(said.text)
    except ReplyError as fault:
        return fault.failure("answer")
    if is_absent(text):
        return Failure("says that a marked entity does not appear", "answer", "absent")
    odd = None if keep_odd else oddity(text, want.key[1])
    return replace(said, text=text) if odd is None else odd.failure("answer")


def kind_of(failure: Failure) -> str:
    """What a failure is counted under: its kind, or its reason less the part that differs."""
    if failure.stage == "image":
        return "the picture cannot be used"
    return failure.kind or failure.reason.partition(": ")[0]


def _held(out: Path, wanted: Sequence[Wanted], source: str) -> dict[Key, list[EntityExpression]]:
    """The lines of the file by what they are about.

    Left out is an ABSENT of this expert for what is groundable: the annotations have changed.
    """
    groundable = {want.key for want in wanted if want.box is not None}
    there: dict[Key, list[EntityExpression]] = {}
    for line in read_expressions(out):
        key = (line.post_id, line.name, line.type)
        by = line.expression.source
        if by.startswith("expert:") and by != source:
            raise DataError(
                out, f"holds expressions of {by}, not of {source}; name another file for these"
            )
        if not (by == source and line.expression.absent and key in groundable):
            there.setdefault(key, []).append(line)
    return there


def _described(
    asked: Sequence[Wanted], expert: Expert
) -> Iterator[tuple[Wanted, Expression | Failure]]:
    """Each wanted expression with what the expert says; nobody is asked without a picture."""
    marked: list[tuple[str, Box]] = []
    known: list[Wanted] = []
    for want in asked:
        if want.image is None or want.box is None:
            yield want, NO_PICTURE
        else:
            marked.append((want.image, want.box))
            known.append(want)
    for place, said in expert.describe(marked):
        yield known[place], said


def _add(
    want: Wanted,
    expression: Expression,
    there: dict[Key, list[EntityExpression]],
    journal: Journal,
) -> None:
    """Append a line to the file, and to what is known of it."""
    there[want.key] = [EntityExpression(*want.key, expression)]
    said = {"expression": expression.text, "source": expression.source}
    journal.append(_about(want.key) | said)


def _about(key: Key) -> dict[str, object]:
    return dict(zip(("id", "entity", "type"), key, strict=True))


def _in_order(
    wanted: Sequence[Wanted], there: dict[Key, list[EntityExpression]]
) -> list[EntityExpression]:
    """All lines: the wanted ones in the order of the posts, then what else the file held."""
    first = dict.fromkeys(want.key for want in wanted if want.key in there)
    rest = dict.fromkeys(key for key in there if key not in first)
    return [line for key in (*first, *rest) for line in there[key]]


def _told_failures(path: Path) -> dict[Key, Failure]:
    """What was told of failures before, in its order. Raises DataError for anything else."""
    try:
        rows: list[Any] = [parse_json(line) for line in path.read_bytes().splitlines()]
        return {
            (row["id"], row["entity"], row["type"]): Failure(
                row["reason"], row["stage"], row.get("kind", "")
            )
            for row in rows
        }
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError) as fault:
        raise DataError(path, "does not say what failed; restore or remove it") from fault
