"""Time and peak memory of every stage of a run, by the events that the run tells.

What is measured is stored at once, so that a run which is stopped and goes on is not measured
twice. A stage that was cut short is measured anew, as a whole.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from groundling import atomic
from groundling.errors import InputError
from groundling.provenance import drift


class TimeIsUp(Exception):  # noqa: N818 - no error: the next call goes on
    """Raised between two stages once the time allowed is over."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One stage; bytes are None on a CPU.

    allocated, reserved: the most that tensors took, and that torch took from the device for them,
    both from the beginning of the stage on. outside: what else the device held at the end: the
    context, kernels, other programs. resumed: an earlier process did the stages before. stopped:
    the error that ended the stage, None where it ended well.
    """

    seconds: float
    allocated: int | None = None
    reserved: int | None = None
    outside: int | None = None
    resumed: bool = False
    stopped: str | None = None

    @property
    def held(self) -> int | None:
        """What the device must have: all that torch reserved, and what lies outside."""
        if self.reserved is None or self.outside is None:
            return None
        return self.reserved + self.outside


class Record:
    """What was measured so far, in a file: `about` the run, and `stages` by name."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Go on with the file at `path`. Raises InputError where it is about another run."""
        self._path = path
        self.about = about
        self.stages: dict[str, Measured] = {}
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if changed := drift(stored["about"], json.loads(json.dumps(about))):
                key, (then, now) = next(iter(changed.items()))
                raise InputError(
                    f"{path}: measured with {key} {then}, now {now}; name another --out"
                )
            self.stages = {name: Measured(**one) for name, one in stored["stages"].items()}

    def put(self, stage: str, measured: Measured) -> None:
        """Store what a stage took."""
        self.stages[stage] = measured
        stages = {name: asdict(one) for name, one in self.stages.items()}
        text = json.dumps({"about": self.about, "stages": stages}, indent=1)
        atomic.write_bytes(self._path, text.encode())


class Meter:
    """Watches a run (`run_isr(…, watch=Meter(…))`); `device` None measures time alone."""

    def __init__(
        self,
        record: Record,
        device: torch.device | None,
        until_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """No stage begins after `until_s` on the `clock`: TimeIsUp is raised instead."""
        self._record = record
        self._device = device
        self._until_s = until_s
        self._clock = clock
        self._began_s = 0.0
        self._resumed = bool(record.stages)

    def __call__(self, event: dict[str, Any]) -> None:
        """Take note of an event of the run."""
        kind, stage = event["kind"], event["stage"]
        if kind == "started":
            if self._clock() >= self._until_s:
                raise TimeIsUp(stage)
            self._begin()
        elif kind in ("finished", "stopped"):
            self._record.put(stage, self._taken(event["payload"].get("reason")))

    def _begin(self) -> None:
        if self._device is not None:
            gc.collect()
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()  # so that the reserve is this stage's own
            torch.cuda.reset_peak_memory_stats(self._device)
        self._began_s = self._clock()

    def _taken(self, stopped: str | None) -> Measured:
        device = self._device
        if device is None:
            return Measured(self._clock() - self._began_s, resumed=self._resumed, stopped=stopped)
        torch.cuda.synchronize(device)
        seconds = self._clock() - self._began_s
        free, whole = torch.cuda.mem_get_info(device)
        return Measured(
            seconds,
            torch.cuda.max_memory_allocated(device),
            torch.cuda.max_memory_reserved(device),
            whole - free - torch.cuda.memory_reserved(device),
            self._resumed,
            stopped,
        )
