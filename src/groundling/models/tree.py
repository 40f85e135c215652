"""The attention of answers that branch from their prompts, token by token.

A shared module, no backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from groundling.models.packing import KeyValue

_ROOM = 16
"""Steps that a buffer of keys and values has room for before it must grow."""


class TreeAttention:
    """Attention of the newest nodes of B trees over their prompt and their ancestors.

    A buffer a layer holds each row's own keys and values, (B, heads, columns, head size): the
    prompt's, then one block of columns a step. `shared` comes before them, the same for all rows.
    """

    def __init__(self, shared: Sequence[KeyValue], own: Sequence[KeyValue], k: int) -> None:
        self._shared = [
            (key[0].permute(1, 2, 0), value[0].transpose(0, 1)) for key, value in shared
        ]
        self._room = _ROOM * k
        self._filled = own[0][0].shape[1]
        self._buffers = [
            (self._longer(key.transpose(1, 2)), self._longer(value.transpose(1, 2)))
            for key, value in own
        ]

    def grow(
        self, rows: torch.Tensor, slots: torch.Tensor, width: int, mask: torch.Tensor | None
    ) -> None:
        """Make room for a step: N nodes, the n-th in slot slots[n] < width of row rows[n].

        `mask` (B, width, columns) is true where a slot may look; None lets all see everything.
        """
        self._rows, self._slots, self._width, self._mask = rows, slots, width, mask
        self._start, self._filled = self._filled, self._filled + width
        if self._filled > self._buffers[0][0].shape[2]:
            self._buffers = [
                (self._longer(keys), self._longer(values)) for keys, values in self._buffers
            ]
        for _, values in self._buffers:
            values[:, :, self._start : self._filled] = 0  # what a mask hides must be finite

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the given rows, in that order."""
        self._buffers = [(keys[rows], values[rows]) for keys, values in self._buffers]

    def _longer(self, part: torch.Tensor) -> torch.Tensor:
        """The same keys or values (B, heads, columns, head size) with room for more columns."""
        longer = part.new_empty(*part.shape[:2], self._filled + self._room, part.shape[3])
        longer[:, :, : part.shape[2]] = part
        return longer

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """The `qwen2vl.Attention` of one step: all arguments (1, N, heads, head size)."""
        keys, values = self._buffers[layer]
        keys[self._rows, :, self._start + self._slots] = key[0]
        values[self._rows, :, self._start + self._slots] = value[0]
        count, heads, _, size = keys.shape
        asked = query.new_zeros(count, self._width, *query.shape[2:])
        asked[self._rows, self._slots] = query[0]
        asked = asked.view(count, self._width, heads, -1, size).transpose(1, 2) * size**-0.5
        weights = asked.flatten(2, 3) @ keys[:, :, : self._filled].transpose(2, 3)
        if self._mask is not None:
            per_slot = weights.view(count, heads, self._width, -1, self._filled)
            per_slot.masked_fill_(~self._mask[:, None, :, None], -torch.inf)
        mixed = self._mix(layer, asked.flatten(2, 3), weights, values[:, :, : self._filled])
        mixed = mixed.view(count, heads, self._width, -1, size).transpose(1, 2).flatten(2, 3)
        return mixed[self._rows, self._slots][None]

    def _mix(
        self, layer: int, asked: torch.Tensor, weights: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Softmax over the shared columns and the row's own, and the values so weighted."""
        if not self._shared:
            return weights.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
        keys, shared_values = self._shared[layer]
        count, heads, queries, _ = asked.shape
        together = asked.transpose(0, 1).flatten(1, 2)
        first = (together @ keys).view(heads, count, queries, -1).transpose(0, 1)
        shares = torch.cat([first, weights], dim=-1).softmax(-1, dtype=torch.float32)
        first, own = shares.to(values.dtype).tensor_split((keys.shape[-1],), dim=-1)
        mixed = first.transpose(0, 1).flatten(1, 2) @ shared_values
        return mixed.view(heads, count, queries, -1).transpose(0, 1) + own @ values
