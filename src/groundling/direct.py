"""Direct grounding (ISR Table 1): a model is asked for the boxes themselves, post by post.

Writes predictions that `groundling score --rule isr` reads, and goes on where it stopped. A post
is on the disk as soon as its last entity has an outcome. An entity that failed is an error, never
an answer, beside the answers of its post; where none was answered the post is an error record. The
next run asks about failed entities alone, after the posts that were never asked about; until they
are answered their errors stay. In the end posts with errors stand behind all others, those that
were asked about longest ago first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from groundling.atomic import write_bytes
from groundling.collect import kind_of
from groundling.data.jsonl import prediction_line, read_predictions, write_predictions
from groundling.errors import DataError
from groundling.journal import Journal
from groundling.models.base import DirectGrounder
from groundling.progress import Progress
from groundling.records import (
    NO_PICTURE,
    FailedEntity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
    Query,
)
from groundling.strict_json import parse_json


@dataclass
class Answered:
    """What a run of direct grounding did."""

    posts: int = 0
    """Posts answered in this run: none of their entities is an error."""
    kept: int = 0
    """Posts that the file held all answers to before."""
    left: int = 0
    """Posts that the limit left for another run."""
    boxes: int = 0
    """Boxes given in this run."""
    absent: int = 0
    """Entities said to be absent in this run."""
    failed_posts: int = 0
    """Posts that are error records now, or hold an error."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failures by kind, in entities asked about."""

    def as_json(self) -> dict[str, object]:
        """The counts for a command's summary."""
        return {
            "posts": self.posts,
            "kept": self.kept,
            "left": self.left,
            "boxes": self.boxes,
            "absent": self.absent,
            "failed_posts": self.failed_posts,
            "failed": dict(self.failed.most_common()),
        }


def maker_path(out: Path) -> Path:
    """Where it is told what made the predictions in `out`: their own format cannot say."""
    return out.with_name(f"{out.stem}.made-by.json")


def answer_posts(
    posts: Sequence[Post],
    grounder: DirectGrounder,
    out: Path,
    maker: Mapping[str, object],
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Answered:
    """Bring the predictions file `out` up to date with `posts`, asking about `limit` of them.

    Posts that failed before are asked about last, so that a limit always gets on. `maker` says who
    answers and how, in words and numbers that JSON can hold. Raises DataError where `out` cannot be
    read or was made otherwise, and what the grounder raises; what was written until then stays.
    """
    summary = Answered()
    again = again_path(out)
    with Journal(out, edited=True) as journal, ExitStack() as opened:
        held, failed = _held(out)
        if again.exists():
            if held or failed:  # a run was stopped while it asked again: its answers come first
                _take_over(again, held, failed)
                journal.replace(map(prediction_line, (*held.values(), *failed.values())))
            again.unlink()
        _claim(out, maker, empty=not held and all(item.silent for item in failed.values()))
        wanted = [post for post in posts if post.id not in held]
        age = {key: place for place, key in enumerate(failed, start=1)}
        wanted.sort(key=lambda post: age.get(post.id, 0))
        asked = wanted[:limit]
        if progress is not None:
            progress.skip(sum(len(post.entities) for post in posts if post.id in held))
            progress.expect(-sum(len(post.entities) for post in wanted[len(asked) :]))
        summary.kept = len(posts) - len(wanted)
        summary.left = len(wanted) - len(asked)
        redone: Journal | None = None
        for item in _answered(asked, dict(failed), grounder, summary, progress):
            before = failed.pop(item.id, None)
            (held if item.whole else failed)[item.id] = item
            if before is None:
                journal.append(prediction_line(item))
            elif item.whole or len(item.predictions) > len(before.predictions):
                # no id may come twice in the file itself
                redone = redone or opened.enter_context(Journal(again))
                redone.append(prediction_line(item))
        write_predictions(out, [*_in_order(posts, held), *failed.values()])
        again.unlink(missing_ok=True)
    summary.failed_posts = sum(post.id in failed for post in posts)
    return summary


def again_path(out: Path) -> Path:
    """Where answers to what failed before wait until the run ends.

    Putting each into the file at once would mean to write the whole file each time.
    """
    return out.with_name(f"{out.stem}.again.jsonl")


def _take_over(
    again: Path, held: dict[str, PostPrediction], failed: dict[str, PostPrediction]
) -> None:
    """Put the answers of a run that was killed in the place of the error records."""
    Journal(again).close()  # cuts off what the kill left half written
    for item in read_predictions(again):
        failed.pop(item.id, None)
        (held if item.whole else failed)[item.id] = item


def _held(out: Path) -> tuple[dict[str, PostPrediction], dict[str, PostPrediction]]:
    """The posts of the file that are answered, and those with errors, by their ids."""
    there = read_predictions(out)
    return (
        {item.id: item for item in there if item.whole},
        {item.id: item for item in there if not item.whole},
    )


def _claim(out: Path, maker: Mapping[str, object], empty: bool) -> None:
    """Write down who makes the file, or check that it is the same as before."""
    path = maker_path(out)
    try:
        before = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        before = None
    if empty:
        write_bytes(path, (json.dumps(maker, indent=2) + "\n").encode())
    elif not isinstance(before, dict):
        raise DataError(path, f"does not say who made {out}; restore it, or name another file")
    elif before != maker:
        keys = sorted(k for k in {*before, *maker} if before.get(k) != maker.get(k))
        told = "; ".join(f"{key}: was {before.get(key)}, is {maker.get(key)}" for key in keys)
        raise DataError(out, f"was made otherwise ({told}); name another file")


def _answered(
    posts: Sequence[Post],
    before: Mapping[str, PostPrediction],
    grounder: DirectGrounder,
    summary: Answered,
    progress: Progress | None,
) -> Iterator[PostPrediction]:
    """Each post once all of its entities have an outcome; answers of `before` are taken over."""
    queries: list[tuple[int, int, Query]] = []
    rows: list[list[Prediction | Failure | None]] = []
    for place, post in enumerate(posts):
        row = _known(post, before.get(post.id))
        if post.image is None:
            summary.failed[kind_of(NO_PICTURE)] += row.count(None)
            row = [said or NO_PICTURE for said in row]
        left = [index for index, said in enumerate(row) if said is None]
        if progress is not None:
            progress.skip(len(row) - len(left))
        rows.append(row)
        asked = list(post.queries())
        queries += [(place, index, asked[index]) for index in left]
        if not left:
            yield _gathered(post, row, summary)
    for number, said in grounder.answer([query for _, _, query in queries]):
        place, index, _ = queries[number]
        rows[place][index] = said
        _count(said, summary)
        if progress is not None:
            progress.advance()
        if None not in rows[place]:
            yield _gathered(posts[place], rows[place], summary)


def _known(post: Post, before: PostPrediction | None) -> list[Prediction | Failure | None]:
    """The answers that a post's entities had before; None for those to ask about."""
    answers = list(before.predictions if before is not None else ())
    row: list[Prediction | Failure | None] = []
    for entity in post.entities:
        key = (entity.name, entity.type, entity.start, entity.end)
        keys = [(said.name, said.type, said.start, said.end) for said in answers]
        row.append(answers.pop(keys.index(key)) if key in keys else None)
    return row


def _count(said: Prediction | Failure, summary: Answered) -> None:
    if isinstance(said, Failure):
        summary.failed[kind_of(said)] += 1
    else:
        summary.boxes += said.box is not None
        summary.absent += said.box is None


def _gathered(
    post: Post, row: Sequence[Prediction | Failure | None], summary: Answered
) -> PostPrediction:
    """What is said of a post, counted."""
    item = gathered(post, row)
    summary.posts += item.whole
    return item


def gathered(post: Post, row: Sequence[Prediction | Failure | None]) -> PostPrediction:
    """What came of a post's entities, in order."""
    return PostPrediction.of(
        post.id,
        (
            FailedEntity(entity.name, entity.type, said, entity.start, entity.end)
            if isinstance(said, Failure)
            else replace(said, start=entity.start, end=entity.end)
            for entity, said in zip(post.entities, row, strict=True)
            if said is not None
        ),
    )


def _in_order(posts: Sequence[Post], held: dict[str, PostPrediction]) -> list[PostPrediction]:
    """All lines: those of the posts in their order, then what else the file held."""
    first = dict.fromkeys(post.id for post in posts if post.id in held)
    return [held[key] for key in (*first, *(key for key in held if key not in first))]
