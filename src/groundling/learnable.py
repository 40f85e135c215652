"""What a run learns from: queries and posts whose pictures can be read.

All pictures to learn from are read once before anything is trained, so that a damaged file costs
its own queries and not the run, hours into it. Such files are on record with their reasons in
`unreadable.json`, and posts without a picture beside them: what a run learns from does not change
under it. What a model is asked about is asked in any case, and fails one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from groundling.errors import DataError, ImageError
from groundling.images import load_image
from groundling.progress import Progress
from groundling.records import Post
from groundling.rundir import RunDir
from groundling.strict_json import read_object
from groundling.team import leads

NAME = "unreadable.json"
THREADS = 4
"""Pillow lets go of the interpreter while it decodes."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a run found when it looked, and the stage that holds it."""

    stage: str
    unreadable: Mapping[str, str]
    """Pictures that cannot be read, and why."""
    missing: frozenset[str]
    """Posts that had no picture, by id."""

    def learnable(self, posts: Sequence[Post]) -> list[Post]:
        """The posts but those with unreadable pictures, or with pictures that came later."""
        return [
            post
            for post in posts
            if post.image is None
            or (post.image not in self.unreadable and post.id not in self.missing)
        ]


def look(
    run: RunDir, posts: Sequence[Post], after: Sequence[str] = (), quiet: bool = False
) -> Looked:
    """A stage that notes which pictures of posts to learn from are missing or cannot be read.

    What it found stays true for the run, until a retry looks again. Raises DataError where no
    picture can be read, and where one is gone since.
    """
    stage = run.stage("pictures", after=after)
    if not stage.done or run.retry:
        with stage:
            paths = [path for path in dict.fromkeys(post.image for post in posts) if path]
            faults = _faults(paths, quiet) if leads() else {}
            missing = [post.id for post in posts if post.image is None]
            stage.write_json(NAME, {"unreadable": faults, "missing": missing})
            found = _noted(run, stage.name)
            if paths and len(found.unreadable) == len(paths):
                first = found.unreadable[paths[0]]
                raise DataError(
                    run.path / NAME, f"no picture to learn from can be read, first {first}"
                )
            stage.event("looked", pictures=len(paths), unreadable=len(found.unreadable))
            stage.failed(len(found.unreadable))
    found = _noted(run, stage.name)
    gone = [post.id for post in posts if post.image is None and post.id not in found.missing]
    if gone:
        raise DataError(
            run.path / NAME,
            f"{len(gone)} pictures are gone since the run began, first that of post {gone[0]}; "
            "put them back, or go on without them by --retry",
        )
    return found


def _noted(run: RunDir, stage: str) -> Looked:
    told = read_object(run.path / NAME)
    unreadable, missing = told.get("unreadable"), told.get("missing")
    if not isinstance(unreadable, dict) or not isinstance(missing, list):
        raise DataError(run.path / NAME, "wanted unreadable and missing pictures; restore it")
    return Looked(stage, unreadable, frozenset(map(str, missing)))


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
