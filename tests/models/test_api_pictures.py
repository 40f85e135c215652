from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from groundling.errors import ImageError
from groundling.models.api import pictures
from groundling.models.api.pictures import GREEN, Encoded, PictureEncoder, outlined, sent_size
from groundling.records import Box


def photo(folder: Path, size: tuple[int, int] = (120, 80)) -> str:
    path = folder / f"{size[0]}.png"
    Image.linear_gradient("L").convert("RGB").resize(size).save(path)
    return str(path)


def decoded(encoded: Encoded) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded.uri.partition(",")[2])))


def green(picture: Image.Image) -> np.ndarray:
    """Where a picture is pure green, (height, width)."""
    return (np.asarray(picture.convert("RGB")) == GREEN).all(axis=2)


@pytest.mark.parametrize(("form", "kind"), [("jpeg", "JPEG"), ("png", "PNG")])
def test_the_same_bytes_every_time(form: str, kind: str, tmp_path: Path) -> None:
    path = photo(tmp_path)
    encoders = [PictureEncoder(4000, 1, form) for _ in "12"]  # type: ignore[arg-type]
    first, second = (encoder.encode(path, Box(10, 10, 50, 50)) for encoder in encoders)
    assert first == second
    assert first.uri.startswith(f"data:image/{form};base64,")
    assert decoded(first).format == kind
    assert decoded(first).size == first.frame.resized_wh_px == (77, 51)
    assert first.frame.original_wh_px == (120, 80)
    assert first.tokens == 6 * 4


def test_png_is_the_picture_itself(tmp_path: Path) -> None:
    path = photo(tmp_path)
    sent = decoded(PictureEncoder(None, 1, "png").encode(path))
    assert np.array_equal(np.asarray(sent), np.asarray(Image.open(path)))


@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    most=st.none() | st.integers(784, 2_000_000),
    multiple=st.sampled_from([1, 14, 28]),
)
def test_sent_sizes(size: tuple[int, int], most: int | None, multiple: int) -> None:
    try:
        wide, high = sent_size(size, most, multiple)
    except ImageError:
        assert most is not None
        assert min(size) * (most / (size[0] * size[1])) ** 0.5 < multiple, "a sliver"
        return
    assert wide % multiple == high % multiple == 0
    assert min(wide, high) >= multiple
    if multiple == 1 and (most is None or size[0] * size[1] <= most):
        assert (wide, high) == size
    if most is not None:
        assert wide * high <= most


def test_rounding_up_does_not_pass_the_limit() -> None:
    """Else a server that keeps to the same limit would resize once more, and so move its boxes."""
    assert 1001 * 1001 < 1_003_520 < 1008 * 1008
    assert sent_size((1001, 1001), 1_003_520, 28) == (980, 980)
    assert sent_size((1001, 980), 1_003_520, 28) == (1008, 980)


def test_the_gold_box_is_outlined_in_green_and_hides_nothing_of_what_it_holds() -> None:
    picture = Image.new("RGB", (200, 100), (90, 60, 30))
    drawn = green(outlined(picture, Box(50, 20, 120, 70)))
    assert drawn[18:72, 48:50].all()
    assert drawn[18:20, 48:122].all()
    assert not drawn[20:70, 50:120].any()
    assert not green(picture).any()
    assert drawn.sum() == (54 * 74) - (50 * 70)


@pytest.mark.parametrize("box", [Box(0, 0, 40, 30), Box(1, 1, 41, 31), Box(20, 15, 20.4, 15.4)])
def test_an_outline_at_the_edge_stays_in_the_picture(box: Box) -> None:
    drawn = green(outlined(Image.new("RGB", (40, 30)), box))
    assert drawn.any()


def test_the_outline_is_drawn_where_the_shrunken_object_lies(tmp_path: Path) -> None:
    sent = PictureEncoder(2400, 1, "png").encode(photo(tmp_path), Box(60, 40, 120, 80))
    assert sent.frame.resized_wh_px == (60, 40)
    rows, columns = np.nonzero(green(decoded(sent)))
    assert (rows.min(), columns.min()) == (18, 28)


def test_a_picture_that_changes_is_read_again(tmp_path: Path) -> None:
    encoder, path = PictureEncoder(None), photo(tmp_path)
    first = encoder.encode(path)
    assert encoder.encode(path) is first
    Image.new("RGB", (50, 50)).save(path)
    assert encoder.encode(path).frame.original_wh_px == (50, 50)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [photo(tmp_path, (100 + n, 80)) for n in range(4)]
    encoder = PictureEncoder(None)
    size = len(encoder.encode(paths[0]).uri)
    monkeypatch.setattr(pictures, "KEPT_BYTES", int(2.5 * size))
    first = [encoder.encode(path) for path in paths]
    assert encoder.encode(paths[3]) is first[3]
    assert encoder.encode(paths[0]) is not first[0]
    assert encoder.encode(paths[0]) == first[0]


@pytest.mark.parametrize("box", [Box(120, 0, 150, 80), Box(-9, -9, 0, 0), Box(5, 5, 5, 20)])
def test_a_box_outside_its_picture_is_not_drawn(box: Box, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"120\.png: box .* not in its picture of 120 × 80 px"):
        PictureEncoder(None).encode(photo(tmp_path), box)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        PictureEncoder(None).encode(str(tmp_path / "none.png"))
