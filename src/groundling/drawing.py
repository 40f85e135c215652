"""Draws answers on a picture: a box each, and a label that says who it is and in what words.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart; lines
carry a light and a dark edge, so that they show on every background.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from groundling.atomic import write_bytes
from groundling.errors import InputError
from groundling.records import Box

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Place = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two exclusive."""

OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Orange, sky blue, bluish green, yellow, blue, vermilion, reddish purple (black is left out)."""

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""What a drawing can be saved as, by the ending of its name."""

_DARK: Colour = (0, 0, 0)
_LIGHT: Colour = (255, 255, 255)
_LEAST_FONT_PX = 13
_ROOMY_PX = 640
"""The longer side from which on an image has room for labels."""
_MOST_TIMES = 8
_SMOOTH = Image.Resampling.LANCZOS
_MARGIN_PX = 3
_SPACING_PX = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """A box in pixels of the picture, and what its label says."""

    box: Box
    label: str


def draw_marks(picture: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A copy of `picture` with every mark on it, each in a colour of its own.

    A small image is drawn larger by a whole factor (`scale_of`), so that labels leave it visible.
    Labels stay inside, outside of their boxes where they fit, and keep clear of each other and of
    other boxes where there is room for it.
    """
    scale = scale_of(picture.size) if marks else 1
    canvas = picture.convert("RGB")
    if scale > 1:
        canvas = canvas.resize((canvas.width * scale, canvas.height * scale), _SMOOTH)
        marks = [Mark(Box(*(scale * v for v in mark.box.xyxy)), mark.label) for mark in marks]
    pen = ImageDraw.Draw(canvas)
    font_px = max(_LEAST_FONT_PX, round(min(canvas.size) / 40))
    line_px = max(2, round(min(canvas.size) / 220))
    font = ImageFont.load_default(font_px)
    coloured = [(mark, OKABE_ITO[i % len(OKABE_ITO)]) for i, mark in enumerate(marks)]
    for mark, colour in coloured:
        _outline(pen, _frame(mark.box, canvas.size), colour, line_px)
    taken: list[Place] = []
    for mark, colour in coloured:
        text = _wrapped(mark.label, font, max(canvas.width // 2, 12 * font_px))
        size = _label_size(pen, text, font)
        frame = _frame(mark.box, canvas.size)
        others = [
            other
            for m in marks
            if m is not mark and not _encloses(other := _frame(m.box, canvas.size), frame)
        ]
        place = _label_place(size, canvas.size, frame, taken, others)
        _label(pen, place, text, font, colour)
        taken.append(place)
    return canvas


def scale_of(size: tuple[int, int]) -> int:
    """How many times larger an image of this size is drawn: to 640 pixels, at most 8 times."""
    return max(1, min(_MOST_TIMES, math.ceil(_ROOMY_PX / max(size))))


def check_name(path: Path, source: Path) -> None:
    """Raise InputError for a name without a drawing's format, and for the image itself."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: cannot tell its format; wanted a name in {', '.join(FORMATS)}")
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"{path}: this is the picture itself; name another file to draw to")


def check_target(path: Path, source: Path) -> None:
    """Raise InputError where a drawing of `source` cannot be saved at `path`."""
    check_name(path, source)
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file to draw to")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")


def save_drawing(drawing: Image.Image, path: Path, source: Path) -> None:
    """Write the drawing whole or not at all, in the format that its name says.

    Raises InputError for what `check_target` refuses: above all, `source` is never overwritten.
    """
    check_target(path, source)
    stream = io.BytesIO()
    drawing.save(stream, FORMATS[path.suffix.lower()], quality=95)
    write_bytes(path, stream.getvalue())


def contrast(one: Colour, other: Colour) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2: 4.5 and more is legible)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Colour) -> float:
    shares = [value / 255 for value in colour]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _ink(ground: Colour) -> Colour:
    """Black or white, whichever is easier to read on `ground`."""
    return max((_DARK, _LIGHT), key=lambda ink: contrast(ink, ground))


def _frame(box: Box, size: tuple[int, int]) -> Place:
    """A box in whole pixels inside the picture, at least one pixel wide and high."""
    width, height = size
    left = min(max(0, round(box.x1)), width - 1)
    top = min(max(0, round(box.y1)), height - 1)
    return (
        left,
        top,
        min(max(left + 1, round(box.x2)), width),
        min(max(top + 1, round(box.y2)), height),
    )


def _outline(pen: ImageDraw.ImageDraw, frame: Place, colour: Colour, line_px: int) -> None:
    """A coloured line along the inside of the frame, between a dark and a light one."""
    left, top, right, bottom = frame
    inset = 0
    for ink, thick in ((_DARK, 1), (colour, line_px), (_LIGHT, 1)):
        corners = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
        if corners[0] > corners[2] or corners[1] > corners[3]:
            return
        pen.rectangle(corners, outline=ink, width=thick)
        inset += thick


def _wrapped(text: str, font: Font, width_px: int) -> str:
    """The text in lines of at most `width_px`; a single word that is longer is cut."""
    lines: list[str] = []
    for word in text.split():
        while font.getlength(word) > width_px and len(word) > 1:
            word = word.removesuffix("…")[:-1] + "…"
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width_px:
            lines[-1] = joined
        else:
            lines.append(word)
    return "\n".join(lines)


def _label_size(pen: ImageDraw.ImageDraw, text: str, font: Font) -> tuple[int, int]:
    x1, y1, x2, y2 = pen.multiline_textbbox((0, 0), text, font=font, spacing=_SPACING_PX)
    return round(x2 - x1) + 2 * _MARGIN_PX, round(y2 - y1) + 2 * _MARGIN_PX


def _label_place(
    size: tuple[int, int],
    picture: tuple[int, int],
    frame: Place,
    taken: Sequence[Place],
    others: Sequence[Place],
) -> Place:
    """Where a label is nearest to its frame and covers least; clear of labels above all."""
    wide, high = size
    left, top, right, bottom = frame
    corners = [
        (x, y)
        for y in (top - high, bottom, bottom - high, top)
        for x in (left, right - wide, (left + right - wide) // 2)
    ]
    corners += [(x, y) for x in (left - wide, right) for y in (top, bottom - high)]
    steps = range(0, picture[1], max(1, high // 2))
    corners += [(x, y) for y in steps for x in range(0, picture[0], max(1, wide // 4))]
    places = dict.fromkeys(_inside(x, y, wide, high, picture) for x, y in corners)

    def cost(place: Place) -> float:
        labels = sum(_shared(place, one) for one in taken)
        boxes = sum(_shared(place, one) for one in others) + _shared(place, frame) / 2
        return (20 * labels + 2 * boxes) / (wide * high) + 2 * _gap(place, frame) / max(picture)

    return min(places, key=cost)


def _inside(x: int, y: int, wide: int, high: int, picture: tuple[int, int]) -> Place:
    left = max(0, min(x, picture[0] - wide))
    top = max(0, min(y, picture[1] - high))
    return left, top, left + wide, top + high


def _shared(one: Place, other: Place) -> int:
    """Pixels that two places share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, wide) * max(0, high)


def _encloses(outer: Place, inner: Place) -> bool:
    """Whether a box is all around another, whose label then cannot but lie in it."""
    return all(a <= b for a, b in zip(outer[:2], inner[:2], strict=True)) and all(
        a >= b for a, b in zip(outer[2:], inner[2:], strict=True)
    )


def _gap(one: Place, other: Place) -> int:
    """Pixels between two places, across and down together; 0 where they touch."""
    across = max(one[0], other[0]) - min(one[2], other[2])
    down = max(one[1], other[1]) - min(one[3], other[3])
    return max(0, across) + max(0, down)


def _label(pen: ImageDraw.ImageDraw, place: Place, text: str, font: Font, colour: Colour) -> None:
    left, top, right, bottom = place
    pen.rectangle((left, top, right - 1, bottom - 1), fill=colour, outline=_DARK)
    x1, y1, *_ = pen.multiline_textbbox((0, 0), text, font=font, spacing=_SPACING_PX)
    pen.multiline_text(
        (left + _MARGIN_PX - x1, top + _MARGIN_PX - y1),
        text,
        fill=_ink(colour),
        font=font,
        spacing=_SPACING_PX,
    )
