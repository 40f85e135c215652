"""Where tokens and patches are to one another: the indexes of OFA's relative-position tables.

OFA adds to every attention score a product of absolute positions, shared by the layers of a
stack, and an entry of a table of relative positions, one table a layer (Wang et al. 2022, §3.1;
the tables follow CoAtNet and T5). An index depends on nothing but the configuration.
"""

from __future__ import annotations

import math

import torch
from torch import nn

TOKEN_POSITIONS = 1024
"""The longest text for which relative positions are defined, whatever the configuration."""


def token_buckets(size: int) -> torch.Tensor:
    """(1024, 1024) index into a table of 2 × size − 1 rows, by query and key position.

    Offsets up to size / 2 have a row each; farther ones share rows that grow logarithmically. The
    arithmetic is float32 in this very order: published tables were learned with its rounding.
    """
    position = torch.arange(TOKEN_POSITIONS, device="cpu")
    offset = position[:, None] - position[None, :]
    near = size // 2
    distance = offset.abs().clamp(min=near)
    share = torch.log(distance / near) / math.log((TOKEN_POSITIONS - 1) / near)
    far = torch.ceil(share * (near - 1)) + near
    bucket = torch.where(distance > near, far.int() * offset.sign(), offset)
    return (bucket + size - 1).int()


def image_table_rows(size: int) -> int:
    """Rows of the relative-position table of a grid of size × size patches."""
    return (2 * size - 1) ** 2 + 3


def image_buckets(size: int) -> torch.Tensor:
    """(size² + 1, size² + 1) index into a table of `image_table_rows(size)` rows.

    Position 0 is no patch and has the table's last three rows; patch (row, column) of the grid is
    position 1 + row × size + column.
    """
    cell = torch.arange(size * size, device="cpu")
    row, column = cell // size, cell % size
    rows_apart = row[:, None] - row[None, :] + size - 1
    columns_apart = column[:, None] - column[None, :] + size - 1
    last = image_table_rows(size) - 1
    index = torch.empty(size * size + 1, size * size + 1, dtype=torch.int, device="cpu")
    index[1:, 1:] = rows_apart * (2 * size - 1) + columns_apart
    index[0, :] = last - 2
    index[:, 0] = last - 1
    index[0, 0] = last
    return index


def patch_positions(height: int, width: int, size: int, device: torch.device) -> torch.Tensor:
    """(height × width,) positions of a grid of patches, row by row, within size × size.

    Raises ValueError for a grid that does not fit.
    """
    if max(height, width) > size:
        raise ValueError(f"a picture of {height} × {width} patches; at most {size} a side")
    row = torch.arange(height, device=device)[:, None] * size
    return (row + torch.arange(width, device=device) + 1).flatten()


def look_up(index: torch.Tensor, table: nn.Module) -> torch.Tensor:
    """Index (T, S), table of (rows, heads) → bias (heads, T, S)."""
    entries: torch.Tensor = table(index)
    return entries.permute(2, 0, 1)


def masked(bias: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Bias with the lowest number of its type wherever `keep`, broadcast with it, is false."""
    return torch.where(keep, bias, torch.finfo(bias.dtype).min)
