"""Direct grounding (ISR Table 1): a model is asked for the boxes themselves, post by post.

Writes predictions that `groundling score --rule isr` reads, and goes on where it stopped. A post
is on the disk as soon as its last entity is answered. A post of which one entity failed is an
error record, never an answer, and is asked again by the next run, after the posts that were never
asked about; until it is answered its record stays. In the end error records stand behind all
answers, those that were asked longest ago first.
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
from groundling.records import NO_PICTURE, Failure, Post, PostPrediction, Prediction, Query
from groundling.strict_json import parse_json


@dataclass
class Answered:
    """What a run of direct grounding did."""

    posts: int = 0
    """Posts answered in this run."""
    kept: int = 0
    """Posts that the file held answers to before."""
    left: int = 0
    """Posts that the limit left for another run."""
    boxes: int = 0
    """Boxes given in this run."""
    absent: int = 0
    """Entities said to be absent in this run."""
    failed_posts: int = 0
    """Posts that are error records now."""
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
        _claim(out, maker, empty=not held)
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
        for item in _answered(asked, grounder, summary, progress):
            before = failed.pop(item.id, None)
            (held if item.failure is None else failed)[item.id] = item
            if before is None:
                journal.append(prediction_line(item))
            elif item.failure is None:  # no id may come twice in the file itself
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
        held[item.id] = item


def _held(out: Path) -> tuple[dict[str, PostPrediction], dict[str, PostPrediction]]:
    """The answers of the file, and its error records, by the ids of posts."""
    there = read_predictions(out)
    return (
        {item.id: item for item in there if item.failure is None},
        {item.id: item for item in there if item.failure is not None},
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
    grounder: DirectGrounder,
    summary: Answered,
    progress: Progress | None,
) -> Iterator[PostPrediction]:
    """Each post once all of its entities are answered."""
    queries: list[tuple[int, int, Query]] = []
    rows: list[list[Prediction | Failure | None]] = []
    for place, post in enumerate(posts):
        rows.append([None] * len(post.entities))
        if post.image is None and post.entities:
            rows[place] = [NO_PICTURE] * len(post.entities)
            if progress is not None:
                progress.skip(len(post.entities))
        if None in rows[place]:
            queries += [(place, index, query) for index, query in enumerate(post.queries())]
        else:
            yield _gathered(post, rows[place], summary)
    for number, said in grounder.answer([query for _, _, query in queries]):
        place, index, _ = queries[number]
        rows[place][index] = said
        if progress is not None:
            progress.advance()
        if None not in rows[place]:
            yield _gathered(posts[place], rows[place], summary)


def _gathered(
    post: Post, row: Sequence[Prediction | Failure | None], summary: Answered
) -> PostPrediction:
    """What is said of a post, counted."""
    item = gathered(post, row)
    summary.failed.update(kind_of(said) for said in row if isinstance(said, Failure))
    if item.failure is not None:
        return item
    summary.posts += 1
    summary.boxes += sum(one.box is not None for one in item.predictions)
    summary.absent += sum(one.box is None for one in item.predictions)
    return item


def gathered(post: Post, row: Sequence[Prediction | Failure | None]) -> PostPrediction:
    """The answers to a post's entities, in order, or the first failure among them."""
    failure = next((said for said in row if isinstance(said, Failure)), None)
    predictions = tuple(
        replace(said, start=entity.start, end=entity.end)
        for entity, said in zip(post.entities, row, strict=True)
        if isinstance(said, Prediction)
    )
    return PostPrediction(post.id, predictions if failure is None else (), failure)


def _in_order(posts: Sequence[Post], held: dict[str, PostPrediction]) -> list[PostPrediction]:
    """All lines: those of the posts in their order, then what else the file held."""
    first = dict.fromkeys(post.id for post in posts if post.id in held)
    return [held[key] for key in (*first, *(key for key in held if key not in first))]
