"""RiVEG's released output: its tagger's entities, and which of them it takes to be in the picture.

    imgid<TAB>entity<TAB>type<TAB>groundable
    71044<TAB>Garfield Park<TAB>LOC<TAB>0
    475049<TAB>San Francisco City Hall<TAB>LOC<TAB>2

`groundable` is 0 (not in the picture) or 2 (in it). The table holds no boxes. A post without a row
is not in it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from groundling.data.mentions import nameless, place_runs
from groundling.data.problems import Report, read_bytes
from groundling.errors import DataError, InputError
from groundling.records import (
    TWITTER,
    UNPLACED,
    Entity,
    Post,
    PostPrediction,
    Prediction,
    Scheme,
)

COLUMNS = ("imgid", "entity", "type", "groundable")


def read_riveg(
    path: Path,
    posts: Sequence[Post],
    report: Report,
    scheme: Scheme = TWITTER,
    *,
    perfect_boxes: bool = False,
) -> list[PostPrediction]:
    """Read a table, packed (.gz) or not; names are looked up in the tokens of `posts`.

    A name that is no run of its post's tokens is reported and kept without them. An entity in the
    picture has the box UNPLACED, or, with `perfect_boxes`, the largest box of the first groundable
    gold entity of its name and type that none had before: with those, RiVEG's GMNER score is the
    upper bound of what its grounding can reach. Raises DataError for a broken line.
    """
    rows: dict[str, list[tuple[int, Prediction]]] = {}
    for line, (post_id, name, kind, grounded) in _rows(path):
        try:
            box = {"0": None, "2": UNPLACED}[grounded]
            answer = Prediction(name, scheme.parse(kind), box)
        except KeyError as fault:
            raise DataError(path, f"groundable is {grounded!r}; wanted 0 or 2", line) from fault
        except InputError as fault:
            raise DataError(path, str(fault), line) from fault
        rows.setdefault(post_id, []).append((line, answer))
    known = {post.id: post for post in posts}
    found = []
    for post_id, answers in rows.items():
        post = known.get(post_id, Post(post_id, ()))
        said = _with_tokens(path, post, answers, report if post_id in known else None)
        found.append(PostPrediction(post_id, _with_gold(said, post) if perfect_boxes else said))
    return found


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str, str, str]]]:
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise DataError(path, f"byte {fault.start} is not UTF-8") from fault
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, fields in enumerate(_sound(path, lines), start=1):
        if number == 1:
            if tuple(fields) != COLUMNS:
                raise DataError(path, f"its first line is not {' '.join(COLUMNS)}", 1)
        elif len(fields) != len(COLUMNS) or not fields[1]:
            raise DataError(path, f"{len(fields)} fields; wanted {' '.join(COLUMNS)}", number)
        else:
            post_id, name, kind, grounded = fields
            yield number, (post_id, name, kind, grounded)


def _sound(path: Path, lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """The lines. Raises DataError for a field beyond what the reader takes."""
    number = 0
    try:
        for fields in lines:
            number += 1
            yield fields
    except csv.Error as fault:
        raise DataError(path, f"not a table ({fault})", number + 1) from fault


def _with_tokens(
    path: Path, post: Post, answers: Sequence[tuple[int, Prediction]], report: Report | None
) -> tuple[Prediction, ...]:
    """Predictions with their tokens; names without any go to `report`, where there is one."""
    found = []
    places = place_runs([answer.name for _, answer in answers], post.tokens)
    for (line, answer), place in zip(answers, places, strict=True):
        if place is not None:
            name = " ".join(post.tokens[place.start : place.end])
            answer = Prediction(name, answer.type, answer.box, place.start, place.end)
        elif report:
            report(nameless(path, line, answer.name, post.id))
        found.append(answer)
    return tuple(found)


def _with_gold(answers: Sequence[Prediction], post: Post) -> tuple[Prediction, ...]:
    """Predictions in the picture with gold boxes instead of none, as far as gold has them."""
    left: list[Entity] = [entity for entity in post.entities if entity.groundable]
    found = []
    for answer in answers:
        same = [e for e in left if (e.name, e.type) == (answer.name, answer.type)]
        if answer.box is not None and same:
            left.remove(same[0])
            answer = Prediction(
                answer.name, answer.type, same[0].largest_box, answer.start, answer.end
            )
        found.append(answer)
    return tuple(found)
