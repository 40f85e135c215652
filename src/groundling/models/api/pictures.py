"""A picture file as a data URI: the same bytes every time, so that cached answers are found."""

from __future__ import annotations

import base64
import io
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

from groundling.errors import ImageError, InputError
from groundling.images import PictureKey, load_image, picture_key
from groundling.models.coordinates import Frame, Size, inside_picture
from groundling.records import Box

GREEN = (0, 255, 0)
"""The colour of the gold box on an expert's picture (ISR A.1: green)."""

KEPT_BYTES = 256 * 2**20
"""Most that is kept of encoded pictures."""

_PATCH_PX = 14


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it is sent, its sizes, and the most prompt tokens it is thought to cost."""

    uri: str
    frame: Frame
    tokens: int


class PictureEncoder:
    """Loads, shrinks, marks and encodes pictures; keeps the latest; safe for threads.

    A picture is thought to cost `tokens`, or one for every 14 × 14 pixels: more than Qwen2-VL
    (28 × 28 pixels a token) and GPT-4o take, less than GPT-4o-mini.
    """

    def __init__(
        self,
        max_pixels: int | None,
        multiple: int = 1,
        form: Literal["jpeg", "png"] = "jpeg",
        tokens: int | None = None,
    ) -> None:
        self._tokens = tokens
        self._max_pixels, self._multiple, self._form = max_pixels, multiple, form
        self._kept: OrderedDict[tuple[PictureKey, Box | None], Encoded] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def encode(self, path: str, marked: Box | None = None) -> Encoded:
        """The picture at `path`, with a green outline around `marked` (original pixels) if given.

        Raises ImageError for a picture that cannot be read and for one that `marked` lies outside.
        """
        key = (picture_key(path), marked)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        picture = load_image(path)
        if marked is not None:
            _check_inside(marked, picture.size, path)
        frame = Frame(picture.size, sent_size(picture.size, self._max_pixels, self._multiple))
        if frame.resized_wh_px != frame.original_wh_px:
            picture = picture.resize(frame.resized_wh_px, Image.Resampling.BICUBIC)
        if marked is not None:
            picture = outlined(picture, _scaled(marked, frame))
        encoded = Encoded(_data_uri(picture, self._form), frame, self._tokens or _tokens(frame))
        with self._lock:
            self._keep(key, encoded)
        return encoded

    def _keep(self, key: tuple[PictureKey, Box | None], encoded: Encoded) -> None:
        if key in self._kept:
            return
        self._kept[key] = encoded
        self._kept_bytes += len(encoded.uri)
        while self._kept_bytes > KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped.uri)


def _check_inside(box: Box, size: Size, path: str) -> None:
    try:
        inside_picture(box, size, path)
    except InputError as fault:
        raise ImageError(str(fault)) from fault


def sent_size(size: Size, max_pixels: int | None, multiple: int) -> Size:
    """The size a picture is sent in: at most `max_pixels`, its sides multiples of `multiple`.

    The shape is kept but for the rounding. Without both limits it is the size itself. Raises
    ImageError for an image so thin that its shorter side, one multiple, still leaves more.
    """
    width, height = size
    wide, high = (max(1, round(side / multiple)) * multiple for side in size)
    if max_pixels is None or wide * high <= max_pixels:
        return wide, high
    shrink = min(1.0, math.sqrt(max_pixels / (width * height)))
    wide, high = (max(1, math.floor(side * shrink / multiple)) * multiple for side in size)
    if wide * high > max_pixels:
        raise ImageError(
            f"image of {width} × {height} px: too long and thin for {max_pixels} pixels with sides "
            f"of at least {multiple}; crop it, or raise max_pixels to {wide * high}"
        )
    return wide, high


def outlined(picture: Image.Image, box: Box) -> Image.Image:
    """A copy with a green line around `box` (its own pixels), outside of it where there is room.

    The paper says only that the box is drawn in green; the line's width is ours: 1/200 of the
    shorter side, at least 2 pixels. It lies outside, so that it hides nothing of a small object.
    What reaches beyond the picture is drawn along its edge.
    """
    canvas = picture.copy()
    thick = max(2, round(min(canvas.size) / 200))
    left, top = math.floor(box.x1) - thick, math.floor(box.y1) - thick
    right, bottom = math.ceil(box.x2) + thick - 1, math.ceil(box.y2) + thick - 1
    width, height = canvas.size
    corners = (
        min(max(left, 0), width - 1),
        min(max(top, 0), height - 1),
        min(max(right, 0), width - 1),
        min(max(bottom, 0), height - 1),
    )
    ImageDraw.Draw(canvas).rectangle(corners, outline=GREEN, width=thick)
    return canvas


def _tokens(frame: Frame) -> int:
    wide, high = frame.resized_wh_px
    return math.ceil(wide / _PATCH_PX) * math.ceil(high / _PATCH_PX)


def _scaled(box: Box, frame: Frame) -> Box:
    across = frame.resized_wh_px[0] / frame.original_wh_px[0]
    down = frame.resized_wh_px[1] / frame.original_wh_px[1]
    return Box(box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)


def _data_uri(picture: Image.Image, form: Literal["jpeg", "png"]) -> str:
    stream = io.BytesIO()
    if form == "jpeg":
        picture.save(stream, "JPEG", quality=95, subsampling=0)
    else:
        picture.save(stream, "PNG")
    return f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode()}"
