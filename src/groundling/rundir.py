"""A run directory: atomic artefacts, provenance, and stages that continue after `kill -9`.

    config.yaml          the resolved configuration and where it ran; never rewritten
    events.jsonl         what happened and when; the only place that holds times
    stages/NAME.json     the marker of a finished stage: its inputs and its artefacts' digests
    scratch/             checkpoints of the stage in progress; gone when it is done
    .lock .tmp/          one writer at a time; unfinished files, cleared on opening

A stage is done iff its marker exists, the stages it builds on are unchanged, and every artefact
it names has the named digest. The marker is written last, so a kill at any instant leaves either
a finished stage or one that is run again; running it again replaces artefacts by equal ones.

Of several processes (`groundling.team`) the leader holds the lock, writes, and decides what is
done; the others follow it through the same calls and wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import yaml

from groundling import atomic
from groundling.errors import RunError
from groundling.journal import mend
from groundling.provenance import drift
from groundling.settings import Section
from groundling.shared_files import SharedArtefacts
from groundling.team import leads, team

S = TypeVar("S", bound=Section)
_OWN = {"config.yaml", "events.jsonl", "stages", "scratch", ".lock", ".tmp"}


class RunDir(SharedArtefacts):
    """An open run directory, locked for this process until it is closed.

    Its own `write_*` methods are for files that are derived anew on every run of the flow (a
    summary, a report); what a later stage builds on is written through its `Stage`.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self.drift: dict[str, tuple[object, object]] = {}
        """What differs from the provenance on record, as (then, now); also in the events."""
        self._root = path
        self._lock = lock
        self._events = path / "events.jsonl"

    @classmethod
    def open(
        cls, path: str | Path, config: Section, provenance: Mapping[str, object] | None = None
    ) -> RunDir:
        """Create the run directory at `path`, or continue it.

        Raises RunError if another process writes it, if it holds something else than a run, or if
        it belongs to another configuration or other data (`provenance["data"]`).
        """
        root = Path(path)
        if not leads():
            team().barrier()  # the leader has opened it
        try:
            atomic.make_folder(root)
            _refuse_strangers(root)
            lock = (root / ".lock").open("ab" if leads() else "rb")
        except OSError as fault:
            raise RunError(f"{root}: cannot be a run directory ({fault.strerror})") from fault
        run = cls(root, lock)
        try:
            run._take()
            run._identify(config.model_dump(mode="json"), dict(provenance or {}))
        except BaseException:
            lock.close()
            raise
        if leads():
            team().barrier()
        return run

    def _take(self) -> None:
        """Lock the directory and clear what a killed process left unfinished."""
        if not leads():
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            raise RunError(
                f"{self.path}: another process is writing this run; wait for it or stop it, "
                "or choose another directory"
            ) from fault
        shutil.rmtree(self.path / ".tmp", ignore_errors=True)

    def _identify(self, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write config.yaml, or check that it says the same."""
        path = self.path / "config.yaml"
        now = {"config": config, "provenance": provenance}
        together: dict[str, Any] = {"processes": team().size} if team().size > 1 else {}
        if path.exists():
            then = _read_identity(self.path)
            changed = drift(then["config"], config)
            changed |= drift(then["provenance"].get("data"), provenance.get("data"), "data")
            if changed:
                told = "; ".join(
                    f"{key}: was {was}, is {now}" for key, (was, now) in changed.items()
                )
                raise RunError(
                    f"{self.path}: the run belongs to another configuration ({told}); "
                    "choose another directory or restore these"
                )
            self.drift = drift(then["provenance"], provenance)
            if leads() and self._events.exists():
                mend(self._events)
            differs = {key: list(pair) for key, pair in self.drift.items()}
            self.event("continued", changed=differs, **together)
            return
        text = yaml.safe_dump(now, sort_keys=False, allow_unicode=True, width=100)
        atomic.write_bytes(path, text.encode(), self._staging())
        self.event("created", **together)

    def close(self) -> None:
        """Release the lock; nothing may be written afterwards."""
        if not self._lock.closed:
            if leads():
                shutil.rmtree(self.path / ".tmp", ignore_errors=True)
            self._lock.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def event(self, kind: str, stage: str | None = None, **payload: object) -> None:
        """Append one line to events.jsonl, with the time in UTC."""
        if not leads():
            return
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stage": stage,
            "kind": kind,
            "payload": payload,
        }
        with self._events.open("ab") as stream:
            stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def stage(
        self, name: str, after: Sequence[str] = (), inputs: Mapping[str, str] | None = None
    ) -> Stage:
        """The stage `name`, which builds on the stages `after` and on other `inputs` (digests).

            stage = run.stage("sft", after=["data"])
            if not stage.done:
                with stage:
                    stage.write_json(…)

        Raises RunError where a stage in `after` has no marker.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise RunError(f"{name!r}: not a stage's name; wanted lower-case words and hyphens")
        sources = dict(inputs or {})
        for earlier in after:
            marker = self._marker(earlier)
            if marker is None:
                raise RunError(f"{self.path}: stage {name} needs {earlier}, which is not done")
            sources[f"stage {earlier}"] = _digest(marker["artefacts"])
        return Stage(self, name, sources)

    def adopt(self, other: Path, stages: Sequence[str]) -> None:
        """Take over finished stages of the run at `other`, by hard link where the disk allows.

        A stage that is here already stays as it is. The caller answers for the configurations
        agreeing on everything these stages depend on. Raises RunError where one is not finished.
        """
        for name in stages if leads() else []:
            if self._marker(name) is not None:
                continue
            source = other / "stages" / f"{name}.json"
            if not source.is_file():
                raise RunError(f"{other}: stage {name} is not finished there; run it first")
            for artefact in json.loads(source.read_bytes())["artefacts"]:
                atomic.link_file(other / artefact, self._claim(artefact, name))
            atomic.write_bytes(self.path / "stages" / source.name, source.read_bytes())
            self.event("adopted", name, run=other.name)
        team().barrier()

    def _marker(self, name: str) -> dict[str, Any] | None:
        """A stage's marker, None where it is missing or unreadable."""
        try:
            marker = json.loads((self.path / "stages" / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        readable = isinstance(marker, dict) and marker.keys() >= {"inputs", "artefacts"}
        return marker if readable else None

    def _owner(self, name: str) -> str | None:
        """The finished stage that wrote `name`, or a file below it."""
        for path in sorted((self.path / "stages").glob("*.json")):
            marker = self._marker(path.stem) or {"artefacts": {}}
            for artefact in marker["artefacts"]:
                if artefact == name or artefact.startswith(name + "/"):
                    return path.stem
        return None

    def _claim(self, name: str, stage: str | None = None) -> Path:
        if self._lock.closed:
            raise RunError(f"{self.path}: the run is closed; open it again to write {name}")
        if not _is_artefact(name):
            raise RunError(
                f"{name}: not an artefact's name; wanted a path inside the run directory"
            )
        owner = self._owner(Path(name).as_posix())
        if owner is not None and owner != stage:
            raise RunError(f"{name}: belongs to the finished stage {owner}; choose another name")
        return self.path / name


class Stage(SharedArtefacts):
    """One stage of a run: `done`, or a block to run. Leaving the block normally finishes it."""

    def __init__(self, run: RunDir, name: str, inputs: dict[str, str]) -> None:
        self.name = name
        self._run = run
        self._root = run.path
        self._inputs = inputs
        self._artefacts: dict[str, dict[str, object]] = {}
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._marker_path = run.path / "stages" / f"{name}.json"
        self.done = team().broadcast(leads() and self._check())
        if self.done:
            self._clear_scratch()

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints: kept while the stage is unfinished and its inputs the same."""
        folder = self._root / "scratch" / self.name / _digest(self._inputs)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def own_scratch(self) -> Path:
        """The scratch folder, for what processes cannot write together.

        The leader's is kept, as `scratch`; each of the others gets a copy to throw away.
        """
        if self._copy is None and not leads():
            self._copy = tempfile.TemporaryDirectory(prefix="groundling-")
            shutil.copytree(self.scratch, self._copy.name, dirs_exist_ok=True)
        team().barrier()
        return self.scratch if self._copy is None else Path(self._copy.name)

    def __enter__(self) -> Stage:
        if leads():
            self._undo()
            kept = _digest(self._inputs)[:16]
            for folder in (self._root / "scratch" / self.name).glob("*"):
                if folder.name != kept:
                    shutil.rmtree(folder)
        team().barrier()
        self.done = False
        self._artefacts = {}
        self._run.event("started", self.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._copy is not None:
            self._copy.cleanup()
        if kind is not None:
            self._run.event("stopped", self.name, reason=kind.__name__)
            return
        team().barrier()  # nobody reads the scratch any more
        if leads():
            marker = {"inputs": self._inputs, "artefacts": dict(sorted(self._artefacts.items()))}
            text = json.dumps(marker, ensure_ascii=False, indent=2) + "\n"
            atomic.write_bytes(self._marker_path, text.encode(), self._staging())
            self._clear_scratch()
        team().barrier()
        self.done = True
        self._run.event("finished", self.name)

    def event(self, kind: str, **payload: object) -> None:
        """Append an event of this stage."""
        self._run.event(kind, self.name, **payload)

    def _check(self) -> bool:
        """Whether marker, inputs and artefacts agree; a stage found damaged is an event."""
        if not self._marker_path.exists():
            return False
        marker = self._run._marker(self.name)
        if marker is None:
            problem = "its marker cannot be read"
        elif marker["inputs"] != self._inputs:
            problem = "its inputs have changed"
        else:
            problem = _damage(self._root, marker["artefacts"])
        if problem:
            self._run.event("undone", self.name, reason=problem)
        return not problem

    def _undo(self) -> None:
        """Remove what an earlier, no longer valid attempt left: its artefacts, then its marker."""
        marker = self._run._marker(self.name) or {"artefacts": {}}
        for name in marker["artefacts"]:
            if _is_artefact(name):
                (self._root / name).unlink(missing_ok=True)
        self._marker_path.unlink(missing_ok=True)

    def _claim(self, name: str) -> Path:
        return self._run._claim(name, self.name)

    def _written(self, path: Path) -> None:
        name = path.relative_to(self._root).as_posix()
        self._artefacts[name] = {"sha256": atomic.digest_file(path), "bytes": path.stat().st_size}

    def _clear_scratch(self) -> None:
        if not leads():
            return
        shutil.rmtree(self._root / "scratch" / self.name, ignore_errors=True)
        if (self._root / "scratch").exists() and not any((self._root / "scratch").iterdir()):
            (self._root / "scratch").rmdir()


def stored_config(path: str | Path, model: type[S]) -> S:
    """The configuration that a run directory was made with; opens nothing for writing.

    Raises RunError where `path` is not a run directory of that kind of configuration.
    """
    try:
        return model.model_validate(_read_identity(Path(path))["config"])
    except ValueError as fault:
        raise RunError(f"{path}: not a run of {model.__name__}; name another directory") from fault


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of the run directory at `path`; a torn last line is left out."""
    try:
        lines = (Path(path) / "events.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError as fault:
        raise RunError(f"{path}: not a run directory, it has no events.jsonl") from fault
    return [json.loads(line) for line in lines[:-1]]


def _refuse_strangers(path: Path) -> None:
    """Raise RunError where a folder without config.yaml holds anything but a run's own files."""
    if (path / "config.yaml").exists():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in _OWN)
    if strangers:
        raise RunError(
            f"{path}: not a run directory, it holds {', '.join(strangers[:3])}; "
            "choose an empty or a new one"
        )


def _read_identity(path: Path) -> dict[str, Any]:
    """What config.yaml says."""
    try:
        found = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise RunError(f"{path}: not a run directory, it has no config.yaml") from fault
    except (OSError, ValueError, yaml.YAMLError) as fault:
        raise RunError(f"{path}/config.yaml: cannot be read; restore it") from fault
    if not isinstance(found, dict) or found.keys() != {"config", "provenance"}:
        raise RunError(f"{path}/config.yaml: not a run's configuration; restore it")
    return found


def _is_artefact(name: str) -> bool:
    """Whether a name lies inside the run directory and is not one of its own files."""
    parts = Path(name).parts
    return (
        bool(parts) and not Path(name).is_absolute() and ".." not in parts and parts[0] not in _OWN
    )


def _digest(value: object) -> str:
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
