"""Data sets by the name of their format, whatever that is: a list of splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from groundling.data.gmner import Split, available_splits, in_usual_order, read_gmner
from groundling.data.jsonl import read_posts
from groundling.errors import DataError

Format = Literal["twitter-gmner", "jsonl"]
"""`twitter-gmner`: a folder with txt/ and xml/. `jsonl`: a file, or a folder of SPLIT.jsonl."""

FORMATS: tuple[Format, ...] = get_args(Format)


def guess_format(src: Path) -> Format:
    """`jsonl` for a file and for a folder that holds .jsonl files, else `twitter-gmner`."""
    return "jsonl" if src.is_file() or any(src.glob("*.jsonl")) else "twitter-gmner"


def jsonl_files(src: Path) -> tuple[Path, ...]:
    """The posts files of `src`: itself, or the .jsonl files in it, train, dev, test first.

    Raises DataError where there is none.
    """
    if src.is_file():
        return (src,)
    found = {path.stem: path for path in src.glob("*.jsonl")}
    if not found:
        raise DataError(src, "no such file, nor a folder with .jsonl files; check the path")
    return tuple(found[name] for name in in_usual_order(found))


def read_splits(
    src: Path,
    form: Format,
    images: Path | None = None,
    *,
    only: Sequence[str] = (),
    skip_bad: bool = False,
) -> tuple[Split, ...]:
    """Read the splits of `src`, all of them or those named in `only`.

    Raises what `read_gmner` and `read_posts` raise, and DataError for a split that is not there.
    """
    if form == "twitter-gmner":
        names = _chosen(src, available_splits(src), only)
        return tuple(read_gmner(src, name, images, skip_bad=skip_bad) for name in names)
    files = {path.stem: path for path in jsonl_files(src)}
    names = _chosen(src, tuple(files), only)
    return tuple(read_posts(files[name], images, skip_bad=skip_bad) for name in names)


def _chosen(src: Path, there: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    for name in only:
        if name not in there:
            raise DataError(src, f"no split {name!r}; it holds {', '.join(there)}")
    return tuple(name for name in there if not only or name in only)
