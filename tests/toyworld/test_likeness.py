from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from groundling.records import Box
from groundling.toyworld.likeness import HEAD, find_alike

RNG = np.random.default_rng(5)


def noise(width: int, height: int) -> Image.Image:
    """Blots of random colours."""
    small = RNG.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


PATCH = noise(48, 64)


def picture_with(patch: Image.Image, x: int, y: int) -> Image.Image:
    found = noise(224, 200)
    found.paste(patch, (x, y))
    return found


EXAMPLE = (picture_with(PATCH, 20, 30), Box(20, 30, 68, 94))


@pytest.mark.parametrize("size", [1.0, 1.3, 0.8])
def test_a_patch_is_found_elsewhere_and_at_other_sizes(size: float) -> None:
    wide, high = round(48 * size), round(64 * size)
    found = find_alike(picture_with(PATCH.resize((wide, high)), 120, 70), [EXAMPLE])
    assert found is not None
    assert found.iou(Box(120, 70, 120 + wide, 70 + high)) > 0.75


def test_of_several_examples_the_one_that_fits_best_counts() -> None:
    other = (noise(224, 200), Box(10, 10, 60, 60))
    for shown in ([other, EXAMPLE], [EXAMPLE, other]):
        found = find_alike(picture_with(PATCH, 8, 100), shown)
        assert found is not None
        assert found.iou(Box(8, 100, 56, 164)) > 0.75


def test_nothing_alike_is_nowhere() -> None:
    assert find_alike(noise(224, 200), [EXAMPLE]) is None
    assert find_alike(noise(224, 200), []) is None


def test_a_head_is_enough_to_find_a_person() -> None:
    head = round(64 * HEAD)
    changed = noise(48, 64)
    changed.paste(PATCH.crop((0, 0, 48, head)), (0, 0))
    picture = picture_with(changed, 100, 60)
    assert find_alike(picture, [EXAMPLE]) is None
    found = find_alike(picture, [EXAMPLE], head_only=True)
    assert found is not None
    assert found.iou(Box(100, 60, 148, 124)) > 0.75
