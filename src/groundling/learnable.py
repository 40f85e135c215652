"""What a run learns from: queries and posts whose pictures can be read.

All pictures to learn from are read once before anything is trained, so that a damaged file costs
its own queries and not the run, hours into it. Such files are on record with their reasons in
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
from groundling.team import leads

T = TypeVar("T")

NAME = "unreadable.json"
THREADS = 4
"""Pillow lets go of the interpreter while it decodes."""


def look(
    run: RunDir, pictures: Iterable[str | None], after: Sequence[str] = (), quiet: bool = False
) -> str:
    """A stage that notes which pictures cannot be read; its name. None is no picture.

    A retry always looks again. Raises DataError where no picture can be read.
    """
    stage = run.stage("pictures", after=after)
    if stage.done and not run.retry:
        return stage.name
    paths = [path for path in dict.fromkeys(pictures) if path is not None]
    with stage:
        stage.write_json(NAME, _faults(paths, quiet) if leads() else {})
        faults = _noted(run.path)
        if paths and len(faults) == len(paths):
            raise DataError(
                run.path / NAME,
                f"no picture to learn from can be read, first {faults[paths[0]]}",
            )
        stage.event("looked", pictures=len(paths), unreadable=len(faults))
        stage.failed(len(faults))
    return stage.name


def learnable(items: Sequence[T], picture: Callable[[T], str | None], run: Path) -> list[T]:
    """Those of the items whose pictures the run at `run` could read, or that have none.

    All of them where nobody looked: a run's own world is drawn whole.
    """
    faults = _noted(run)
    return [item for item in items if picture(item) not in faults]


def _noted(run: Path) -> dict[str, str]:
    path = run / NAME
    found: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def _faults(paths: Sequence[str], quiet: bool) -> dict[str, str]:
    """Why pictures cannot be read, of those that cannot."""
    faults: dict[str, str] = {}
    with (
        Progress("pictures to learn from", len(paths), "pictures", quiet=quiet) as progress,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for path, reason in zip(paths, pool.map(_fault, paths), strict=True):
            if reason is not None:
                faults[path] = reason
            progress.advance(1, f"{len(faults)} of them cannot be read" if faults else "")
    return faults


def _fault(path: str) -> str | None:
    try:
        load_image(path)
    except ImageError as fault:
        return str(fault)
    return None
