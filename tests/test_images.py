from __future__ import annotations

import os
import random
import struct
import threading
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image

from groundling.errors import ImageError
from groundling.images import load_image


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    base = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (base, base.rotate(180), base)).convert(mode)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path | str, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.gif"])
def test_reads_every_format_as_rgb_of_the_stored_size(tmp_path: Path, name: str) -> None:
    loaded = load_image(save(tmp_path / name, picture()))
    assert (loaded.mode, loaded.size) == ("RGB", (40, 24))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    assert load_image(save(tmp_path / f"a.{suffix}", picture(mode))).mode == "RGB"


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture().save(path, format="PNG")
    assert load_image(str(path)).tobytes() == picture().tobytes()


def test_sixteen_bit_grey_keeps_its_upper_bits(tmp_path: Path) -> None:
    image = Image.new("I;16", (2, 2), 0x8000)
    assert load_image(save(tmp_path / "a.png", image)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_they_hide(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    loaded = load_image(save(tmp_path / "a.png", image, **options))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright_or_not(
    tmp_path: Path, orientation: int
) -> None:
    upright = picture()
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    stored = upright.transpose(turns[inverse]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", stored, exif=exif)
    assert load_image(path).tobytes() == upright.tobytes()
    assert load_image(path, orient=False).tobytes() == stored.tobytes()


def test_unreadable_exif_turns_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert load_image(path).size == (40, 24)


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that declares its size and holds no pixels: decoding it would fail."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10000, 10000), (60000, 60000)])
def test_the_pixel_cap_holds_before_decoding(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(header_only_png(width, height))
    message = refused(path)
    assert "64000000" in message
    assert "truncated" not in message


def test_the_cap_is_inclusive_and_adjustable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", picture())
    assert load_image(path, max_pixels=960).size == (40, 24)
    assert "40 × 24 = 960 pixels, at most 959" in refused(path, max_pixels=959)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.gif"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    path = save(tmp_path / name, noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert name in refused(path)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    assert "animated" in refused(path)


def test_mpo_is_its_primary_picture(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    path = tmp_path / "a.jpg"
    first.save(path, format="MPO", save_all=True, append_images=[second])
    red, _, blue = load_image(path).getpixel((8, 8))  # type: ignore[misc]
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF", b"\xff\xd8\xff", b"BM"])
def test_what_is_not_a_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert "a.jpg" in refused(path)


def test_a_format_outside_the_list_is_refused(tmp_path: Path) -> None:
    assert "format" in refused(save(tmp_path / "a.tiff", picture()))


def test_missing_folder_pipe_and_odd_paths_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.jpg")
    assert "not a regular file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop")
    refused(str(tmp_path / "nul\0.jpg"))
    refused(str(tmp_path / "line\nbreak.jpg"))
    refused(str(tmp_path / ("long" * 200)))


def test_a_root_confines_after_links_and_dots(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    outside = save(tmp_path / "secret.png", picture())
    inside = save(root / "a.png", picture())
    (root / "link.png").symlink_to(outside)
    (root / "fine.png").symlink_to(inside)
    sibling = tmp_path / "images-too"
    sibling.mkdir()
    save(sibling / "a.png", picture())

    assert load_image(inside, root=root).size == (40, 24)
    assert load_image(root / "fine.png", root=root).size == (40, 24)
    for path in (outside, root / ".." / "secret.png", root / "link.png", sibling / "a.png"):
        assert "outside" in refused(path, root=root)


def test_loading_in_threads_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", picture())
    before = list(warnings.filters)
    threads = [threading.Thread(target=load_image, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_the_result_outlives_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", picture())
    loaded = load_image(path)
    path.unlink()
    assert loaded.resize((4, 4)).size == (4, 4)
