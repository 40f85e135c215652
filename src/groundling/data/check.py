"""Every quirk of a data set, with file and line; nothing is changed.

`problems.KINDS` lists what is looked for. Text and XML are read with the readers' own parsers,
so what is called an error here is what they refuse.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from groundling.data.ccks import ccks_files, iter_ccks_posts, picture_index
from groundling.data.columns import column_files, read_column_posts, tagged_entities
from groundling.data.conll import TaggedPost, bio_spans, listed_ids
from groundling.data.formats import Format, jsonl_files, usual_scheme
from groundling.data.gmner import (
    RawPost,
    available_splits,
    iter_raw_posts,
    split_path,
    xml_path,
)
from groundling.data.jsonl import read_numbered_posts
from groundling.data.picture_index import PictureIndex
from groundling.data.problems import Problem
from groundling.data.voc import Annotation, NamedBox, read_annotation
from groundling.errors import ImageError
from groundling.images import load_image
from groundling.records import Entity, Post, Scheme


def check_data(
    src: Path, form: Format, images: Path | None = None, scheme: Scheme | None = None
) -> list[Problem]:
    """All problems of a data set, by file and line; its types are those of `scheme`.

    With `images`, the pictures of its posts are decoded too, from that folder only. Pictures that
    JSON lines record, or that lie where the CCKS task has them, are decoded in any case.

    Raises DataError where `src` cannot be read, InputError where `images` is not a folder.
    """
    index = None if images is None else PictureIndex(images)
    check = _CHECKS[form]
    found = dict.fromkeys(check(src, index, scheme or usual_scheme(form)))
    return sorted(found, key=lambda problem: (problem.file, problem.line or 0))


# --- by format ---------------------------------------------------------------------------------


def _check_gmner(src: Path, index: PictureIndex | None, scheme: Scheme) -> Iterator[Problem]:
    found: list[Problem] = []
    looks: list[_Look] = []
    split_of: dict[str, str] = {}
    listed: set[str] = set()
    splits = available_splits(src)
    for split in splits:
        path = split_path(src, split)
        listed |= listed_ids(path)
        for raw in iter_raw_posts(src, split, found.append, scheme):
            found += _seen_in_another(path, raw.text.line, raw.text.id, split, split_of)
            found += _text_quirks(path, raw.text, raw.entities, scheme)
            if raw.annotation:
                found += _xml_quirks(xml_path(src, raw.text.id), raw.annotation, raw.entities)
            if index:
                looks.append(_gmner_look(src, path, raw, index))
    yield from found
    for path in sorted((src / "xml").glob("*.xml")):
        if path.stem not in listed:
            message = f"no post {path.stem!r} in {', '.join(splits)}"
            yield Problem(str(path), None, "xml-without-post", message)
        if path.stem not in split_of:
            unused: list[Problem] = []
            read_annotation(path, unused.append)
            yield from unused
    yield from _picture_problems(looks, index)


def _check_jsonl(src: Path, index: PictureIndex | None, scheme: Scheme) -> Iterator[Problem]:
    found: list[Problem] = []
    looks: list[_Look] = []
    split_of: dict[str, str] = {}
    for split, path in jsonl_files(src).items():
        for line, post in read_numbered_posts(path, index, found.append, scheme):
            found += _seen_in_another(path, line, post.id, split, split_of)
            found += _post_quirks(path, line, post)
            if index or post.image:
                looks.append(_post_look(path, line, post))
    yield from found
    yield from _picture_problems(looks, index)


def _check_ccks(src: Path, index: PictureIndex | None, scheme: Scheme) -> Iterator[Problem]:
    split_of: dict[str, str] = {}
    for split, path in ccks_files(src).items():
        found: list[Problem] = []
        looks: list[_Look] = []
        pictures = index or picture_index(path, None)
        for post, _ in iter_ccks_posts(path, pictures, found.append, scheme):
            found += _seen_in_another(path, None, post.id, split, split_of)
            found += _post_quirks(path, None, post)
            if pictures:
                looks.append(_post_look(path, None, post))
        yield from found
        yield from _picture_problems(looks, pictures)


def _check_columns(src: Path, index: PictureIndex | None, scheme: Scheme) -> Iterator[Problem]:
    found: list[Problem] = []
    looks: list[_Look] = []
    split_of: dict[str, str] = {}
    for split, path in column_files(src).items():
        for text in read_column_posts(path, split, found.append, scheme):
            found += _seen_in_another(path, text.line, text.id, split, split_of)
            found += _text_quirks(path, text, tagged_entities(text, scheme), scheme)
            if index:
                looks.append(_Look(path, text.line, text.id, index.find(text.id), path, None, ()))
    yield from found
    yield from _picture_problems(looks, index)


_CHECKS: Mapping[Format, Callable[[Path, PictureIndex | None, Scheme], Iterator[Problem]]] = {
    "twitter-gmner": _check_gmner,
    "jsonl": _check_jsonl,
    "ccks": _check_ccks,
    "conll": _check_columns,
}


def _seen_in_another(
    path: Path, line: int | None, post_id: str, split: str, split_of: dict[str, str]
) -> Iterator[Problem]:
    """The finding that a post is in an earlier split too; remembers the first split of each id."""
    other = split_of.setdefault(post_id, split)
    if other != split:
        message = f"post {post_id!r} is in {other} too"
        yield Problem(str(path), line, "post-in-two-splits", message)


# --- texts -------------------------------------------------------------------------------------


def _text_quirks(
    path: Path, text: TaggedPost, entities: Iterable[Entity], scheme: Scheme
) -> Iterator[Problem]:
    if not text.tokens:
        yield Problem(str(path), text.line, "empty-post", f"post {text.id!r} has no tokens")
    for span in bio_spans(text.tags, scheme):
        if span.orphan:
            tag, token = text.tags[span.start], text.tokens[span.start]
            message = f"{tag} of {token!r} (post {text.id}) continues nothing; it opens an entity"
            yield Problem(str(path), text.token_line(span.start), "orphan-inside", message)
    for index, token in enumerate(text.tokens):
        if odd := _odd_characters(token):
            message = f"token {token!r} holds {odd}"
            yield Problem(str(path), text.token_line(index), "odd-character", message)
    for entity, message in _type_conflicts(text.id, entities):
        yield Problem(str(path), text.token_line(entity.start), "type-conflict", message)


def _post_quirks(path: Path, line: int | None, post: Post) -> Iterator[Problem]:
    if not post.tokens:
        yield Problem(str(path), line, "empty-post", f"post {post.id!r} has no tokens")
    for token in post.tokens:
        if odd := _odd_characters(token):
            yield Problem(str(path), line, "odd-character", f"token {token!r} holds {odd}")
    for _, message in _type_conflicts(post.id, post.entities):
        yield Problem(str(path), line, "type-conflict", message)
    for entity in post.entities:
        name = " ".join(post.tokens[entity.start : entity.end])
        if name != entity.name:
            message = f"entity {entity.name!r} is called {name!r} in the text"
            yield Problem(str(path), line, "name-differs", message)


def _odd_characters(token: str) -> str:
    """The invisible and replacement characters of a token, named; empty where it has none."""
    odd = [
        char
        for char in dict.fromkeys(token)
        if char in " \ufffd" or (not char.isprintable() and unicodedata.category(char) != "Cn")
    ]
    return ", ".join(
        f"U+{ord(char):04X} {unicodedata.name(char, 'control character')}" for char in odd
    )


def _type_conflicts(post_id: str, entities: Iterable[Entity]) -> Iterator[tuple[Entity, str]]:
    first_type: dict[str, str] = {}
    for entity in entities:
        other = first_type.setdefault(entity.name, entity.type)
        if other != entity.type:
            name = f"{entity.name!r} (post {post_id})"
            yield entity, f"{name} is {other} before and {entity.type} here"


# --- annotations -------------------------------------------------------------------------------


def _xml_quirks(
    path: Path, annotation: Annotation, entities: Iterable[Entity]
) -> Iterator[Problem]:
    names = {entity.name for entity in entities}
    stem = Path(annotation.filename).stem
    if stem != path.stem:
        message = f"<filename> is {annotation.filename!r}; the file's own name is what counts"
        yield Problem(str(path), annotation.filename_line, "filename-differs", message)
    if annotation.size_wh_px is None:
        yield Problem(str(path), None, "missing-size", "no positive <width> and <height>")
    else:
        yield from _boxes_outside(path, annotation.objects, annotation.size_wh_px)
    if not annotation.objects:
        yield Problem(str(path), None, "empty-annotation", "no <object> in it")
    for item in annotation.objects:
        if item.name not in names:
            message = f"{item.name!r} is no entity of the post; its box is not used"
            yield Problem(str(path), item.line, "unmatched-object", message)
        if item.name != item.name.strip() or "\n" in item.name:
            message = f"{item.name!r} has a newline or outer space"
            yield Problem(str(path), item.line, "name-whitespace", message)


def _boxes_outside(
    path: Path, objects: Iterable[NamedBox], size_wh_px: tuple[int, int]
) -> Iterator[Problem]:
    """Coordinates may count from 0 or from 1: 0 and the full width are both inside."""
    width, height = size_wh_px
    for item in objects:
        x1, y1, x2, y2 = item.box.xyxy
        if min(x1, y1) < 0 or x2 > width or y2 > height:
            shown = ", ".join(f"{value:.15g}" for value in item.box.xyxy)
            message = f"box [{shown}] of {item.name!r} leaves the picture of {width} × {height}"
            yield Problem(str(path), item.line, "box-outside-image", message)


# --- pictures ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    """A picture to decode: its post (file and line), its path, and what it must agree with."""

    file: Path
    line: int | None
    post_id: str
    picture: Path | None
    annotated_in: Path
    stated_wh_px: tuple[int, int] | None
    boxes: Sequence[NamedBox]


def _post_look(path: Path, line: int | None, post: Post) -> _Look:
    boxes = [NamedBox(entity.name, box, line) for entity in post.entities for box in entity.boxes]
    picture = None if post.image is None else Path(post.image)
    return _Look(path, line, post.id, picture, path, None, boxes)


def _gmner_look(src: Path, path: Path, raw: RawPost, index: PictureIndex) -> _Look:
    annotation = raw.annotation
    return _Look(
        file=path,
        line=raw.text.line,
        post_id=raw.text.id,
        picture=index.find(raw.text.id),
        annotated_in=xml_path(src, raw.text.id),
        stated_wh_px=annotation.size_wh_px if annotation else None,
        boxes=annotation.objects if annotation else (),
    )


def _picture_problems(looks: Iterable[_Look], index: PictureIndex | None) -> Iterator[Problem]:
    """Decode the pictures on a few threads (Pillow lets go of the interpreter meanwhile)."""
    root = index.folder if index else None
    with ThreadPoolExecutor(max_workers=4) as pool:
        for problems in pool.map(lambda look: _look_at(look, root), looks):
            yield from problems


def _look_at(look: _Look, root: Path | None) -> list[Problem]:
    if look.picture is None:
        message = f"no picture of post {look.post_id!r} in {root}"
        return [Problem(str(look.file), look.line, "image-missing", message)]
    try:
        size = load_image(look.picture, root=root).size
    except ImageError as fault:
        message = str(fault).removeprefix(f"{look.picture}: ")
        return [Problem(str(look.picture), None, "image-unreadable", message)]
    if look.stated_wh_px is None:
        return list(_boxes_outside(look.annotated_in, look.boxes, size))
    if look.stated_wh_px == size:
        return []
    stated = " × ".join(map(str, look.stated_wh_px))
    message = f"the picture is {size[0]} × {size[1]}, its XML says {stated}"
    if look.stated_wh_px == size[::-1]:
        message += "; boxes may be drawn on the picture before its EXIF turn"
    return [Problem(str(look.picture), None, "image-size-differs", message)]
