"""How long a run of many stages will still take, from what its stages took so far."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groundling.progress import span, tell


def time_left(names: Sequence[str], spent_s: Mapping[str, float]) -> tuple[float, int]:
    """Seconds for the stages that are not in `spent_s`, and how many of them nobody can tell yet.

    A stage is expected to take what those of its kind took on average: rounds are alike, and so
    are evaluations.
    """
    kinds: dict[str, list[float]] = {}
    for name, seconds in spent_s.items():
        kinds.setdefault(_kind(name), []).append(seconds)
    waiting = [kinds.get(_kind(name)) for name in names if name not in spent_s]
    known = [sum(found) / len(found) for found in waiting if found]
    return sum(known), len(waiting) - len(known)


class Outlook:
    """Watches a run's events (`RunDir.watch`); after each stage that ends tells what is left."""

    def __init__(
        self, names: Sequence[str], *, quiet: bool = False, clock: Callable[[], float] | None = None
    ) -> None:
        self._names, self._quiet, self._clock = names, quiet, clock or time.monotonic
        self._began: dict[str, float] = {}
        self._spent_s: dict[str, float] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take note of an event."""
        stage = event["stage"]
        if event["kind"] == "started":
            self._began[stage] = self._clock()
        elif event["kind"] == "finished" and stage in self._began:
            self._spent_s[stage] = self._clock() - self._began.pop(stage)
            self._tell(stage)

    def _tell(self, stage: str) -> None:
        if stage not in self._names:
            return
        # stages run in order: those before this one were done by a run that was stopped
        rest = self._names[self._names.index(stage) + 1 :]
        done = len(self._names) - len(rest)
        seconds, unknown = time_left([*self._spent_s, *rest], self._spent_s)
        if rest:
            told = f"about {span(seconds)} left" if seconds else "time left not known yet"
            more = f", and {unknown} stages of unknown length" if unknown and seconds else ""
            tell(f"overall: {done}/{len(self._names)} stages, {told}{more}", quiet=self._quiet)


def _kind(stage: str) -> str:
    return "evaluate" if stage.startswith("evaluate-") else re.sub(r"\d+", "N", stage)
