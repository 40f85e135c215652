"""A bounded number of threads that work through a list of jobs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

R = TypeVar("R")

GRACE_S = 2.0
"""Seconds that threads are waited for once their work is no longer wanted."""


class Flights(Generic[R]):
    """Equal things are done once: the first who wants one does it, the others wait for that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Future[R]] = {}

    def once(self, key: str, make: Callable[[], R]) -> R:
        """What `make` brought or raised, for the first who asks for `key`, and for all others."""
        with self._lock:
            known = self._known.get(key)
            future = self._known.setdefault(key, Future())
        if known is None:
            try:
                future.set_result(make())
            except BaseException as fault:
                future.set_exception(fault)
        return future.result()


def in_threads(jobs: Sequence[Callable[[], R]], count: int) -> Iterator[tuple[int, R]]:
    """Run `jobs` in at most `count` threads; each result with its place, as soon as it is there.

    What a job raises goes through, and no further job is begun. The threads are daemons: an
    interrupted process does not wait for calls under way.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()
    for place in range(len(jobs)):
        todo.put(place)

    def work() -> None:
        while not stop.is_set():
            try:
                place = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((place, jobs[place](), None))
            except BaseException as fault:
                done.put((place, None, fault))
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(count, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            place, result, fault = done.get()
            if fault is not None:
                raise fault
            yield place, result  # type: ignore[misc]  # a job without a fault has a result
    finally:
        stop.set()
        for thread in threads:
            thread.join(GRACE_S / len(threads))
