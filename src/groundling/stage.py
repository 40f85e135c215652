"""One stage of a run: done, or a block to run, which ends with a marker.

    stages/NAME.json     the marker of a finished stage: its inputs and its artefacts' digests
    scratch/NAME/        what the stage keeps while it is in progress; gone when it is done whole

A stage is done iff its marker exists, the stages it builds on are unchanged, and every artefact
it names has the named digest. The marker is written last, so a kill at any instant leaves either
a finished stage or one that is run again; running it again replaces artefacts by equal ones.

The marker also counts what failed within the stage and may succeed another time (a call, a
picture). Such a stage keeps its scratch, and a retry, once it has marked it, runs it again: for its
failures alone where it works in batches. What it holds stays until the new is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from groundling import atomic
from groundling.records import count_failures
from groundling.shared_files import SharedArtefacts
from groundling.strict_json import parse_json
from groundling.team import leads, team

FOLDER = "stages"
SCRATCH = "scratch"
CLAIMS = "claims.jsonl"
"""In a stage's scratch, before any stage is finished: names of what it has begun to write."""

SUMMARY = "metrics.json"
"""What a flow writes at its end; a run that is at work again has none."""


class Run(Protocol):
    """What a stage asks of its run directory."""

    path: Path
    retry: bool
    """Whether stages that a retry has marked are run again."""

    def event(self, kind: str, stage: str | None = None, **payload: object) -> None:
        """Append one line to the run's events."""
        ...

    def claim(self, name: str, stage: str | None = None) -> Path:
        """The path of an artefact that `stage` may write now."""
        ...


class Stage(SharedArtefacts):
    """One stage of a run: `done`, or a block to run. Leaving the block normally finishes it."""

    def __init__(self, run: Run, name: str, inputs: dict[str, str]) -> None:
        self.name = name
        self._run = run
        self._root = run.path
        self._inputs = inputs
        self._artefacts: dict[str, dict[str, object]] = {}
        self._failures = self._lasting = 0
        self._again = False
        self._marker_path = marker_path(run.path, name)
        self.done = team().broadcast(leads() and self._check())
        if self.done and not (read_marker(run.path, name) or {}).get("failures"):
            self._clear_scratch()

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints: kept while the stage is unfinished and its inputs the same."""
        folder = self._root / SCRATCH / self.name / digest(self._inputs)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def __enter__(self) -> Stage:
        if leads():
            (self._root / SUMMARY).unlink(missing_ok=True)
            if not self._again:
                self._undo()
            self._clear_stale_scratch()
        team().barrier()
        self.done = False
        self._artefacts = {}
        self._failures = self._lasting = 0
        self._run.event("started", self.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._run.event("stopped", self.name, reason=kind.__name__)
            return
        team().barrier()  # nobody reads the scratch any more
        if leads():
            self._remove_stale()
            self._write_marker()
            if not self._failures:
                self._clear_scratch()
        team().barrier()
        self.done = True
        self._run.event("finished", self.name)

    def failed(self, count: int, lasting: int = 0) -> None:
        """Take note of failures within the stage, of which its artefacts say what failed, and why.

        A repetition may mend `count` of them, and not the `lasting` ones.
        """
        self._failures += count
        self._lasting += lasting

    def note(self, outcomes: Iterable[object]) -> None:
        """Take note of the failures among the outcomes of what the stage has done."""
        self.failed(*count_failures(outcomes))

    def event(self, kind: str, **payload: object) -> None:
        """Append an event of this stage."""
        self._run.event(kind, self.name, **payload)

    def _check(self) -> bool:
        """Whether marker, inputs and artefacts agree; a stage found damaged is an event."""
        if not self._marker_path.exists():
            return False
        marker = read_marker(self._root, self.name)
        if marker is None:
            problem = "its marker cannot be read"
        elif marker["inputs"] != self._inputs:
            problem = "its inputs have changed"
        else:
            problem = _damage(self._root, marker["artefacts"])
            if not problem and self._run.retry and "again" in marker:
                self._again = True
                problem = f"what failed within it, {marker['failures']} in all, is tried again"
        if problem:
            self._run.event("undone", self.name, reason=problem)
        return not problem

    def _undo(self) -> None:
        """Remove what an earlier, no longer valid attempt left: its artefacts, then its marker."""
        self._remove_stale()
        self._marker_path.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        """Remove the artefacts of an earlier attempt that this one has not written."""
        marker = read_marker(self._root, self.name) or {"artefacts": {}}
        for name in marker["artefacts"]:
            if is_artefact(name) and name not in self._artefacts:
                (self._root / name).unlink(missing_ok=True)

    def _write_marker(self) -> None:
        marker: dict[str, Any] = {"inputs": self._inputs}
        if self._failures:
            marker["failures"] = self._failures
        if self._lasting:
            marker["lasting_failures"] = self._lasting
        marker["artefacts"] = dict(sorted(self._artefacts.items()))
        text = json.dumps(marker, ensure_ascii=False, indent=2) + "\n"
        atomic.write_bytes(self._marker_path, text.encode(), self._staging())

    def _claim(self, name: str) -> Path:
        path = self._run.claim(name, self.name)
        if leads() and not any_finished(self._root):
            notes = self._root / SCRATCH / self.name / CLAIMS
            atomic.make_folder(notes.parent)
            with atomic.blaming(notes), notes.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(name) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        return path

    def _written(self, path: Path) -> None:
        name = path.relative_to(self._root).as_posix()
        self._artefacts[name] = {"sha256": atomic.digest_file(path), "bytes": path.stat().st_size}

    def _clear_stale_scratch(self) -> None:
        """Remove what an attempt with other inputs kept."""
        for folder in (self._root / SCRATCH / self.name).glob("*"):
            if folder.name not in (CLAIMS, digest(self._inputs)[:16]):
                shutil.rmtree(folder)

    def _clear_scratch(self) -> None:
        if not leads():
            return
        shutil.rmtree(self._root / SCRATCH / self.name, ignore_errors=True)
        if (self._root / SCRATCH).exists() and not any((self._root / SCRATCH).iterdir()):
            (self._root / SCRATCH).rmdir()


def marker_path(root: Path, stage: str) -> Path:
    """Where the marker of a stage lies in the run directory `root`."""
    return root / FOLDER / f"{stage}.json"


def read_marker(root: Path, stage: str) -> dict[str, Any] | None:
    """A stage's marker, None where it is missing or unreadable."""
    try:
        marker = parse_json(marker_path(root, stage).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return marker if isinstance(marker, dict) and _is_marker(marker) else None


def _is_marker(marker: Mapping[str, Any]) -> bool:
    """Whether an object has what `Stage` writes in a marker, each of its kind."""
    artefacts, counts = marker.get("artefacts"), ("failures", "lasting_failures")
    return (
        isinstance(marker.get("inputs"), dict)
        and isinstance(artefacts, dict)
        and all(isinstance(told, dict) for told in artefacts.values())
        and all(type(marker.get(key, 0)) is int for key in counts)
    )


def any_finished(root: Path) -> bool:
    """Whether a run directory has a finished stage: only then does it belong to its run."""
    return any((root / FOLDER).glob("*.json"))


def forget_unfinished(root: Path) -> None:
    """Remove what stages of a run without any finished one have written, and nothing else.

    A line that names no artefact (a kill cut it, or somebody edited it) removes nothing.
    """
    for notes in sorted((root / SCRATCH).glob(f"*/{CLAIMS}")):
        for line in notes.read_bytes().splitlines():
            try:
                name = parse_json(line)
            except ValueError:
                continue
            if not isinstance(name, str) or not is_artefact(name):
                continue
            if (root / name).is_dir() and not (root / name).is_symlink():
                shutil.rmtree(root / name)
            else:
                (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / SCRATCH, ignore_errors=True)


def failures_by_stage(root: Path, key: str = "failures") -> dict[str, int]:
    """How much failed within each finished stage of the run directory `root`, where any did.

    `key` is `failures` for what a repetition may mend, `lasting_failures` for what it may not.
    """
    return {name: marker[key] for name, marker in _failed_markers(root, key).items()}


def mark_failed_stages(root: Path) -> None:
    """Mark the finished stages within which something failed for a retry, until run again."""
    for name, marker in _failed_markers(root).items():
        text = json.dumps({**marker, "again": True}, ensure_ascii=False, indent=2) + "\n"
        atomic.write_bytes(marker_path(root, name), text.encode())


def _failed_markers(root: Path, key: str = "failures") -> dict[str, dict[str, Any]]:
    names = sorted(path.stem for path in (root / FOLDER).glob("*.json"))
    markers = {name: read_marker(root, name) for name in names}
    return {name: one for name, one in markers.items() if one is not None and key in one}


def owner_of(root: Path, name: str) -> str | None:
    """The finished stage that wrote `name`, or a file below it."""
    for path in sorted((root / FOLDER).glob("*.json")):
        marker = read_marker(root, path.stem) or {"artefacts": {}}
        for artefact in marker["artefacts"]:
            if artefact == name or artefact.startswith(name + "/"):
                return path.stem
    return None


RETRY = ".retry"
"""Lies in a run directory while a retry is in progress."""

OWN = {"config.yaml", "events.jsonl", FOLDER, SCRATCH, RETRY, ".lock", ".team", ".tmp"}
"""A run directory's own files, which are no artefacts."""


def is_artefact(name: str) -> bool:
    """Whether a name lies inside the run directory and is not one of its own files."""
    parts = Path(name).parts
    return (
        bool(parts) and not Path(name).is_absolute() and ".." not in parts and parts[0] not in OWN
    )


def digest(value: object) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _damage(root: Path, artefacts: Mapping[str, Mapping[str, object]]) -> str:
    """The first artefact that is missing or altered, in words; empty where all are sound."""
    for name, wanted in artefacts.items():
        path = root / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != wanted["bytes"] or atomic.digest_file(path) != wanted["sha256"]:
            return f"{name} has been altered"
    return ""
