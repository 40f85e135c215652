from __future__ import annotations

import math

import pytest
import torch

from groundling.models.ofa.positions import (
    image_buckets,
    image_table_rows,
    patch_positions,
    token_buckets,
)


@pytest.mark.parametrize("size", [16, 256])
def test_token_buckets(size):
    index = token_buckets(size)
    near = size // 2
    assert index.shape == (1024, 1024)
    assert (int(index.min()), int(index.max())) == (0, 2 * size - 2)
    for offset in (0, 1, -1, near, -near):
        query = 500 + offset
        assert index[query, 500] == offset + size - 1
    for offset in (near + 1, near + 7, 400, 1023):
        share = math.log(offset / near) / math.log(1023 / near)
        bucket = math.ceil(round(share * (near - 1), 4)) + near
        assert index[offset, 0] == bucket + size - 1
        assert index[0, offset] == -bucket + size - 1
    assert torch.equal(index.diagonal(1), index.diagonal(1)[:1].expand(1023))


def test_image_buckets():
    size = 5
    index = image_buckets(size)
    rows = image_table_rows(size)
    assert index.shape == (26, 26)
    for query in range(25):
        for key in range(25):
            down, across = query // size - key // size, query % size - key % size
            wanted = (down + size - 1) * (2 * size - 1) + across + size - 1
            assert index[query + 1, key + 1] == wanted
    assert int(index[1:, 1:].max()) == rows - 4
    assert set(index[0, 1:].tolist()) == {rows - 3}
    assert set(index[1:, 0].tolist()) == {rows - 2}
    assert index[0, 0] == rows - 1


def test_patch_positions():
    found = patch_positions(2, 3, 42, torch.device("cpu"))
    assert found.tolist() == [1, 2, 3, 43, 44, 45]
    with pytest.raises(ValueError, match="1 × 43 patches; at most 42"):
        patch_positions(1, 43, 42, torch.device("cpu"))
