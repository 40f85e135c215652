"""Where the processes of a team find each other: soon, or with one line that says what is wrong.

How long they look for each other is one thing, how long they wait for each other once they work
together is another: a stage may be long, a start may not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from groundling.errors import RunError

SETTING = "GROUNDLING_MEETING_S"
"""Environment variable: seconds that the processes have to find each other."""

USUAL_S = 600.0
"""The same where nothing is set: the machines of a cluster may start minutes apart."""

_PATIENT_S = 60.0
"""What torch is given beyond that, for its own end of waiting takes many lines to tell."""


def meet(backend: str, patience: timedelta) -> None:
    """Join the processes that the environment tells of (`MASTER_ADDR`, `MASTER_PORT`, `RANK`).

    `backend` and `patience` are of the group that they make, torch's default one. Raises RunError
    where not all have found each other in time, or the environment is not as a launcher sets it.
    """
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    seconds = _seconds()
    longer = timedelta(seconds=seconds + _PATIENT_S)

    def reach() -> tuple[Any, int, int]:
        """The store that all meet at; the leader returns when the others are there."""
        store, rank, size = next(rendezvous("env://", timeout=longer))
        return store, rank, size

    def join(name: str, kind: str, limit: timedelta) -> None:
        """Make torch's default group, which connects every process with every other one."""
        place = PrefixStore(name, store)
        distributed.init_process_group(kind, store=place, rank=rank, world_size=size, timeout=limit)

    def greet() -> None:
        """Connect and part again: beside the store, the processes talk to each other directly."""
        join("meeting", "gloo", longer)
        distributed.barrier()
        distributed.destroy_process_group()

    store, rank, size = _within(seconds, reach)  # a wrong port; a process that was not started
    _within(seconds, greet)  # a network that lets only the store through
    store.set_timeout(patience)
    join("team", backend, patience)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns, if it does so in time: torch itself may wait for ever in it."""
    outcome: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except Exception as fault:
            outcome.put((None, fault))

    Thread(target=run, daemon=True).start()
    try:
        found, fault = outcome.get(timeout=seconds)
    except Empty:
        reason = f"not within {seconds:g} s; {SETTING} gives them longer"
        raise RunError(_told(reason)) from None
    if isinstance(fault, RuntimeError | ValueError):  # a lost connection; no such port or number
        raise RunError(_told(str(fault).strip().partition("\n")[0])) from fault
    if fault is not None:
        raise fault
    return found


def _told(reason: str) -> str:
    known = {name: os.environ.get(name, "?") for name in ("RANK", "MASTER_ADDR", "MASTER_PORT")}
    return (
        f"process {known['RANK']} of {os.environ['WORLD_SIZE']} has not met the others at "
        f"{known['MASTER_ADDR']}:{known['MASTER_PORT']} ({reason}); see that all of them run, that "
        "MASTER_ADDR and MASTER_PORT are the leader's, and that the network lets them through"
    )


def _seconds() -> float:
    """How long the processes may look for each other."""
    text = os.environ.get(SETTING) or f"{USUAL_S:g}"
    try:
        seconds = float(text)
        if 0 < seconds < 1e6:
            return seconds
    except ValueError:
        pass
    raise RunError(f"{SETTING}: got {text!r}; wanted a number of seconds above 0")
