"""The one way a picture enters Groundling: bounded, confined to its folder, always RGB.

What counts as a picture, and how it is read:

- JPEG, PNG, WebP, BMP and GIF, by content and not by name. No other decoder is ever tried.
- The pixel count is read from the header and refused above the cap before anything is decoded.
- An animation (GIF, WebP or PNG of several frames) is refused: a box belongs to one frame, and
  nobody said which. An MPO file (a JPEG that carries a second view) is its primary picture, which
  is what viewers show.
- Transparent pixels are laid over white; their hidden colours are never seen. 16-bit grey keeps
  its upper 8 bits.
- The EXIF orientation is applied, as browsers and current annotation tools do. Boxes drawn by a
  tool that ignores it are in the frame of the stored pixels; `StoredFrame.upright` turns them.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from groundling.errors import ImageError
from groundling.records import Box, Size

MAX_PIXELS = 64_000_000
"""Default cap on width × height, in pixels: 192 MB once decoded to RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""The decoders in use, by Pillow's names."""

OpenImage = Callable[[str], Image.Image]
"""How a path becomes an RGB picture; raises ImageError."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders are known to raise on bytes that are not what they claim to be."""

_quiet = threading.Lock()
"""`warnings.catch_warnings` is not thread-safe; header reads take turns, decoding does not."""


def load_image(
    path: str | Path,
    *,
    root: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    orient: bool = True,
) -> Image.Image:
    """Read the picture at `path` as RGB, size in pixels.

    `root` confines it: after `..` and symbolic links are resolved, the file must lie in `root`.
    It does not change where a relative path starts. `max_pixels` is honoured up to Pillow's own
    hard limit (178,956,970). Raises ImageError for whatever cannot be read safely and whole.
    """
    shown = repr(str(path))[1:-1]
    real = _resolve(path, root, shown)
    try:
        with real.open("rb") as stream:
            picture = _open(stream, shown, max_pixels)
            picture.load()
            turn = _TRANSPOSES.get(_orientation_of(picture)) if orient else None
            rgb = _rgb(picture)
    except _DECODER_FAULTS as fault:
        raise ImageError(
            f"{shown}: the picture is damaged or truncated ({_reason(fault)}); "
            "fetch or export it again"
        ) from fault
    return rgb if turn is None else rgb.transpose(turn)


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """An image file's stored pixels: their size, and the EXIF orientation (1 to 8) they ask for."""

    stored_wh_px: Size
    orientation: int = 1

    @property
    def upright_wh_px(self) -> Size:
        """The size of the image as `load_image` returns it."""
        width, height = self.stored_wh_px
        return (height, width) if self.orientation >= 5 else (width, height)

    def upright(self, box: Box) -> Box:
        """A box on the stored pixels, in the frame of the upright image.

        Coordinates are edges, 0 to the full width and height.
        """
        x1, y1, x2, y2 = box.xyxy
        if self.orientation >= 5:
            x1, y1, x2, y2 = y1, x1, y2, x2
        width, height = self.upright_wh_px
        if self.orientation in (2, 3, 6, 7):
            x1, x2 = width - x2, width - x1
        if self.orientation in (3, 4, 7, 8):
            y1, y2 = height - y2, height - y1
        return Box(x1, y1, x2, y2)


def stored_frame(path: str | Path, *, root: Path | None = None) -> StoredFrame:
    """The stored frame of an image, from its header; `root` as in `load_image`.

    Raises ImageError for what is no image, is animated or is too large.
    """
    shown = repr(str(path))[1:-1]
    try:
        with _resolve(path, root, shown).open("rb") as stream:
            picture = _open(stream, shown, MAX_PIXELS)
            return StoredFrame(picture.size, _orientation_of(picture))
    except _DECODER_FAULTS as fault:
        raise ImageError(
            f"{shown}: the picture is damaged or truncated ({_reason(fault)}); "
            "fetch or export it again"
        ) from fault


def _resolve(path: str | Path, root: Path | None, shown: str) -> Path:
    """The real regular file behind `path`, inside `root` where one is given."""
    try:
        real = Path(path).resolve(strict=True)
        home = None if root is None else root.resolve(strict=True)
    except FileNotFoundError as fault:
        raise ImageError(f"{shown}: no such file; check the name and the image folder") from fault
    except (OSError, RuntimeError, ValueError) as fault:
        raise ImageError(
            f"{shown}: the path cannot be followed ({_reason(fault)}); wanted a picture file"
        ) from fault
    if home is not None and not real.is_relative_to(home):
        raise ImageError(
            f"{shown}: the file lies outside its image folder {root}; "
            "move it inside or name the right folder"
        )
    if not real.is_file():
        raise ImageError(
            f"{shown}: not a regular file; wanted a picture file ({', '.join(FORMATS)})"
        )
    return real


def _open(stream: BinaryIO, shown: str, max_pixels: int) -> Image.Image:
    """Read the header only and refuse what is empty, too large, animated or not a picture."""
    if stream.seek(0, 2) == 0:
        raise ImageError(f"{shown}: an empty file; fetch or export it again")
    stream.seek(0)
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(stream, formats=FORMATS)
            animated = picture.format != "MPO" and getattr(picture, "is_animated", False)
    except UnidentifiedImageError as fault:
        raise ImageError(
            f"{shown}: not a picture in a format read here ({', '.join(FORMATS)}); convert it"
        ) from fault
    except Image.DecompressionBombError as fault:
        raise ImageError(
            f"{shown}: far more than the {max_pixels} pixels allowed; shrink the picture"
        ) from fault
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            f"{shown}: {width} × {height} = {width * height} pixels, "
            f"at most {max_pixels} allowed; shrink the picture or raise the cap"
        )
    if animated:
        raise ImageError(
            f"{shown}: an animated {picture.format}; save the frame you mean as PNG or JPEG"
        )
    return picture


def _orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where EXIF says nothing readable."""
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = picture.getexif().get(_ORIENTATION_TAG)
    except _DECODER_FAULTS:
        return 1  # the pixels decoded; metadata that cannot be read turns nothing
    return value if isinstance(value, int) and value in _TRANSPOSES else 1


def _rgb(picture: Image.Image) -> Image.Image:
    """The decoded picture as RGB, transparency over white."""
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda level: level * (1 / 256)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


def _reason(fault: BaseException) -> str:
    """A fault in one line: its own words, or its kind where it has none."""
    words = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
    return " ".join(words.split()) or type(fault).__name__


PictureKey = tuple[str, int, int]
"""A picture as a cache knows it: path, size in bytes, time of change."""


def picture_key(path: str) -> PictureKey:
    """The key of a picture file as it is now; a path that names no file stands for itself."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return (path, -1, -1)
    return (path, status.st_size, status.st_mtime_ns)
