from __future__ import annotations

import os

import pytest
import tiny
import torch

from groundling.errors import ImageError
from groundling.models.features import FeatureStore
from groundling.models.qwen2vl import PictureRules, Qwen2VL
from groundling.records import Failure

SQUARE_BYTES = 4 * 32 * 4  # image tokens × hidden × float32


@pytest.fixture
def opened() -> list[str]:
    return []


@pytest.fixture
def store_of(opened, processor):
    net = Qwen2VL(tiny.model(), PictureRules(processor.image_processor))

    def open_image(path):
        opened.append(path)
        if path.startswith("bad"):
            raise ImageError(f"{path}: truncated")
        return net.rules.fit(tiny.picture("square-0" if os.sep in path else path))

    return lambda capacity=1 << 20: FeatureStore(net.look, open_image, capacity)


def test_a_picture_is_opened_once(store_of, opened):
    store = store_of()
    first = store.get(["square-1", "wide-2", "square-1"])
    second = store.get(["wide-2", "square-1"])
    assert opened == ["square-1", "wide-2"]
    assert torch.equal(first["wide-2"].features, second["wide-2"].features)


def test_a_failure_keeps_its_place_and_is_tried_again(store_of, opened):
    store = store_of()
    for _ in range(2):
        got = store.get(["square-1", "bad"])
        assert got["bad"] == Failure("bad: truncated", "image")
        assert got["square-1"].features.shape == (4, 32)
    assert opened == ["square-1", "bad", "bad"]


def test_the_least_recently_used_leave_first(store_of, opened):
    store = store_of(2 * SQUARE_BYTES)
    store.get(["square-1", "square-2"])
    store.get(["square-1"])
    store.get(["square-3"])
    opened.clear()
    store.get(["square-1", "square-3"])
    assert opened == []
    store.get(["square-2"])
    assert opened == ["square-2"]


def test_capacity_zero_keeps_nothing_but_answers(store_of, opened):
    store = store_of(0)
    paths = [f"square-{seed}" for seed in range(70)]
    assert len(store.get(paths)) == 70
    assert store.get(["square-0"])["square-0"].grid == (2, 2)
    assert opened.count("square-0") == 2


def test_a_file_that_changed_is_another_picture(store_of, opened, tmp_path):
    file = tmp_path / "picture"
    store = store_of()
    file.write_bytes(b"one")
    store.get([str(file)])
    store.get([str(file)])
    assert len(opened) == 1
    file.write_bytes(b"another")
    store.get([str(file)])
    assert len(opened) == 2
