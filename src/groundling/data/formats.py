"""Data sets by the name of their format, whatever that is: a list of splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from groundling.data.ccks import TEXTS, ccks_files, read_ccks
from groundling.data.columns import ENDINGS, column_files, read_columns
from groundling.data.frames import turn_upright
from groundling.data.gmner import Split, available_splits, in_usual_order, read_gmner, split_path
from groundling.data.jsonl import read_posts
from groundling.errors import DataError
from groundling.records import CCKS, TWITTER, BoxFrame, Scheme

Format = Literal["twitter-gmner", "jsonl", "ccks", "conll"]
"""`twitter-gmner`: a folder with txt/ and xml/. `jsonl`: a file, or a folder of SPLIT.jsonl.
`ccks`: a folder of NAME_text.json and NAME_entity.json, or one such text file. `conll`: a file of
tokens and tags, or a folder of them."""

FORMATS: tuple[Format, ...] = get_args(Format)


def guess_format(src: Path) -> Format:
    """The format that the names in a folder, or the name of a file, speak for.

    A file of any other name is `jsonl`, a folder without such files `twitter-gmner`, and so is one
    with `txt` and `xml`, whatever else lies there.
    """
    if (src / "txt").is_dir() and (src / "xml").is_dir():
        return "twitter-gmner"
    names = [path.name for path in ([src] if src.is_file() else src.glob("*"))]
    if any(name.endswith(TEXTS) for name in names):
        return "ccks"
    if any(name.endswith(".jsonl") for name in names):
        return "jsonl"
    if any(name.endswith(ENDINGS) for name in names):
        return "conll"
    return "jsonl" if src.is_file() else "twitter-gmner"


def usual_scheme(form: Format) -> Scheme:
    """The scheme of a format where none is named: CCKS for `ccks`, else Twitter-GMNER's."""
    return CCKS if form == "ccks" else TWITTER


def jsonl_files(src: Path) -> dict[str, Path]:
    """The posts files of `src` by split: itself, or the .jsonl files in it, in the usual order.

    Raises DataError where there is none.
    """
    if src.is_file():
        return {src.stem: src}
    found = {path.stem: path for path in src.glob("*.jsonl")}
    if not found:
        raise DataError(src, "no such file, nor a folder with .jsonl files; check the path")
    return {name: found[name] for name in in_usual_order(found)}


def split_files(src: Path, form: Format) -> dict[str, Path]:
    """The text file of each split, in the usual order. Raises DataError where there is none."""
    if form == "twitter-gmner":
        return {name: split_path(src, name) for name in available_splits(src)}
    files = {"jsonl": jsonl_files, "ccks": ccks_files, "conll": column_files}[form]
    return files(src)


def read_splits(
    src: Path,
    form: Format,
    images: Path | None = None,
    *,
    only: Sequence[str] = (),
    skip_bad: bool = False,
    scheme: Scheme | None = None,
    apart: bool = False,
    boxes: BoxFrame = "upright",
) -> tuple[Split, ...]:
    """Read the splits of `src`, all of them or those named in `only`.

    Types are those of `scheme` (None: of `usual_scheme`). `apart` reads each entry of a `ccks`
    file as an entity (see there). Boxes that are drawn on `stored` pixels are turned upright
    (`frames.turn_upright`). Raises what the readers raise, and DataError for a split that is not
    there.
    """
    files = split_files(src, form)
    for name in only:
        if name not in files:
            raise DataError(src, f"no split {name!r}; it holds {', '.join(files)}")
    kinds = scheme or usual_scheme(form)

    def read(name: str, path: Path) -> Split:
        if form == "twitter-gmner":
            return read_gmner(src, name, images, skip_bad=skip_bad, scheme=kinds)
        if form == "jsonl":
            return read_posts(path, images, skip_bad=skip_bad, scheme=kinds)
        if form == "ccks":
            return read_ccks(path, images, skip_bad=skip_bad, scheme=kinds, apart=apart)
        return read_columns(path, name, images, skip_bad=skip_bad, scheme=kinds)

    splits = [read(name, path) for name, path in files.items() if not only or name in only]
    if boxes == "stored":
        splits = [turn_upright(src, split, skip_bad=skip_bad) for split in splits]
    return tuple(splits)
