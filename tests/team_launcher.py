"""A launcher of teams as small as torchrun can be: it forks, and everything is imported before.

As torchrun does, it hosts the store that the processes meet at, and ends a team as soon as one of
its processes fails, unless it is told to be patient.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from torch.distributed import TCPStore

DEADLINE_S = 120.0
"""Longest life of one team; a hang is a failure."""


def launch(
    work: Callable[[Path], int | None],
    folder: Path,
    count: int = 2,
    fsdp: bool = False,
    patient: bool = False,
) -> list[int]:
    """Run `work` in `count` processes; their exit codes, as `subprocess` tells them, by rank.

    Those that the launcher ended have -9: all others where one fails, or, where it is `patient`,
    those that go on until the deadline. What a process says goes to NAME-RANK.err.
    """
    port, host = _store()
    processes = []
    for rank in range(count):
        if (process := os.fork()) == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "GLOO_SOCKET_IFNAME": "lo",
                "ACCELERATE_USE_FSDP": str(fsdp).lower(),
            }
            _child(work, folder, folder / f"{work.__name__}-{rank}.err")
        processes.append(process)
    codes: dict[int, int] = {}
    try:
        _wait(processes, codes, patient)
    finally:
        for process in {*processes, host} - codes.keys():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return [codes.get(process, -signal.SIGKILL) for process in processes]


def _store() -> tuple[int, int]:
    """Start the process that hosts the store: its port, free by nature, and its number."""
    reading, writing = os.pipe()
    if (host := os.fork()) == 0:
        store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        os.close(writing)
        signal.pause()
    os.close(writing)
    with os.fdopen(reading) as stream:
        return int(stream.read()), host


def _child(work: Callable[[Path], int | None], folder: Path, said: Path) -> None:
    code = 1
    with said.open("wb", buffering=0) as stream:
        os.dup2(stream.fileno(), 2)
    try:
        code = work(folder) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(processes: list[int], codes: dict[int, int], patient: bool) -> None:
    """Until all have ended, one has failed or the time is up; `codes` of those that have ended."""
    until = time.monotonic() + DEADLINE_S
    while len(codes) < len(processes) and time.monotonic() < until:
        for process in processes:
            if process in codes:
                continue
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes[process] = os.waitstatus_to_exitcode(status)
        if not patient and any(codes.values()):
            return
        time.sleep(0.01)
