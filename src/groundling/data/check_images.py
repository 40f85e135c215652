"""What `groundling data check` finds in images, and in boxes beside their images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from groundling.data.conventions import WORDS, looks_relative, share_within
from groundling.data.gmner import RawPost, xml_path
from groundling.data.picture_index import PictureIndex
from groundling.data.problems import Problem
from groundling.data.voc import NamedBox
from groundling.errors import ImageError
from groundling.images import StoredFrame, load_image, stored_frame
from groundling.records import Box, BoxFrame, Post, Size


@dataclass(frozen=True, slots=True)
class Look:
    """An image to decode: its post (file and line), its path, and what it must agree with."""

    file: Path
    line: int | None
    post_id: str
    picture: Path | None
    annotated_in: Path
    stated_wh_px: Size | None
    boxes: Sequence[NamedBox]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look found; `fits` names the one frame that the boxes or the stated size agree with,
    where they agree with one alone. The size is None where neither image nor XML tells it."""

    problems: Sequence[Problem]
    fits: BoxFrame | None = None
    size_wh_px: Size | None = None


def post_look(path: Path, line: int | None, post: Post) -> Look:
    """What is to be looked at for a post that names its boxes by mention."""
    boxes = [NamedBox(entity.name, box, line) for entity in post.entities for box in entity.boxes]
    picture = None if post.image is None else Path(post.image)
    return Look(path, line, post.id, picture, path, None, boxes)


def gmner_look(src: Path, path: Path, raw: RawPost, index: PictureIndex | None) -> Look:
    """What is to be looked at for a post of Twitter-GMNER's layout."""
    annotation = raw.annotation
    return Look(
        file=path,
        line=raw.text.line,
        post_id=raw.text.id,
        picture=index.find(raw.text.id) if index else None,
        annotated_in=xml_path(src, raw.text.id),
        stated_wh_px=annotation.size_wh_px if annotation else None,
        boxes=annotation.objects if annotation else (),
    )


def boxes_outside(path: Path, objects: Iterable[NamedBox], size_wh_px: Size) -> Iterator[Problem]:
    """Coordinates may count from 0 or from 1: 0 and the full width are both inside."""
    width, height = size_wh_px
    for item in objects:
        if not _inside(item.box, size_wh_px):
            shown = ", ".join(f"{value:.15g}" for value in item.box.xyxy)
            message = f"box [{shown}] of {item.name!r} leaves the picture of {width} × {height}"
            yield Problem(str(path), item.line, "box-outside-image", message)


def image_problems(
    looks: Iterable[Look], index: PictureIndex | None, boxes: BoxFrame, src: Path
) -> Iterator[Problem]:
    """Decode the images on a few threads (Pillow lets go of the interpreter meanwhile).

    Boxes are compared with the frame that `boxes` names; a last finding says where the other one
    suits more images. Without an index, posts that record no image have none to miss.
    """
    root = index.folder if index else None
    fits = {"upright": 0, "stored": 0}
    placed: dict[Path, list[tuple[Box, float]]] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for look, seen in pool.map(lambda look: (look, _look_at(look, root, boxes)), looks):
            yield from seen.problems
            if seen.fits is not None:
                fits[seen.fits] += 1
            chance = share_within(seen.size_wh_px)
            placed.setdefault(look.file, []).extend((item.box, chance) for item in look.boxes)
    for path, found in placed.items():
        yield from _relative(path, found)
    other: BoxFrame = "stored" if boxes == "upright" else "upright"
    if fits[other] > fits[boxes]:
        message = (
            f"of the images that EXIF turns on their side, {fits[other]} have boxes or sizes that "
            f"fit only the {other} frame and {fits[boxes]} such that fit only the {boxes} one: "
            f"boxes look drawn on the {other} frame; say `boxes: {other}` (--boxes {other})"
        )
        yield Problem(str(src), None, "box-frame", message)


def _relative(path: Path, placed: Sequence[tuple[Box, float]]) -> Iterator[Problem]:
    """The finding that the boxes of a file are not in pixels, or that some of them are not."""
    scale = looks_relative(placed)
    if scale is not None:
        message = f"its {len(placed)} boxes look like {WORDS[scale]}; wanted pixels of the image"
        yield Problem(str(path), None, "relative-boxes", message)
    elif tiny := sum(looks_relative([item]) == 1 and item[0].area < 1 for item in placed):
        message = f"{tiny} of {len(placed)} boxes are smaller than a pixel: {WORDS[1]}?"
        yield Problem(str(path), None, "relative-boxes", message)


def _look_at(look: Look, root: Path | None, boxes: BoxFrame) -> _Seen:
    if look.picture is None and root is None:
        return _Seen([], None, look.stated_wh_px)
    if look.picture is None:
        message = f"no picture of post {look.post_id!r} in {root}"
        return _Seen(
            [Problem(str(look.file), look.line, "image-missing", message)], None, look.stated_wh_px
        )
    try:
        size = load_image(look.picture, root=root, orient=boxes == "upright").size
        frame = stored_frame(look.picture, root=root)
    except ImageError as fault:
        message = str(fault).removeprefix(f"{look.picture}: ")
        return _Seen(
            [Problem(str(look.picture), None, "image-unreadable", message)], None, look.stated_wh_px
        )
    fits = _fitting_frame(look, frame)
    if look.stated_wh_px is None:
        return _Seen(list(boxes_outside(look.annotated_in, look.boxes, size)), fits, size)
    if look.stated_wh_px == size:
        return _Seen([], fits, size)
    stated = " × ".join(map(str, look.stated_wh_px))
    message = f"the picture is {size[0]} × {size[1]}, its XML says {stated}"
    if look.stated_wh_px == size[::-1] and fits is not None:
        message += f"; boxes may be drawn on its {fits} frame: see --boxes"
    return _Seen([Problem(str(look.picture), None, "image-size-differs", message)], fits, size)


def _fitting_frame(look: Look, frame: StoredFrame) -> BoxFrame | None:
    """The one frame that a stated size, else the boxes, agree with; None where nothing tells."""
    stored, upright = frame.stored_wh_px, frame.upright_wh_px
    if stored == upright:
        return None
    if look.stated_wh_px in (stored, upright):
        return "stored" if look.stated_wh_px == stored else "upright"
    in_stored = all(_inside(item.box, stored) for item in look.boxes)
    in_upright = all(_inside(item.box, upright) for item in look.boxes)
    if in_stored == in_upright:
        return None
    return "stored" if in_stored else "upright"


def _inside(box: Box, size_wh_px: Size) -> bool:
    return min(box.x1, box.y1) >= 0 and box.x2 <= size_wh_px[0] and box.y2 <= size_wh_px[1]
