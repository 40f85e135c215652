"""Append-only files of JSON lines that one process writes and a kill cannot spoil.

A line is written in one go and fsynced before the next one. What a killed process left half
written is cut off when the file is opened again; what a full disk cuts short, at once. A last line
that is whole but for its end, as many editors leave it, stays.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from os.path import samestat
from pathlib import Path
from typing import IO, Any

from groundling.atomic import blaming, make_folder, sync
from groundling.errors import InputError


class Journal:
    """An open journal, locked for this process until it is closed.

    Raises InputError where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        self._stream = _open_locked(path)
        try:
            with blaming(path):
                _mend(path)
                sync(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, record: Mapping[str, object]) -> None:
        """Write one line; it is on the disk when this returns, or nothing of it is."""
        line = json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        end = os.fstat(self._stream.fileno()).st_size
        try:
            with blaming(self.path):
                while line:
                    line = line[self._stream.write(line) :]
                os.fsync(self._stream.fileno())
        except BaseException:
            self._stream.truncate(end)
            raise

    def close(self) -> None:
        """Release the lock; nothing may be appended afterwards."""
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock(stream: IO[Any], *, shared: bool = False) -> None:
    """Lock an open file, alone or with all who share it, until it is closed or this process ends.

    Raises BlockingIOError where another holds it, OSError where the disk has no locks.
    """
    fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _open_locked(path: Path) -> IO[bytes]:
    """The file, open to append and locked; made where it is missing. Raises InputError."""
    while True:
        stream = path.open("ab", buffering=0)
        try:
            lock(stream)
            # Who held it may have put another file in its place: a lock on the old one is none.
            if path.exists() and samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
        except BlockingIOError as fault:
            stream.close()
            raise InputError(
                f"{path}: another process is writing it; wait for that one, or name another file"
            ) from fault
        except OSError as fault:
            stream.close()
            raise InputError(f"{path}: cannot be locked ({fault.strerror})") from fault
        stream.close()


def _mend(path: Path) -> None:
    """Cut off a last line that a killed process did not finish; end one that lacks its end alone.

    No part of a JSON object is JSON, so what can be read is whole.
    """
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return
    try:
        json.loads(data[whole:])
    except ValueError:
        os.truncate(path, whole)
    else:
        with path.open("ab") as stream:
            stream.write(b"\n")
