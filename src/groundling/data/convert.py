"""A data set from one layout to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from groundling.data.ccks import TEXTS, write_ccks
from groundling.data.columns import write_columns
from groundling.data.formats import Format, read_splits, split_files, usual_scheme
from groundling.data.gmner import Split, split_path, write_gmner_split
from groundling.data.jsonl import write_posts
from groundling.errors import InputError
from groundling.images import load_image
from groundling.records import BoxFrame, Post, Scheme


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to convert and how.

    `splits` chooses splits (all, where empty); for a single file it is the name to give.
    `skip_bad` leaves posts with faults out. `images` is where to look for the pictures. `scheme`
    has the types of both sides (None: the usual one of the source). `boxes` says what the source's
    boxes are drawn on; written boxes are always upright.
    """

    src: Path
    out: Path
    source_format: Format
    target_format: Format
    splits: tuple[str, ...] = ()
    images: Path | None = None
    skip_bad: bool = False
    scheme: Scheme | None = None
    boxes: BoxFrame = "upright"

    @property
    def types(self) -> Scheme:
        """The scheme that is read and written."""
        return self.scheme or usual_scheme(self.source_format)


@dataclass(frozen=True, slots=True)
class Converted:
    """A split that was written to `path`.

    `unsized` counts XML files without a picture size, `boxless` the boxes that the target cannot
    hold.
    """

    split: Split
    path: Path
    unsized: int = 0
    boxless: int = 0


def convert(job: Conversion) -> tuple[Converted, ...]:
    """Convert a data set; every split is read before the first is written.

    To `jsonl`, `out` is a file where it ends in .jsonl (for one split), else a folder that gets
    SPLIT.jsonl. To `twitter-gmner`, an XML's picture size is that of the source's XML, else that
    of the picture, else left out. The picture sizes and layout of a source's XML are not carried
    into other formats: they would give groundability away. `conll` keeps texts and tags alone.

    Raises DataError for what cannot be read, InputError for what the target cannot hold and
    where source and target are the same, ImageError for a picture that is needed and unreadable.
    """
    splits = _read(job)
    targets = [_target(job, split, len(splits)) for split in splits]
    sources = _sources(job)
    for target in targets:
        if target.resolve() in sources:
            raise InputError(f"{target} is the source itself; name another place for the result")
    return tuple(_write(job, split, target) for split, target in zip(splits, targets, strict=True))


def _read(job: Conversion) -> Sequence[Split]:
    naming = job.src.is_file() and len(job.splits) == 1
    splits = read_splits(
        job.src,
        job.source_format,
        job.images,
        only=() if naming else job.splits,
        skip_bad=job.skip_bad,
        scheme=job.types,
        boxes=job.boxes,
    )
    return [replace(splits[0], name=job.splits[0])] if naming else splits


def _target(job: Conversion, split: Split, count: int) -> Path:
    if job.target_format == "twitter-gmner":
        return split_path(job.out, split.name)
    ending = {"jsonl": ".jsonl", "conll": ".conll", "ccks": TEXTS}[job.target_format]
    if job.target_format == "ccks" or job.out.suffix != ending:
        return job.out / f"{split.name}{ending}"
    if count > 1:
        raise InputError(f"{job.out} is one file for {count} splits; name a folder or one --split")
    return job.out


def _sources(job: Conversion) -> set[Path]:
    return {path.resolve() for path in split_files(job.src, job.source_format).values()}


def _write(job: Conversion, split: Split, target: Path) -> Converted:
    if job.target_format == "jsonl":
        write_posts(target, split.posts, job.types)
        return Converted(split, target)
    if job.target_format == "ccks":
        write_ccks(target.parent, split.name, split.posts, split.source_texts, job.types)
        return Converted(split, target)
    if job.target_format == "conll":
        write_columns(target, split.posts, job.types)
        boxes = sum(len(entity.boxes) for post in split.posts for entity in post.entities)
        return Converted(split, target, boxless=boxes)
    groundable = [post for post in split.posts if any(item.groundable for item in post.entities)]
    sizes = dict(split.xml_sizes)
    for post in groundable:
        if post.id not in sizes and (size := _picture_size(post)):
            sizes[post.id] = size
    write_gmner_split(job.out, split.name, split.posts, sizes, job.types)
    return Converted(split, target, sum(post.id not in sizes for post in groundable))


def _picture_size(post: Post) -> tuple[int, int] | None:
    """(width, height) in pixels of a post's picture, None where it has none on disk."""
    if post.image is None or not Path(post.image).is_file():
        return None
    return load_image(post.image).size
