"""The only batch map: items in fixed chunks, each chunk's results kept as soon as it is done.

A killed stage goes on at the next chunk and ends with the results of an undisturbed run: where a
chunk begins depends on the items and the chunk size alone, never on what was done before, so a
backend sees the same batches either way.

A chunk that holds a `Failure` is run again on resume, as a whole: running only its failed items
would change the composition of the batch, and with it, perhaps, the other answers.

Several processes (`groundling.team`) share the chunks out and read one another's. Where parameters
are shared out too, every process must run every chunk, and the leader's results are kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from groundling import atomic
from groundling.errors import RunError
from groundling.progress import Progress
from groundling.records import Failure
from groundling.strict_json import parse_json
from groundling.team import Team, team

T = TypeVar("T")
R = TypeVar("R")


def _unchanged(value: Any) -> Any:
    return value


def _nothing(_: object) -> object:
    return None


def map_batches(
    items: Sequence[T],
    fn: Callable[[int, Sequence[T]], Sequence[R | Failure]],
    *,
    chunk_size: int,
    folder: Path | None = None,
    encode: Callable[[R], object] = _unchanged,
    decode: Callable[[Any], R] = _unchanged,
    context: str = "",
    about: Callable[[T], object] = _nothing,
    progress: Progress | None = None,
) -> list[R | Failure]:
    """`fn(chunk_index, chunk)` over consecutive chunks of `items`; one result an item, in order.

    With a `folder` of its own (in a stage's scratch) each chunk is stored there as JSON lines. On
    resume it is taken from there, iff it holds no failure and carries the digest of its position,
    its items (dataclasses, or whatever JSON can hold), of `about` each of them, such as what is in
    its picture, and of `context`: whatever else decides the results, such as the sampling settings,
    where the folder may outlive them. `encode` turns a
    result into something JSON can hold and `decode` turns it back; fresh results make the same
    round trip, so that they cannot differ from stored ones.

    What `fn` raises goes through; chunks finished before stay. Raises RunError if `fn` does not
    return one result an item.
    """
    chunks = [items[start : start + chunk_size] for start in range(0, len(items), chunk_size)]
    results: list[R | Failure] = []
    if folder is None:
        for index, chunk in enumerate(chunks):
            results += _run(fn, index, chunk)
            if progress is not None:
                progress.advance(len(chunk))
        return results

    def digest_of(index: int, chunk: Sequence[T]) -> str:
        told = [[_plain(item), about(item)] for item in chunk]
        return _digest([index, context, told])

    jobs = [
        _Job(index, chunk, folder / f"chunk-{index:05d}.jsonl", digest_of(index, chunk))
        for index, chunk in enumerate(chunks)
    ]

    us = team()

    def made(job: _Job[T]) -> list[str]:
        lines = [_encoded(result, encode) for result in _run(fn, job.index, job.chunk)]
        if us.leader or not us.sharded:
            _store(job.path, job.digest, lines)
        return lines

    if us.size > 1:
        _share_out(us, jobs, made, progress)
    for job in jobs:
        if us.size > 1:
            lines = _read(job)
        else:
            stored = _load(job.path, job.digest)
            lines = stored or made(job)
            if progress is not None:
                (progress.skip if stored else progress.advance)(len(job.chunk))
        results += [_decoded(line, decode) for line in lines]
    return results


@dataclasses.dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    """A chunk, where its results are stored, and the digest of what they answer."""

    index: int
    chunk: Sequence[T]
    path: Path
    digest: str


def _share_out(
    us: Team,
    jobs: Sequence[_Job[T]],
    made: Callable[[_Job[T]], list[str]],
    progress: Progress | None,
) -> None:
    """Run the chunks that are not stored, each by one process or, if need be, by all in step."""
    mine = [job for job in jobs if us.sharded or job.index % us.size == us.rank]
    done = {job.index for job in mine if _load(job.path, job.digest) is not None}
    if us.sharded:
        done = us.broadcast(done)
    own = {job.index for job in mine}
    for job in jobs:
        if job.index in own and job.index not in done:
            made(job)
        if progress is not None:
            (progress.skip if job.index in done else progress.advance)(len(job.chunk))
    us.barrier()


def _read(job: _Job[T]) -> list[str]:
    """A chunk that some process has stored just now, its failures too."""
    lines = _load(job.path, job.digest, failures=True)
    if lines is None:
        raise RunError(
            f"{job.path}: another process has written it, this one cannot read it; "
            "the run directory must be on a disk that all processes share"
        )
    return lines


def _run(
    fn: Callable[[int, Sequence[T]], Sequence[R | Failure]], index: int, chunk: Sequence[T]
) -> Sequence[R | Failure]:
    results = fn(index, chunk)
    if len(results) != len(chunk):
        raise RunError(
            f"chunk {index}: got {len(results)} results for {len(chunk)} items; "
            "the backend must return one an item"
        )
    return results


def _encoded(result: R | Failure, encode: Callable[[R], object]) -> str:
    if isinstance(result, Failure):
        return json.dumps({"failure": result.to_json()}, ensure_ascii=False)
    return json.dumps({"result": encode(result)}, ensure_ascii=False)


def _decoded(line: str, decode: Callable[[Any], R]) -> R | Failure:
    stored: Any = parse_json(line.encode())
    return Failure(**stored["failure"]) if "failure" in stored else decode(stored["result"])


def _store(path: Path, digest: str, lines: Sequence[str]) -> None:
    """Write a chunk: a head line with what it answers and how many failed, then its results."""
    head = {
        "inputs": digest,
        "results": _digest(lines),
        "failures": sum(line.startswith('{"failure"') for line in lines),
    }
    text = "\n".join([json.dumps(head), *lines]) + "\n"
    atomic.write_bytes(path, text.encode())


def _load(path: Path, digest: str, failures: bool = False) -> list[str] | None:
    """A stored chunk's result lines; None where it is missing, stale or damaged.

    None too where it holds failures, unless those are asked for.
    """
    try:
        first, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        head = parse_json(first.encode())
    except (FileNotFoundError, ValueError):
        return None
    wanted = {"inputs": digest, "results": _digest(lines)}
    known = head.pop("failures", None) if isinstance(head, dict) else None
    return lines if head == wanted and (failures or known == 0) else None


def _plain(item: object) -> object:
    """An item as JSON can hold it."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {"record": type(item).__name__, **dataclasses.asdict(item)}
    return item


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
