"""The Twitter-GMNER layout, v1 and v2: `txt/SPLIT.txt` beside `xml/ID.xml`.

An entity is a BIO span, one for each mention. It is groundable iff its tokens, joined by spaces,
equal the name of an object in its post's XML, letter case included; all boxes of that name are
its gold boxes, raw. A post without XML has no groundable entity, so neither an XML's presence nor
the picture size it states may reach a model: sizes stay beside the posts, never in them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from groundling.atomic import blaming, make_folder, write_bytes
from groundling.data.conll import (
    TaggedPost,
    bio_spans,
    bio_tags,
    is_file_id,
    read_tagged_posts,
)
from groundling.data.picture_index import PictureIndex
from groundling.data.problems import Problem, Report, keep_errors, refuse_errors
from groundling.data.voc import Annotation, format_annotation, read_annotation
from groundling.errors import DataError, InputError
from groundling.records import TWITTER, Box, Entity, Post, Scheme

USUAL_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a data set.

    `xml_sizes` holds the (width, height) in pixels that XML files state, by post id. Having an
    entry there gives away that a post has a groundable entity: for scoring floors only, never for
    a model. `without_xml` counts posts without XML (None in formats that have none),
    `missing_images` lists posts whose picture was looked for in vain, and `skipped` says why
    posts were left out, where that was asked for. `source_texts` holds, by post id, the running
    text that tokens were made from, in formats that have one. `turned` counts posts whose boxes
    were drawn on stored pixels and turned upright (`frames.turn_upright`).
    """

    name: str
    posts: tuple[Post, ...]
    xml_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    without_xml: int | None = None
    missing_images: tuple[str, ...] = ()
    skipped: tuple[Problem, ...] = ()
    source_texts: Mapping[str, str] = field(default_factory=dict)
    turned: int = 0


@dataclass(frozen=True, slots=True)
class RawPost:
    """A post's text, its XML where there is one, and the entities that follow from both.

    `broken` where there is an XML file that cannot be used: nobody knows what is groundable.
    """

    text: TaggedPost
    annotation: Annotation | None
    entities: tuple[Entity, ...]
    broken: bool = False


def available_splits(src: Path | str) -> tuple[str, ...]:
    """The splits that lie in `src/txt`: train, dev, test first, then others by name.

    Raises DataError where `src` is not in the layout or holds no split.
    """
    folder = Path(src)
    texts = folder / "txt"
    if not texts.is_dir():
        raise DataError(folder, _layout_hint(folder))
    if not (folder / "xml").is_dir():
        raise DataError(folder, "txt/ is there but xml/ is not; without it no entity has a box")
    found = {path.stem for path in texts.glob("*.txt") if not path.name.startswith(".")}
    if not found:
        raise DataError(texts, "holds no split; wanted train.txt, dev.txt or test.txt")
    return in_usual_order(found)


def in_usual_order(names: Iterable[str]) -> tuple[str, ...]:
    """Split names without repeats: train, dev, test first, then the others by name."""
    found = set(names)
    usual = [name for name in USUAL_SPLITS if name in found]
    return (*usual, *sorted(found.difference(usual)))


def read_gmner(
    src: Path | str,
    split: str,
    images: Path | str | None = None,
    *,
    skip_bad: bool = False,
    scheme: Scheme = TWITTER,
) -> Split:
    """Read one split of a Twitter-GMNER folder, or of one in its layout with other types.

    `images` is a folder with ID.jpg, .jpeg or .png in it, or in twitter2015_images or
    twitter2017_images below it; a post whose picture is absent has `image` None and is listed in
    `missing_images`. A broken line or XML raises DataError with its file and line, or, with
    `skip_bad`, leaves that post out and is recorded in `skipped`. A split that is not there
    raises DataError, an image folder that is not there InputError.
    """
    skipped: list[Problem] = []
    report = keep_errors(skipped) if skip_bad else refuse_errors
    index = None if images is None else PictureIndex(Path(images))
    posts: list[Post] = []
    sizes: dict[str, tuple[int, int]] = {}
    without_xml = 0
    for raw in iter_raw_posts(src, split, report, scheme):
        if raw.broken:
            continue
        picture = index.find(raw.text.id) if index else None
        image = None if picture is None else str(picture)
        posts.append(Post(raw.text.id, raw.text.tokens, raw.entities, image))
        without_xml += raw.annotation is None
        if raw.annotation and raw.annotation.size_wh_px:
            sizes[raw.text.id] = raw.annotation.size_wh_px
    missing = tuple(post.id for post in posts if index and post.image is None)
    return Split(split, tuple(posts), sizes, without_xml, missing, tuple(skipped))


def iter_raw_posts(
    src: Path | str, split: str, report: Report, scheme: Scheme = TWITTER
) -> Iterator[RawPost]:
    """The posts of a split whose text is sound; everything that is wrong goes to `report`.

    Raises DataError where the split cannot be read, and whatever `report` raises.
    """
    if split not in (there := available_splits(src)):
        raise DataError(Path(src), f"no split {split!r}; it holds {', '.join(there)}")
    xml_files = {path.name: path for path in (Path(src) / "xml").iterdir()}
    for text in read_tagged_posts(split_path(src, split), report, scheme):
        path = xml_files.get(f"{text.id}.xml")
        annotation = read_annotation(path, report) if path else None
        broken = path is not None and annotation is None
        entities = _entities(text, annotation, scheme)
        yield RawPost(text, annotation, entities, broken)


def split_path(src: Path | str, split: str) -> Path:
    """The text file of a split."""
    return Path(src) / "txt" / f"{split}.txt"


def xml_path(src: Path | str, post_id: str) -> Path:
    """Where a post's XML lies, if it has one."""
    return Path(src) / "xml" / f"{post_id}.xml"


def write_gmner_split(
    src: Path | str,
    split: str,
    posts: Sequence[Post],
    sizes: Mapping[str, tuple[int, int]],
    scheme: Scheme = TWITTER,
) -> None:
    """Write a split so that `read_gmner` gives the same posts back (pictures apart).

    XML is written only for posts with a groundable entity, with `sizes[post.id]` (width, height
    in pixels) as its `<size>` where there is one; an XML left behind by a post of the same id
    without one is removed. Files are replaced whole, the text file last, and other splits stay as
    they are. Raises InputError, before anything is written, for posts that the layout cannot
    hold: an id that is no file name or is used twice, a token with a tab or newline, entities
    that overlap or are out of order, a name that is not its tokens joined by spaces, mentions of
    one name with different boxes, boxes that are not whole pixels.
    """
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise InputError(f"{split!r} cannot name a split; wanted letters, digits, - and _")
    blocks: list[str] = []
    annotations: dict[str, bytes | None] = {}
    for post in posts:
        if post.id in annotations:
            raise InputError(f"post {post.id!r} comes twice; ids must differ within a split")
        try:
            blocks.append(_format_post(post, scheme))
            annotations[post.id] = _format_boxes(post, sizes.get(post.id))
        except InputError as fault:
            raise InputError(f"post {post.id!r}: {fault}") from fault
    text = "".join(blocks).encode("utf-8")
    make_folder(Path(src) / "xml")
    for post_id, data in annotations.items():
        _place(xml_path(src, post_id), data)
    if hasattr(os, "sync"):
        os.sync()  # once for thousands of files: an fsync of each takes a minute on a busy disk
    write_bytes(split_path(src, split), text)


def _entities(
    text: TaggedPost, annotation: Annotation | None, scheme: Scheme
) -> tuple[Entity, ...]:
    """The rule of the module's docstring."""
    entities = []
    for span in bio_spans(text.tags, scheme):
        name = " ".join(text.tokens[span.start : span.end])
        boxes = annotation.boxes(name) if annotation else ()
        entities.append(Entity(name, span.type, span.start, span.end, boxes))
    return tuple(entities)


def _format_post(post: Post, scheme: Scheme) -> str:
    """The lines of a post, proved to read back as its entities."""
    if not is_file_id(post.id):
        raise InputError("its id cannot name a file; wanted one without / \\ or outer space")
    for token in post.tokens:
        if not token or re.search(r"[\t\n\ud800-\udfff]", token):
            raise InputError(f"token {token!r} does not fit a line; wanted text without tab or \\n")
    tags = bio_tags(len(post.tokens), post.entities, scheme)
    names = {entity.name: entity.gold_boxes for entity in reversed(post.entities)}
    spans = bio_spans(tags, scheme)
    if len(spans) != len(post.entities):
        raise InputError("its entities overlap or leave the text; this layout has no such spans")
    for entity, span in zip(post.entities, spans, strict=True):
        name = " ".join(post.tokens[span.start : span.end])
        if (entity.type, entity.start, entity.end) != (span.type, span.start, span.end):
            raise InputError(f"entity {entity.name!r} is out of order or overlaps another")
        if entity.name != name:
            raise InputError(f"entity {entity.name!r} is called {name!r} in the text")
        if entity.boxes != names[name]:
            raise InputError(f"mentions of {name!r} differ in boxes; this layout shares them")
    lines = (f"{token}\t{tag}\n" for token, tag in zip(post.tokens, tags, strict=True))
    return f"IMGID:{post.id}\n{''.join(lines)}\n"


def _format_boxes(post: Post, size_wh_px: tuple[int, int] | None) -> bytes | None:
    """The XML of a post, or None where no entity is groundable."""
    boxes: dict[str, Sequence[Box]] = {entity.name: entity.boxes for entity in post.entities}
    objects = [(name, box) for name, owned in boxes.items() for box in owned]
    if not objects:
        return None
    filename = Path(post.image).name if post.image else f"{post.id}.jpg"
    return format_annotation(filename, size_wh_px, objects)


def _place(path: Path, data: bytes | None) -> None:
    """Replace a file, or remove it where `data` is None; the caller syncs."""
    if data is None:
        path.unlink(missing_ok=True)
        return
    draft = path.with_name(f".{path.name}.tmp")
    with blaming(draft):
        draft.write_bytes(data)
    draft.replace(path)


def _layout_hint(folder: Path) -> str:
    """What is wrong with a folder that is not in the layout, and what to do about it."""
    if folder.is_file():
        return "a file; wanted a folder with txt/ and xml/, or --format jsonl"
    if not folder.is_dir():
        return "no such folder; check the path"
    below = sorted(path.parent for path in folder.glob("*/txt") if path.is_dir())
    if below:
        return f"no folder txt/ in it; {below[0]} has one: pass that"
    return "no folder txt/ in it; wanted the unpacked release, with txt/ and xml/"
