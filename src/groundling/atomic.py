"""Files and folders that are either wholly there or not there, whenever the process dies.

Everything is written under a temporary name on the same file system, fsynced, and renamed into
place; then the folder that holds the new name is fsynced, so that a power cut keeps the order too.
One process writes at a time: the caller holds a lock or owns the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MANY_FILES = 256
"""From this many files on, a folder is made safe by one sync of everything: one by one takes
seconds."""


def write_bytes(path: Path, data: bytes, staging: Path | None = None) -> None:
    """Replace the file at `path` by `data`; parents are made.

    The temporary file lies in `staging` (same file system), or beside `path` as `.NAME.tmp`,
    where the next write of the same name takes its place if a kill cuts this one short.
    """
    make_folder(path.parent)
    temporary = (staging or path.parent) / f".{path.name[:80]}.tmp"
    try:
        with blaming(path), temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Inside, an error of the system that names no file, as that of a full disk, names `path`."""
    try:
        yield
    except OSError as fault:
        if fault.filename is None:
            fault.filename = str(path)
        raise


def place_folder(folder: Path, path: Path, staging: Path) -> None:
    """Move the finished `folder` to `path`, replacing what is there.

    A folder cannot replace another in one step: the old one is first moved into `staging`. Who is
    killed in between finds nothing at `path`, never a mixture.
    """
    inside = [folder, *folder.rglob("*")]
    if len(inside) > MANY_FILES:
        os.sync()
    else:
        for entry in inside:
            sync(entry)
    make_folder(path.parent)
    if path.exists():
        replaced = staging / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
        folder.rename(path)
        shutil.rmtree(replaced)
    else:
        folder.rename(path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each entry safe from a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        with contextlib.suppress(PermissionError):  # a parent that may be entered but not listed
            sync(folder.parent)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where hard links are not to be had."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def contents(path: str) -> str:
    """A digest of what is in a file, wherever it lies; its path where it cannot be read."""
    try:
        return digest_file(Path(path))
    except (OSError, ValueError):
        return path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with blaming(path):
            os.fsync(descriptor)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise  # some file systems have no such call for folders
    finally:
        os.close(descriptor)


class Artefacts:
    """Writers of whole files and folders by name: shared by a run and its stages."""

    _root: Path

    def _claim(self, name: str) -> Path:
        """The path of an artefact that may be written now."""
        raise NotImplementedError

    def _written(self, path: Path) -> None:
        """Take note of a finished file."""

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write the file `name` (relative to the run directory) and return its path."""
        path = self._claim(name)
        write_bytes(path, data, self._staging())
        self._written(path)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write text as UTF-8."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: object) -> Path:
        """Write JSON, indented, keys as given; NaN and infinity are refused with ValueError."""
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
        return self.write_text(name, text + "\n")

    def write_parquet(self, name: str, records: Sequence[Any], schema: Any = None) -> Path:
        """Write dataclass records or mappings as Parquet, a column a field.

        `schema` (a pyarrow.Schema) is needed where `records` may be empty or a column all None.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            dict(row) if isinstance(row, Mapping) else dataclasses.asdict(row) for row in records
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
        return self.write_bytes(name, sink.getvalue().to_pybytes())

    @contextlib.contextmanager
    def write_folder(self, name: str) -> Iterator[Path]:
        """Give an empty folder to fill; it becomes `name` when the block ends without an error."""
        path = self._claim(name)
        folder = self._staging() / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        place_folder(folder, path, self._staging())
        for file in sorted(path.rglob("*")):
            if file.is_file():
                self._written(file)

    def _staging(self) -> Path:
        staging = self._root / ".tmp"
        staging.mkdir(exist_ok=True)
        return staging
