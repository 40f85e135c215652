"""Drawing K answers to each prompt of a batch.

Each prompt is run once. Its K answers then grow side by side in one sequence,
`[prompt][token 1 of answers 1…K][token 2 of answers 1…K]…`, where a mask lets an answer see the
prompt and its own tokens only: one copy of the prompt's keys and values serves all K. What is
drawn follows the model's own distribution at the temperature asked for; no setting that a
checkpoint ships takes part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundling.models.packing import (
    Prompt,
    Row,
    SharedPrefix,
    embed_rows,
    lay_out,
    record_prefix,
    shared_length,
    visibility,
)
from groundling.models.qwen2vl import Qwen2VL

_BLOCK = 16
"""Steps' worth of room that a cache grows by."""

_THIN = 0.7
"""A batch drops its finished prompts once fewer than this share of its rows still grow."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn answer: its tokens without the end token, and log π of all of them and the end.

    `logprob` is at temperature 1, in nats; None where the answer was cut at the longest length
    allowed, so that no end token was drawn.
    """

    tokens: tuple[int, ...]
    logprob: float | None


class GrowingCache:
    """Keys and values of B rows, kept in one buffer a layer that grows by blocks, not by steps."""

    def __init__(self, prefix: SharedPrefix, room: int) -> None:
        self._prefix = prefix
        self._room = room
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._filled: list[int] = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, heads, T, head size) to a layer and return all that it holds."""
        if layer == len(self._buffers):
            self._start(key, value)
        start = self._filled[layer]
        end = start + key.shape[2]
        if end > self._buffers[layer][0].shape[2]:
            first, second = (_longer(part, end + self._room) for part in self._buffers[layer])
            self._buffers[layer] = (first, second)
        keys, values = self._buffers[layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        self._filled[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the given rows, in that order."""
        self._buffers = [(keys[rows], values[rows]) for keys, values in self._buffers]

    def _start(self, key: torch.Tensor, value: torch.Tensor) -> None:
        rows, heads, width, size = key.shape
        shared = self._prefix.length
        layer = len(self._buffers)
        keys, values = (
            part.new_empty(rows, heads, shared + width + self._room, size) for part in (key, value)
        )
        if shared:
            keys[:, :, :shared], values[:, :, :shared] = self._prefix.layers[layer]
        self._buffers.append((keys, values))
        self._filled.append(shared)


class Noise:
    """Uniform numbers in [0, 1) that depend on a seed, a key and nothing else.

    The draws of answer k at step t of a query stay the same whatever else is in the batch.
    """

    def __init__(self, seed: int, steps: int) -> None:
        self._seed = seed
        self._steps = steps

    def of(self, key: str, k: int) -> NDArray[np.float64]:
        """The numbers for K answers to the query named `key`: (k, steps)."""
        digest = hashlib.blake2b(f"{self._seed}\n{key}".encode(), digest_size=16).digest()
        words = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
        return np.random.Generator(np.random.Philox(key=words)).random((k, self._steps))


class _Answers:
    """What the rows of a batch have drawn so far; rows that are all done leave the computation."""

    def __init__(self, rows: int, k: int, steps: int, end: int, device: torch.device) -> None:
        self.tokens = torch.full((rows, k, steps), end, device=device)
        self.logprobs = torch.zeros(rows, k, dtype=torch.float64, device=device)
        self.ended = torch.zeros(rows, k, dtype=torch.bool, device=device)
        self.growing = torch.arange(rows, device=device)
        self._end = end

    def add(self, step: int, tokens: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """Take tokens (b, K) of the growing rows; return which of those rows still grow, (b,)."""
        rows = self.growing
        open_ = ~self.ended[rows]
        self.tokens[rows, :, step] = torch.where(open_, tokens, self._end)
        self.logprobs[rows] += torch.where(open_, logprobs.double(), 0.0)
        self.ended[rows] |= tokens == self._end
        return ~self.ended[rows].all(dim=1)

    def result(self) -> list[list[Drawn]]:
        """The answers, in the order of the prompts."""
        tokens, logprobs, ended = (
            part.tolist() for part in (self.tokens, self.logprobs, self.ended)
        )
        return [
            [
                Drawn(_until(row_tokens[k], self._end), row_logprobs[k] if row_ended[k] else None)
                for k in range(len(row_tokens))
            ]
            for row_tokens, row_logprobs, row_ended in zip(tokens, logprobs, ended, strict=True)
        ]


def draw(
    model: Qwen2VL,
    prompts: Sequence[Prompt],
    noise: NDArray[np.float64] | None,
    temperature: float,
    steps: int,
    end: int,
) -> list[list[Drawn]]:
    """Draw K answers of at most `steps` tokens to each of B prompts, by `noise` (B, K, steps).

    `noise` None takes the likeliest token each time (one answer a prompt). `end` is the id of the
    token that ends an answer; it counts as one of the `steps`.
    """
    k = 1 if noise is None else noise.shape[1]
    uniforms = None if noise is None else torch.from_numpy(noise).to(model.device)
    answers = _Answers(len(prompts), k, steps, end, model.device)
    shared = shared_length(prompts)
    layout = lay_out([Row(prompt, ()) for prompt in prompts], shared)
    cache = GrowingCache(record_prefix(model, prompts, shared), _BLOCK * k)
    hidden = model.run(
        embed_rows(model, layout.ids.to(model.device), prompts, shared),
        layout.positions.to(model.device),
        visibility(layout, shared, apart=False).to(model.device),
        cache,
    )
    last = hidden[torch.arange(len(prompts)), layout.ends.to(model.device)]
    logits = model.logits(last)[:, None].expand(-1, k, -1)
    held = shared + layout.ids.shape[1]
    sees = _prompt_columns(layout.ends, shared, held).to(model.device)
    following = layout.positions.amax(dim=(0, 2)).to(model.device) + 1
    for step in range(steps):
        drawn = None if uniforms is None else uniforms[answers.growing, :, step]
        tokens, logprobs = _choose(logits.float(), drawn, temperature)
        growing = answers.add(step, tokens, logprobs)
        alive = int(growing.sum())
        if alive == 0 or step + 1 == steps:
            break
        if alive < _THIN * len(growing):
            rows = growing.nonzero()[:, 0]
            cache.keep(rows)
            tokens, sees, following = tokens[rows], sees[rows], following[rows]
            answers.growing = answers.growing[rows]
        positions = (following + step)[None, :, None].expand(3, -1, k)
        mask = _step_mask(sees, step + 1, k)
        logits = model.logits(model.run(model.embed(tokens), positions, mask, cache))
    return answers.result()


def _choose(
    logits: torch.Tensor, uniforms: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each answer and its log-probability at temperature 1: twice (b, K).

    Draws invert the distribution function of softmax(logits / temperature) at `uniforms` (b, K).
    """
    if uniforms is None:
        tokens = logits.argmax(dim=-1)
    else:
        peak = logits.amax(dim=-1, keepdim=True)
        mass = ((logits - peak).double() / temperature).exp().cumsum(dim=-1)
        goal = uniforms[..., None] * mass[..., -1:]
        tokens = torch.searchsorted(mass, goal, right=True)[..., 0].clamp(max=mass.shape[-1] - 1)
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    return tokens, chosen - logits.logsumexp(dim=-1)


def _prompt_columns(ends: torch.Tensor, shared: int, held: int) -> torch.Tensor:
    """Which of the `held` cached columns are a row's prompt and not padding: (B, held)."""
    return torch.arange(held)[None, :] <= shared + ends[:, None]


def _step_mask(sees: torch.Tensor, step: int, k: int) -> torch.Tensor | None:
    """The mask (b, 1, K, held + step · K) of K new tokens; None where each may see everything."""
    if k == 1 and bool(sees.all()):
        return None
    own = torch.eye(k, dtype=torch.bool, device=sees.device).repeat(1, step)
    rows = len(sees)
    prompt = sees[:, None, :].expand(rows, k, -1)
    return torch.cat([prompt, own.expand(rows, -1, -1)], dim=2)[:, None]


def _longer(part: torch.Tensor, length: int) -> torch.Tensor:
    longer = part.new_empty(*part.shape[:2], length, part.shape[3])
    longer[:, :, : part.shape[2]] = part
    return longer


def _until(tokens: Sequence[int], end: int) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(end)] if end in tokens else tokens)
