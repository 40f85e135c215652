"""Progress on stderr: what is being done, how far it is, how fast, and how long it will take.

A terminal shows one line that changes; a log gets a whole line every few seconds. Of several
processes only the leader tells.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from groundling.team import leads


def tell(line: str, *, quiet: bool = False) -> None:
    """One plain line on stderr, from the leader alone."""
    if not quiet and leads():
        print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts towards `total` and tells stderr now and then.

        with Progress("sft", unit="steps") as progress:
            fit(…, on_step=lambda now: progress.at(now.step, now.steps, f"loss {now.loss:.3f}"))

    What was found already done (`skip`) counts as done but not towards the rate.
    """

    def __init__(
        self,
        label: str,
        total: int = 0,
        unit: str = "items",
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        self._label, self._total, self._unit = label, total, unit
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet or not leads()
        self._live = self._stream.isatty()
        self._clock = clock
        self._start_s = clock()
        self._told_s = self._start_s
        self._told = ""
        self._skipped = 0
        self._note = ""
        self._finished = False

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done just now; `note` stays on the line until the next one."""
        self.done += count
        self._note = note or self._note
        now_s = self._clock()
        if now_s - self._told_s >= (0.1 if self._live else 5.0):
            self._tell(now_s)

    def at(self, done: int, total: int, note: str = "") -> None:
        """Item `done` of `total` is done just now; what comes before the first one was skipped."""
        self._total = total
        if self.done == 0:
            self.skip(done - 1)
        self.advance(done - self.done, note)

    def expect(self, count: int) -> None:
        """Count `count` more towards the total."""
        self._total += count

    def skip(self, count: int) -> None:
        """Count `count` as done before: by a run that was stopped."""
        self.done += count
        self._skipped += count

    def close(self) -> None:
        """Tell the final state, unless nothing happened."""
        if self.done > self._skipped and not self._finished:
            self._tell(self._clock(), last=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tell(self, now_s: float, last: bool = False) -> None:
        self._told_s = now_s
        self._finished = last or (not self._live and self.done == self._total)
        if self._quiet:
            return
        line = self._line(now_s - self._start_s)
        if self._live:
            padding = " " * max(0, len(self._told) - len(line))
            self._stream.write(f"\r{line}{padding}" + ("\n" if last else ""))
            self._told = line
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _line(self, elapsed_s: float) -> str:
        """`sft 12/138 steps, 3.4 steps/s, 37 s left, loss 0.41`."""
        rate = (self.done - self._skipped) / elapsed_s if elapsed_s > 0 else 0.0
        parts = [f"{self._label} {self.done}/{self._total} {self._unit}"]
        if rate > 0 and self._total > 1:
            parts.append(_rate(rate, self._unit))
            left = max(0, self._total - self.done) / rate
            parts.append(f"{span(left)} left" if self.done < self._total else span(elapsed_s))
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)


def _rate(rate: float, unit: str) -> str:
    """`3.4 steps/s`, `82,900 posts/s`; where one takes over 20 s, how long: `45 s each`."""
    if rate >= 100:
        return f"{float(f'{rate:.3g}'):,.0f} {unit}/s"
    if rate >= 0.05:
        return f"{rate:.3g} {unit}/s"
    return f"{span(1 / rate)} each"


def span(seconds: float) -> str:
    """A duration in the two units that matter: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
