"""A run directory: one writer at a time, its configuration, its events, and its stages.

    config.yaml          the resolved configuration and where it ran; never rewritten once a stage
                         is finished: from then on the directory belongs to its run
    events.jsonl         what happened and when; the only place that holds times
    stages/ scratch/     what is finished and what is in progress (`groundling.stage`)
    .lock .team          held by the one process that writes; by those that follow it
    .retry               there while a retry is in progress, which the next one goes on with
    .tmp/                unfinished files, cleared on opening

Of several processes (`groundling.team`) the leader holds the lock, writes, and decides what is
done; the others follow it through the same calls and wait for it. Where the leader is killed, one
of them may be at work for a while yet, so no other leader starts before all have ended.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from groundling import atomic
from groundling.errors import RunError
from groundling.journal import Journal, lock
from groundling.provenance import drift
from groundling.settings import Section, decisive, read_yaml
from groundling.shared_files import SharedArtefacts
from groundling.stage import (
    OWN,
    RETRY,
    Stage,
    any_finished,
    digest,
    forget_unfinished,
    is_artefact,
    mark_failed_stages,
    marker_path,
    owner_of,
    read_marker,
)
from groundling.strict_json import parse_json
from groundling.team import leads, team

S = TypeVar("S", bound=Section)
_Changes = dict[str, tuple[object, object]]


class RunDir(SharedArtefacts):
    """An open run directory, locked for this process until it is closed.

    Its own `write_*` methods are for files that are derived anew on every run of the flow (a
    summary, a report); what a later stage builds on is written through its `Stage`.
    """

    def __init__(self, path: Path, kind: type[Section], retry: bool = False) -> None:
        """Use `open`; `kind` is the class of the run's configuration."""
        self.path = path
        self.retry = retry
        self._kind = kind
        self.drift: dict[str, tuple[object, object]] = {}
        """What differs from what is on record, as (then, now); also in the events."""
        self.watch: Callable[[dict[str, Any]], None] | None = None
        """Called with each event once it is written; what it raises stops the run there."""
        self._root = path
        self._events: Journal | None = None
        self._held = ExitStack()
        """What is given back on closing: of the leader the lock, the events, unfinished files."""
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Section,
        provenance: Mapping[str, object] | None = None,
        *,
        retry: bool = False,
    ) -> RunDir:
        """Create the run directory at `path`, or continue it.

        With `retry`, finished stages within which something failed count as not done, once: after a
        retry that was stopped the next one goes on with those that it has not yet come to.
        Raises RunError if another process writes it, if it holds something else than a run, or if
        it belongs to another configuration or other data (`provenance["data"]`). A directory
        without a finished stage belongs to nobody yet: what was begun there is removed.
        """
        us = team()  # all meet first: who waits for one that has failed before would wait for long
        us.barrier()  # and all have closed what they had opened here before
        run = cls(Path(path), type(config), retry)
        now = {"config": config.model_dump(mode="json"), "provenance": dict(provenance or {})}
        try:
            if us.leader:
                run._take()
                run._identify(now)
                run._begin_retry()
            us.barrier()
            if not us.leader:
                run._follow(now)
        except BaseException:
            run.close()
            raise
        return run

    def _take(self) -> None:
        """Lock the directory and clear what a killed process left unfinished."""
        try:
            atomic.make_folder(self.path)
            _refuse_strangers(self.path)
            stream = self._held.enter_context((self.path / ".lock").open("ab"))
            followers = (self.path / ".team").open("ab")
        except OSError as fault:
            raise RunError(f"{self.path}: cannot be a run directory ({fault.strerror})") from fault
        try:
            with followers:
                lock(stream)
                lock(followers)
        except BlockingIOError as fault:
            raise RunError(
                f"{self.path}: another process is writing this run; wait for it or stop it, "
                "or choose another directory"
            ) from fault
        except OSError as fault:
            raise RunError(
                f"{self.path}: cannot be locked ({fault.strerror}); choose a directory on a disk "
                "that has file locks"
            ) from fault
        self._held.callback(shutil.rmtree, self.path / ".tmp", ignore_errors=True)
        shutil.rmtree(self.path / ".tmp", ignore_errors=True)

    def _identify(self, now: dict[str, Any]) -> None:
        """Write config.yaml, or check that it says the same; then say so in the events."""
        together: dict[str, Any] = {"processes": team().size} if team().size > 1 else {}
        if (self.path / "config.yaml").exists():
            changed, data = self._changes(now)
            if not (changed or data) or any_finished(self.path):
                self._compare(now)
                differs = {key: list(pair) for key, pair in self.drift.items()}
                self._open_events()
                self.event("continued", changed=differs, **together)
                return
            forget_unfinished(self.path)
            (self.path / RETRY).unlink(missing_ok=True)
            together["instead"] = {key: list(pair) for key, pair in changed.items()}
        text = yaml.safe_dump(now, sort_keys=False, allow_unicode=True, width=100)
        atomic.write_bytes(self.path / "config.yaml", text.encode(), self._staging())
        self._open_events()
        self.event("created", **together)

    def _begin_retry(self) -> None:
        """Mark the stages to run again, unless a retry that was stopped has done so."""
        if self.retry and not (self.path / RETRY).exists():
            mark_failed_stages(self.path)
            (self.path / RETRY).touch()

    def _follow(self, now: dict[str, Any]) -> None:
        """Check that the run that the leader has opened is the one that this process means."""
        if not (self.path / "config.yaml").exists():
            raise RunError(
                f"{self.path}: process 0 has opened it, but process {team().rank} cannot see it; "
                "the run directory must be on a disk that all processes share"
            )
        lock(self._held.enter_context((self.path / ".team").open("rb")), shared=True)
        self._compare(now)

    def _compare(self, now: dict[str, Any]) -> None:
        """Refuse another configuration or other data; remember what else differs."""
        changed, data = self._changes(now)
        if changed or data:
            told = "; ".join(
                [
                    *(f"{key}: was {was}, is {value}" for key, (was, value) in changed.items()),
                    *(f"{key}: was another" for key in data),
                ]
            )
            raise RunError(
                f"{self.path}: the run belongs to another configuration ({told}); "
                "choose another directory or restore these"
            )
        then = _read_identity(self.path)
        self.drift = drift(then["config"], now["config"])
        self.drift |= drift(then["provenance"], now["provenance"])

    def _changes(self, now: dict[str, Any]) -> tuple[_Changes, _Changes]:
        """What of the configuration on record, and of its data, decides results and differs."""
        then = _read_identity(self.path)
        before, after = (decisive(self._kind, one["config"]) for one in (then, now))
        data = drift(then["provenance"].get("data"), now["provenance"].get("data"), "data")
        return drift(before, after), data

    def close(self) -> None:
        """Release the lock; nothing may be written afterwards."""
        self._closed = True
        self._held.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.retry and leads():
            (self.path / RETRY).unlink(missing_ok=True)
        self.close()

    def _open_events(self) -> None:
        self._events = self._held.enter_context(Journal(self.path / "events.jsonl"))

    def event(self, kind: str, stage: str | None = None, **payload: object) -> None:
        """Append one line to events.jsonl, with the time in UTC."""
        if self._events is None:  # not the leader
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"time": now, "stage": stage, "kind": kind, "payload": payload}
        self._events.append(record)
        if self.watch is not None:
            self.watch(record)

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
            marker = read_marker(self.path, earlier)
            if marker is None:
                raise RunError(f"{self.path}: stage {name} needs {earlier}, which is not done")
            sources[f"stage {earlier}"] = digest(marker["artefacts"])
        return Stage(self, name, sources)

    def adopt(self, other: Path, stages: Sequence[str]) -> None:
        """Take over finished stages of the run at `other`, by hard link where the disk allows.

        A stage that is here already stays as it is. The caller answers for the configurations
        agreeing on everything these stages depend on. Raises RunError where one is not finished.
        """
        for name in stages if leads() else []:
            if read_marker(self.path, name) is not None:
                continue
            source = marker_path(other, name)
            if not source.is_file():
                raise RunError(f"{other}: stage {name} is not finished there; run it first")
            for artefact in _artefacts(other, name):
                atomic.link_file(other / artefact, self.claim(artefact, name))
            atomic.write_bytes(marker_path(self.path, name), source.read_bytes(), self._staging())
            self.event("adopted", name, run=other.name)
        team().barrier()

    def claim(self, name: str, stage: str | None = None) -> Path:
        """The path of an artefact that may be written now, by `stage` or by the flow itself.

        Raises RunError for what is no artefact's name and for what another stage has finished.
        """
        if self._closed:
            raise RunError(f"{self.path}: the run is closed; open it again to write {name}")
        if not is_artefact(name):
            raise RunError(
                f"{name}: not an artefact's name; wanted a path inside the run directory"
            )
        owner = owner_of(self.path, Path(name).as_posix())
        if owner is not None and owner != stage:
            raise RunError(f"{name}: belongs to the finished stage {owner}; choose another name")
        return self.path / name

    def _claim(self, name: str) -> Path:
        return self.claim(name)


def _artefacts(root: Path, name: str) -> Iterable[str]:
    """What a finished stage of another run wrote. Raises RunError for a damaged marker."""
    artefacts: dict[str, object] = (read_marker(root, name) or {}).get("artefacts", {"": None})
    if not all(map(is_artefact, artefacts)):
        raise RunError(f"{marker_path(root, name)}: not a stage's marker; run that stage again")
    return artefacts


def stored_config(path: str | Path, model: type[S]) -> S:
    """The configuration that a run directory was made with; opens nothing for writing.

    Raises RunError where `path` is not a run directory of that kind of configuration.
    """
    try:
        return model.model_validate(_read_identity(Path(path))["config"])
    except ValueError as fault:
        raise RunError(f"{path}: not a run of {model.__name__}; name another directory") from fault


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of the run directory at `path`; a torn last line is left out.

    Raises RunError where there are none to read.
    """
    try:
        lines = (Path(path) / "events.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError as fault:
        raise RunError(f"{path}: not a run directory, it has no events.jsonl") from fault
    return [_event(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def _event(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        event = parse_json(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or event.keys() != {"time", "stage", "kind", "payload"}:
        raise RunError(f"{path}/events.jsonl: line {number} is no event; restore or remove it")
    return event


def _refuse_strangers(path: Path) -> None:
    """Raise RunError where a folder without config.yaml holds anything but a run's own files."""
    if (path / "config.yaml").exists():
        return
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in OWN)
    if strangers:
        raise RunError(
            f"{path}: not a run directory, it holds {', '.join(strangers[:3])}; "
            "choose an empty or a new one"
        )


def _read_identity(path: Path) -> dict[str, Any]:
    """What config.yaml says."""
    try:
        found = read_yaml(path / "config.yaml")
    except FileNotFoundError as fault:
        raise RunError(f"{path}: not a run directory, it has no config.yaml") from fault
    except (OSError, ValueError) as fault:
        raise RunError(f"{path}/config.yaml: cannot be read ({fault}); restore it") from fault
    if not isinstance(found, dict) or found.keys() != {"config", "provenance"}:
        raise RunError(f"{path}/config.yaml: not a run's configuration; restore it")
    return found
