"""Every quirk of a data set, with file and line; nothing is changed.

`problems.KINDS` lists what is looked for. Text and XML are read with the readers' own parsers,
so what is called an error here is what they refuse.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from groundling.data.ccks import ccks_files, iter_ccks_posts, picture_index
from groundling.data.check_images import Look, boxes_outside, gmner_look, image_problems, post_look
from groundling.data.columns import column_files, read_column_posts, tagged_entities
from groundling.data.conll import TaggedPost, bio_spans, listed_ids
from groundling.data.formats import Format, jsonl_files, split_files, usual_scheme
from groundling.data.gmner import (
    available_splits,
    iter_raw_posts,
    split_path,
    xml_path,
)
from groundling.data.jsonl import read_numbered_posts
from groundling.data.mentions import nameless
from groundling.data.picture_index import PictureIndex
from groundling.data.problems import Problem, read_bytes
from groundling.data.voc import Annotation, read_annotation
from groundling.records import BoxFrame, Entity, Post, Scheme


def check_data(
    src: Path,
    form: Format,
    images: Path | None = None,
    scheme: Scheme | None = None,
    boxes: BoxFrame = "upright",
) -> list[Problem]:
    """All problems of a data set, by file and line; its types are those of `scheme`.

    With `images`, the pictures of its posts are decoded too, from that folder only. Pictures that
    JSON lines record, or that lie where the CCKS task has them, are decoded in any case. `boxes`
    says what boxes are drawn on; which setting looks right is told by those that leave their image.

    Raises DataError where `src` cannot be read, InputError where `images` is not a folder.
    """
    index = None if images is None else PictureIndex(images)
    check = _CHECKS[form]
    found = dict.fromkeys(check(src, index, scheme or usual_scheme(form), boxes))
    found |= dict.fromkeys(_empty_files(src, form))
    return sorted(found, key=lambda problem: (problem.file, problem.line or 0))


def _empty_files(src: Path, form: Format) -> Iterator[Problem]:
    """Files of posts that hold nothing at all; an empty JSON object is empty too."""
    for path in split_files(src, form).values():
        if read_bytes(path).strip() in (b"", b"\xef\xbb\xbf", b"{}"):
            yield Problem(str(path), None, "no-posts", "holds no posts; is it the right file?")


# --- by format ---------------------------------------------------------------------------------


def _check_gmner(
    src: Path, index: PictureIndex | None, scheme: Scheme, boxes: BoxFrame
) -> Iterator[Problem]:
    found: list[Problem] = []
    looks: list[Look] = []
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
            looks.append(gmner_look(src, path, raw, index))
    yield from found
    for path in sorted((src / "xml").glob("*.xml")):
        if path.stem not in listed:
            message = f"no post {path.stem!r} in {', '.join(splits)}"
            yield Problem(str(path), None, "xml-without-post", message)
        if path.stem not in split_of:
            unused: list[Problem] = []
            read_annotation(path, unused.append)
            yield from unused
    yield from image_problems(looks, index, boxes, src)


def _check_jsonl(
    src: Path, index: PictureIndex | None, scheme: Scheme, boxes: BoxFrame
) -> Iterator[Problem]:
    found: list[Problem] = []
    looks: list[Look] = []
    split_of: dict[str, str] = {}
    for split, path in jsonl_files(src).items():
        for line, post in read_numbered_posts(path, index, found.append, scheme):
            found += _seen_in_another(path, line, post.id, split, split_of)
            found += _post_quirks(path, line, post)
            looks.append(post_look(path, line, post))
    yield from found
    yield from image_problems(looks, index, boxes, src)


def _check_ccks(
    src: Path, index: PictureIndex | None, scheme: Scheme, boxes: BoxFrame
) -> Iterator[Problem]:
    split_of: dict[str, str] = {}
    for split, path in ccks_files(src).items():
        found: list[Problem] = []
        looks: list[Look] = []
        pictures = index or picture_index(path, None)
        for post, _ in iter_ccks_posts(path, pictures, found.append, scheme):
            found += _seen_in_another(path, None, post.id, split, split_of)
            found += _post_quirks(path, None, post)
            looks.append(post_look(path, None, post))
        yield from found
        yield from image_problems(looks, pictures, boxes, src)


def _check_columns(
    src: Path, index: PictureIndex | None, scheme: Scheme, boxes: BoxFrame
) -> Iterator[Problem]:
    found: list[Problem] = []
    looks: list[Look] = []
    split_of: dict[str, str] = {}
    for split, path in column_files(src).items():
        for text in read_column_posts(path, split, found.append, scheme):
            found += _seen_in_another(path, text.line, text.id, split, split_of)
            found += _text_quirks(path, text, tagged_entities(text, scheme), scheme)
            if index:
                looks.append(Look(path, text.line, text.id, index.find(text.id), path, None, ()))
    yield from found
    yield from image_problems(looks, index, boxes, src)


_CHECKS: Mapping[
    Format, Callable[[Path, PictureIndex | None, Scheme, BoxFrame], Iterator[Problem]]
] = {
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
        yield Problem(str(path), text.token_line(entity.span[0]), "type-conflict", message)


def _post_quirks(path: Path, line: int | None, post: Post) -> Iterator[Problem]:
    if not post.tokens and not post.entities:
        yield Problem(str(path), line, "empty-post", f"post {post.id!r} has no tokens")
    for token in post.tokens:
        if odd := _odd_characters(token):
            yield Problem(str(path), line, "odd-character", f"token {token!r} holds {odd}")
    for _, message in _type_conflicts(post.id, post.entities):
        yield Problem(str(path), line, "type-conflict", message)
    for kind, message in _shared_tokens(post):
        yield Problem(str(path), line, kind, message)
    for entity in post.entities:
        if entity.start is None:
            if post.tokens:
                yield nameless(path, line, entity.name, post.id)
            continue
        name = " ".join(post.tokens[slice(*entity.span)])
        if name != entity.name:
            message = f"entity {entity.name!r} is called {name!r} in the text"
            yield Problem(str(path), line, "name-differs", message)


def _shared_tokens(post: Post) -> Iterator[tuple[str, str]]:
    """Entities of a post that BIO tags cannot hold beside an earlier one: kind and message.

    One span with two types under one name is a type conflict, and told as that alone.
    """
    for index, entity in enumerate(post.entities):
        for other in post.entities[:index]:
            if kind := _sharing(entity, other):
                named = f"{entity.name!r} ({entity.type}, post {post.id})"
                yield kind, f"{named} {_SHARING[kind]} {other.name!r} ({other.type})"
                break


_SHARING = {"duplicate-entity": "is the same as", "overlapping-entities": "shares tokens with"}


def _sharing(entity: Entity, other: Entity) -> str | None:
    """How an entity stands to an earlier one: the kind of a problem, or None."""
    named, typed = entity.name == other.name, entity.type == other.type
    if (entity.start, entity.end) == (other.start, other.end):
        same = named and typed if entity.start is None else typed or not named
        return "duplicate-entity" if same else None
    if entity.start is None or other.start is None:
        return None
    (first, last), (before, after) = entity.span, other.span
    return "overlapping-entities" if max(first, before) < min(last, after) else None


def _odd_characters(token: str) -> str:
    """The invisible and replacement characters of a token, named; empty where it has none.

    Where nothing of a token can be seen, all of its characters are named: a variation selector or
    a combining mark is odd alone, not behind what it changes.
    """
    unseen = all(map(_is_unseen, token))
    odd = [
        char
        for char in dict.fromkeys(token)
        if unseen
        or char in " \ufffd"
        or (not char.isprintable() and unicodedata.category(char) != "Cn")
    ]
    return ", ".join(
        f"U+{ord(char):04X} {unicodedata.name(char, 'control character')}" for char in odd
    )


_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Characters that count as letters or symbols and show nothing: Hangul fillers, the empty Braille
pattern."""


def _is_unseen(char: str) -> bool:
    """Whether a character shows nothing by itself: space, control, format, mark, blank."""
    category = unicodedata.category(char)
    return category[0] in "ZM" or category in ("Cc", "Cf") or char in _BLANKS


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
        yield from boxes_outside(path, annotation.objects, annotation.size_wh_px)
    if not annotation.objects:
        yield Problem(str(path), None, "empty-annotation", "no <object> in it")
    for item in annotation.objects:
        if item.name not in names:
            message = f"{item.name!r} is no entity of the post; its box is not used"
            yield Problem(str(path), item.line, "unmatched-object", message)
        if item.name != item.name.strip() or "\n" in item.name:
            message = f"{item.name!r} has a newline or outer space"
            yield Problem(str(path), item.line, "name-whitespace", message)
