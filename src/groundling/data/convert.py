"""A data set from one layout to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from groundling.data.formats import Format, jsonl_files, read_splits
from groundling.data.gmner import Split, split_path, write_gmner_split
from groundling.data.jsonl import read_posts, write_posts
from groundling.errors import InputError
from groundling.images import load_image
from groundling.records import Post


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to convert and how.

    `splits` chooses splits (all, where empty); for a single JSONL file it is the name to give.
    `skip_bad` leaves posts with faults out. `images` is where to look for the pictures.
    """

    src: Path
    out: Path
    source_format: Format
    target_format: Format
    splits: tuple[str, ...] = ()
    images: Path | None = None
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """A split that was written to `path`; `unsized` counts XML files without a picture size."""

    split: Split
    path: Path
    unsized: int = 0


def convert(job: Conversion) -> tuple[Converted, ...]:
    """Convert a data set; every split is read before the first is written.

    To `jsonl`, `out` is a file where it ends in .jsonl (for one split), else a folder that gets
    SPLIT.jsonl. To `twitter-gmner`, an XML's picture size is that of the source's XML, else that
    of the picture, else left out. The picture sizes and layout of a source's XML are not carried
    into `jsonl`: they would give groundability away.

    Raises DataError for what cannot be read, InputError for what the target cannot hold and
    where source and target are the same, ImageError for a picture that is needed and unreadable.
    """
    splits = _read(job)
    targets = [_target(job, split, len(splits)) for split in splits]
    sources = _sources(job, splits)
    for target in targets:
        if target.resolve() in sources:
            raise InputError(f"{target} is the source itself; name another place for the result")
    return tuple(_write(job, split, target) for split, target in zip(splits, targets, strict=True))


def _read(job: Conversion) -> Sequence[Split]:
    if job.source_format == "jsonl" and job.src.is_file() and len(job.splits) == 1:
        split = read_posts(job.src, job.images, skip_bad=job.skip_bad)
        return (replace(split, name=job.splits[0]),)
    return read_splits(
        job.src, job.source_format, job.images, only=job.splits, skip_bad=job.skip_bad
    )


def _target(job: Conversion, split: Split, count: int) -> Path:
    if job.target_format == "twitter-gmner":
        return split_path(job.out, split.name)
    if job.out.suffix != ".jsonl":
        return job.out / f"{split.name}.jsonl"
    if count > 1:
        raise InputError(f"{job.out} is one file for {count} splits; name a folder or one --split")
    return job.out


def _sources(job: Conversion, splits: Sequence[Split]) -> set[Path]:
    if job.source_format == "jsonl":
        return {path.resolve() for path in jsonl_files(job.src)}
    return {split_path(job.src, split.name).resolve() for split in splits}


def _write(job: Conversion, split: Split, target: Path) -> Converted:
    if job.target_format == "jsonl":
        write_posts(target, split.posts)
        return Converted(split, target)
    groundable = [post for post in split.posts if any(item.groundable for item in post.entities)]
    sizes = dict(split.xml_sizes)
    for post in groundable:
        if post.id not in sizes and (size := _picture_size(post)):
            sizes[post.id] = size
    write_gmner_split(job.out, split.name, split.posts, sizes)
    return Converted(split, target, sum(post.id not in sizes for post in groundable))


def _picture_size(post: Post) -> tuple[int, int] | None:
    """(width, height) in pixels of a post's picture, None where it has none on disk."""
    if post.image is None or not Path(post.image).is_file():
        return None
    return load_image(post.image).size
