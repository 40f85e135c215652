"""Append-only files of JSON lines that one process writes and a kill cannot spoil.

A line is written in one go and fsynced before the next one. What a killed process left half
written is cut off when the file is opened again; what a full disk cuts short, at once. A last line
that is whole but for its end, as many editors leave it, stays. Nothing is cut off a file that is no
journal, nor off one that people edit too.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from os.path import samestat
from pathlib import Path
from typing import IO, Any

from groundling.atomic import blaming, make_folder, sync
from groundling.errors import DataError, InputError


class Journal:
    """An open journal, locked for this process until it is closed.

    Raises InputError where another process holds it. Raises DataError, with the file untouched, for
    an unfinished last line that no killed process left; with `edited`, a file that people correct
    by hand, for any.
    """

    def __init__(self, path: Path, *, edited: bool = False) -> None:
        make_folder(path.parent)
        self.path = path
        self._stream = _open_locked(path)
        try:
            with blaming(path):
                _mend(path, edited)
                sync(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, record: Mapping[str, object]) -> None:
        """Write one line; it is on the disk when this returns, or nothing of it is."""
        line = _line(record)
        end = os.fstat(self._stream.fileno()).st_size
        try:
            with blaming(self.path):
                _write(self._stream, line)
        except BaseException:
            self._stream.truncate(end)
            raise

    def replace(self, records: Iterable[Mapping[str, object]]) -> None:
        """Put these lines in the place of all others, whole or not at all; the lock goes along."""
        temporary = self.path.with_name(f".{self.path.name[:80]}.tmp")
        temporary.unlink(missing_ok=True)
        stream = temporary.open("ab", buffering=0)
        try:
            lock(stream)
            with blaming(self.path):
                _write(stream, b"".join(map(_line, records)))
            temporary.replace(self.path)
        except BaseException:
            stream.close()
            temporary.unlink(missing_ok=True)
            raise
        self._stream.close()
        self._stream = stream
        sync(self.path.parent)

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


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _write(stream: IO[bytes], data: bytes) -> None:
    """Write all of `data`, and wait until it is on the disk."""
    while data:
        data = data[stream.write(data) :]
    os.fsync(stream.fileno())


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


def _mend(path: Path, edited: bool) -> None:
    """Cut off a last line that a killed process did not finish; end one that lacks its end alone.

    No part of a JSON object is JSON, so what can be read is whole. Raises DataError for what is
    neither.
    """
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    last = data[whole:]
    if not last:
        return
    if _is_object(last):
        with path.open("ab") as stream:
            stream.write(b"\n")
    elif edited or last[:2] not in (b"{", b'{"'):
        number = data.count(b"\n") + 1
        raise DataError(path, "not a whole JSON object; complete this line, or remove it", number)
    else:
        os.truncate(path, whole)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
