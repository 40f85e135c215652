"""The files of the CCKS 2025 GMNER task.

    NAME_text.json     {"1013": {"text": "An NH-90 takes off."}, …}
    NAME_entity.json   {"1013": [{"name": "NH-90", "label": "aircraft",
                                  "bnd": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4} | null}], …}
    NAME_image/        1013.jpg, …

Predictions look like entities. Boxes are pixels of the original image; null: not in the picture.
Texts become tokens by `mentions.words`, as in the task's own CoNLL files. The files do not say
which tokens a name means: `mentions.place_names` does. In memory an entity is called by its tokens
(`NH - 90`), on disk as its text spells it.

An entity with several boxes is an entry for each on disk. It is read as one entity with those
boxes, or, with `apart`, as one entity an entry: what the task's own scorer counts. Keys beside
these are ignored; `json_lines` says what is refused everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from groundling.data.ccks_json import GOLD, TEXT, GoldEntry, entry, read_values, write_values
from groundling.data.gmner import Split, in_usual_order
from groundling.data.mentions import Place, place_names, surface, words
from groundling.data.picture_index import PictureIndex
from groundling.data.problems import Problem, Report, keep_errors, refuse_errors
from groundling.errors import DataError, InputError
from groundling.records import CCKS, Box, Entity, Post, Scheme

TEXTS, ENTITIES, IMAGES = "_text.json", "_entity.json", "_image"
"""What follows a split's name in the names of its files."""


def ccks_files(src: Path) -> dict[str, Path]:
    """The text files of a folder, or `src` itself, by split: train, dev, test first.

    Raises DataError where there is none.
    """
    files = [src] if src.is_file() else src.glob(f"*{TEXTS}")
    found = {path.name.removesuffix(TEXTS): path for path in files if path.name.endswith(TEXTS)}
    if not found:
        raise DataError(src, f"no such file, nor a folder with NAME{TEXTS}; check the path")
    return {name: found[name] for name in in_usual_order(found)}


def read_ccks(
    texts: Path | str,
    images: Path | str | None = None,
    *,
    skip_bad: bool = False,
    scheme: Scheme = CCKS,
    apart: bool = False,
) -> Split:
    """Read NAME_text.json and the NAME_entity.json beside it as split NAME.

    Without an entity file the posts have no entities: nobody knows them. Pictures are looked for
    in `images`, else in NAME_image where it is there. A post that is broken, is not among the
    entities, or has an entity whose name does not occur in its text raises DataError, or, with
    `skip_bad`, is left out and recorded in `skipped`.
    """
    skipped: list[Problem] = []
    source = Path(texts)
    index = picture_index(source, None if images is None else Path(images))
    report = keep_errors(skipped) if skip_bad else refuse_errors
    found = list(iter_ccks_posts(source, index, report, scheme, apart=apart))
    posts = tuple(post for post, _ in found)
    return Split(
        _sibling(source, "").name,
        posts,
        missing_images=tuple(post.id for post in posts if index and post.image is None),
        skipped=tuple(skipped),
        source_texts={post.id: text for post, text in found},
    )


def picture_index(texts: Path, images: Path | None) -> PictureIndex | None:
    """The pictures of `images`, else of the NAME_image folder beside NAME_text.json, if any."""
    beside = _sibling(texts, IMAGES)
    if images is None and not beside.is_dir():
        return None
    return PictureIndex(images or beside)


def iter_ccks_posts(
    texts: Path,
    index: PictureIndex | None,
    report: Report,
    scheme: Scheme = CCKS,
    *,
    apart: bool = False,
) -> Iterator[tuple[Post, str]]:
    """The sound posts with their running texts; everything that is wrong goes to `report`.

    Raises DataError where a file cannot be read or is no object, and whatever `report` raises.
    """
    said = read_values(texts, TEXT, report)
    path = _sibling(texts, ENTITIES)
    entries = read_values(path, GOLD, report, scheme.parse) if path.is_file() else None
    for post_id in entries or ():
        if post_id not in said:
            message = f"post {post_id!r} is not in {texts.name}; its entities are not used"
            report(Problem(str(path), None, "entities-without-post", message))
    for post_id, item in said.items():
        if item is None:
            continue
        if entries is not None and post_id not in entries:
            message = f"post {post_id!r} is missing; list it with [] if it has no entities"
            report(Problem(str(path), None, "post-without-entities", message))
            continue
        listed = [] if entries is None else entries[post_id]
        if listed is None:
            continue
        tokens = words(item.text)
        entities = _entities(path, post_id, tokens, listed, report)
        if entities is None:
            continue
        picture = index.find(post_id) if index else None
        image = None if picture is None else str(picture)
        gold = entities if apart else merge_boxes(entities)
        yield Post(post_id, tokens, tuple(gold), image), item.text


def merge_boxes(entities: Iterable[Entity]) -> list[Entity]:
    """One entity for each span and type, in the order of the text, with all boxes given for it.

    An entry without a box adds none: the entity is in the picture if any entry is.
    """
    boxes: dict[tuple[int, int, str, str], dict[Box, None]] = {}
    for entity in entities:
        key = (*entity.span, entity.type, entity.name)
        boxes.setdefault(key, {}).update(dict.fromkeys(entity.boxes))
    return [
        Entity(name, kind, start, end, tuple(found))
        for (start, end, kind, name), found in sorted(boxes.items(), key=lambda item: item[0][:2])
    ]


def write_ccks(
    folder: Path | str,
    split: str,
    posts: Sequence[Post],
    source_texts: Mapping[str, str],
    scheme: Scheme = CCKS,
) -> Path:
    """Write SPLIT_text.json and SPLIT_entity.json; returns the path of the first.

    A post's text is its entry in `source_texts`, else its tokens joined by spaces. The format
    keeps no positions: read again, a name means the places that `place_names` gives it. Raises
    InputError, before anything is written, for an id that comes twice.
    """
    texts: dict[str, dict[str, str]] = {}
    entities: dict[str, list[dict[str, object]]] = {}
    for post in posts:
        if post.id in texts:
            raise InputError(f"post {post.id!r} comes twice; ids must differ within a split")
        text = source_texts.get(post.id, post.text)
        texts[post.id] = {"text": text}
        entities[post.id] = [
            entry(_spelling(entity, text, post.tokens), scheme.on_disk(entity.type), box)
            for entity in post.entities
            for box in entity.gold_boxes or (None,)
        ]
    target = Path(folder) / f"{split}{TEXTS}"
    write_values(Path(folder) / f"{split}{ENTITIES}", entities)
    write_values(target, texts)
    return target


def _sibling(texts: Path, ending: str) -> Path:
    return texts.with_name(f"{texts.name.removesuffix(TEXTS)}{ending}")


def _entities(
    path: Path, post_id: str, tokens: Sequence[str], listed: Sequence[GoldEntry], report: Report
) -> list[Entity] | None:
    """The entities of a post, in the order of the file; None where one has no place.

    A name within a token means the whole token, and keeps its own spelling.
    """
    entities = []
    places = place_names([item.name for item in listed], tokens)
    for item, place in zip(listed, places, strict=True):
        if place is None:
            message = f"{item.name!r} does not occur in the text of post {post_id!r}"
            report(Problem(str(path), None, "name-not-in-text", message))
            continue
        boxes = () if item.box is None else (item.box,)
        name = name_in_memory(item.name, tokens, place)
        entities.append(Entity(name, item.label, place.start, place.end, boxes))
    return entities if len(entities) == len(listed) else None


def _spelling(entity: Entity, text: str, tokens: Sequence[str]) -> str:
    """An entity's name as the text spells it; its own where it is not that of its tokens."""
    if entity.start is None or entity.name != " ".join(tokens[slice(*entity.span)]):
        return entity.name
    return surface(text, tokens, *entity.span)


def name_in_memory(name: str, tokens: Sequence[str], place: Place | None) -> str:
    """What an entity is called in memory: its tokens joined by spaces, else those of its name."""
    if place is None or not place.whole:
        return " ".join(words(name)) or name
    return " ".join(tokens[place.start : place.end])
