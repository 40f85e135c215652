"""Append-only files of JSON lines that one process writes and a kill cannot spoil.

A line is written in one go and fsynced before the next one. What a killed process left half
written is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from groundling.atomic import make_folder
from groundling.errors import InputError


class Journal:
    """An open journal, locked for this process until it is closed.

    Raises InputError where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        self._stream = path.open("ab")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            self._stream.close()
            raise InputError(
                f"{path}: another process is writing it; wait for that one, or name another file"
            ) from fault
        mend(path)

    def append(self, record: Mapping[str, object]) -> None:
        """Write one line; it is on the disk when this returns."""
        line = json.dumps(record, ensure_ascii=True, allow_nan=False)
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Release the lock; nothing may be appended afterwards."""
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def mend(path: Path) -> None:
    """Cut off a last line that a killed process did not finish."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)
