"""What a run learns from: queries and posts whose pictures can be read.

All training pictures are read once before anything is trained, so that a damaged file costs its own
queries and not the run, hours into it. Such files are on record with their reasons in
`unreadable.json`. What a model is asked about is asked in any case, and fails one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from groundling.errors import DataError, ImageError
from groundling.images import load_image
from groundling.progress import Progress
from groundling.rundir import RunDir
from groundling.stage import Stage

T = TypeVar("T")

NAME = "unreadable.json"
THREADS = 4
"""Pillow lets go of the interpreter while it decodes."""


def look(
    run: RunDir, pictures: Iterable[str | None], after: Sequence[str], quiet: bool = False
) -> str:
    """A stage of its own that looks through pictures to learn from; its name."""
    stage = run.stage("pictures", after=after)
    if not stage.done:
        with stage:
            note_unreadable(stage, pictures, quiet)
    return stage.name


def note_unreadable(stage: Stage, pictures: Iterable[str | None], quiet: bool = False) -> None:
    """Write which of the pictures cannot be read, and why; None is no picture."""
    paths = [path for path in dict.fromkeys(pictures) if path is not None]
    found: dict[str, str] = {}
    with (
        Progress("training pictures", len(paths), "pictures", quiet=quiet) as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for path, reason in zip(paths, pool.map(_fault, paths), strict=True):
            progress.advance(1)
            if reason is not None:
                found[path] = reason
    stage.write_json(NAME, found)
    stage.failed(len(found))


def learnable(items: Sequence[T], picture: Callable[[T], str | None], run: Path) -> list[T]:
    """Those of the items whose pictures the run at `run` could read, or that have none.

    All of them where nobody looked: a run's own world is drawn whole. Raises DataError where
    nothing is left.
    """
    path = run / NAME
    faults = json.loads(path.read_bytes()) if path.exists() else {}
    left = [item for item in items if picture(item) not in faults]
    if items and not left:
        raise DataError(path, "no training picture can be read; check their folder")
    return left


def _fault(path: str) -> str | None:
    try:
        load_image(path)
    except ImageError as fault:
        return str(fault)
    return None
