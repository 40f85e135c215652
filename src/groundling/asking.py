"""The only loop of questions to an assistant: asked many at once, each outcome kept as it comes.

A journal of JSON lines is the state. An answer in it is not asked for again; a failure is, by the
next run. A kill loses the calls under way and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from groundling.atomic import contents, write_bytes
from groundling.errors import DataError, RunError
from groundling.journal import Journal
from groundling.models.base import Assistant, Question
from groundling.progress import Progress
from groundling.records import PASSING, Failure
from groundling.strict_json import parse_json

Item = TypeVar("Item")
T = TypeVar("T")


def ask_all(
    assistant: Assistant,
    items: Sequence[Item],
    question: Callable[[Item], Question[T]],
    *,
    journal: Path,
    key: Callable[[Item], Sequence[object]],
    encode: Callable[[T], object],
    decode: Callable[[Any], T],
    tries: int = 2,
    progress: Progress | None = None,
) -> list[T | Failure]:
    """The outcome of one question an item, in order; items of one key are asked about once.

    `key` is all that decides an answer but the assistant's manner, the longest answer that the
    question allows and what is in its pictures, as JSON can hold it. `encode` turns an answer into
    something JSON can hold and `decode` turns it back; fresh answers make the same round trip.
    Raises InputError for what every call would meet, where another process holds the journal, and
    where it is broken.
    """
    seen = cache(contents)

    def key_of(item: Item) -> str:
        asked = question(item)
        pictures = list(map(seen, asked.pictures))
        return digest(assistant.manner, asked.max_tokens, list(key(item)), pictures)

    keys = [key_of(item) for item in items]
    with Journal(journal) as lines:
        found = _read(journal)
        wanted = {one: item for one, item in zip(keys, items, strict=True) if one not in found}
        if progress is not None:
            progress.skip(len(items) - len(wanted))
        places = list(wanted)
        failures: dict[str, Failure] = {}
        for place, outcome in assistant.ask([question(item) for item in wanted.values()], tries):
            if isinstance(outcome, Failure):
                failures[places[place]] = outcome
                lines.append({"key": places[place], "failure": outcome.to_json()})
            else:
                found[places[place]] = encode(outcome)
                lines.append({"key": places[place], "answer": found[places[place]]})
            if progress is not None:
                progress.advance(1)
    return [decode(found[one]) if one in found else failures[one] for one in keys]


def refuse_losses(what: str, outcomes: Sequence[object], total: int, tolerate: float) -> None:
    """Raise RunError where more than a share `tolerate` of `total` questions failed in passing.

    So too where no question got an answer that can be used, unless all losses are tolerated.
    `outcomes` holds all failures among them. The same call asks for those again, and may succeed.
    """
    lost = [one for one in outcomes if isinstance(one, Failure) and one.stage in PASSING]
    if len(lost) > tolerate * total:
        raise RunError(
            f"{what}: {len(lost)} of {total} questions failed at the endpoint, first: "
            f"{lost[0].reason}; run again to ask for these alone, or raise tolerate ({tolerate:g})"
        )
    useless = [one for one in outcomes if isinstance(one, Failure) and one.stage == "answer"]
    if useless and len(useless) + len(lost) == total and tolerate < 1:
        raise RunError(
            f"{what}: none of {total} questions got an answer that can be used, first: "
            f"{useless[0].reason}; see to the model or its settings and run again, or set "
            "tolerate to 1 to go on without"
        )


def write_failures(path: Path, told: Sequence[tuple[Mapping[str, object], Failure]]) -> None:
    """Write what failed, a line each: what it is about, why, at which stage.

    There is no file where nothing failed.
    """
    lines = [{**about, **one.to_json()} for about, one in told]
    if lines:
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        return
    with suppress(FileNotFoundError):
        path.unlink()


def digest(*parts: object) -> str:
    """SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(journal: Path) -> dict[str, Any]:
    """The answers in a journal by key; of several the last. Raises DataError."""
    found = {}
    for number, line in enumerate(journal.read_bytes().splitlines(), start=1):
        try:
            record: Any = parse_json(line)
            key = record["key"]
            if "answer" in record:
                found[key] = record["answer"]
        except (ValueError, LookupError, TypeError) as fault:
            raise DataError(
                journal, "not a line of this journal; delete it to ask again", number
            ) from fault
    return found
