"""Prompts and answers laid out as batches in which nothing is computed twice.

Two things are shared. All writer prompts begin with the same instruction: its keys and values are
computed once a batch. And the answers to one prompt (chosen and rejected of a DPO pair) follow it
in one sequence, `[prompt][answer 1][answer 2]`, under a mask that hides them from one another and
with positions that restart, so that the picture and the prompt are computed once a pair. Both
equal the plain computation of independent sequences, gradients included, because in a causal model
a token's states depend only on what it may look at and on its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundling.losses import token_logprobs
from groundling.models.qwen2vl import ImageTokens, Qwen2VL, prompt_positions

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the model: its token ids, and where its one picture's tokens stand."""

    ids: TokenIds
    image_start: int
    image: ImageTokens

    @property
    def positions(self) -> NDArray[np.int64]:
        """M-RoPE positions (3, length)."""
        return prompt_positions(len(self.ids), self.image_start, self.image.grid)


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and the answers to score; every answer ends with the end token."""

    prompt: Prompt
    answers: tuple[TokenIds, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows as arrays, the tokens they share left out.

    ids, segments: (B, T); segment 0 is the prompt, 1… its answers, −1 padding. positions:
    (3, B, T). ends: (B,) the column of each prompt's last token. sources, targets, owners: (N,)
    one entry per answer token: the flat place (row · T + column) whose state predicts it, its id,
    and its answer (row · answers + index).
    """

    ids: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor
    ends: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor


class SharedPrefix:
    """Keys and values of tokens that every row begins with: recorded once, served to all rows.

    Gradients flow back through it. It must not be combined with gradient checkpointing, which
    would run the layers again and record twice.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._recording = True

    @property
    def length(self) -> int:
        """Tokens held; 0 before the recording pass."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def seal(self) -> None:
        """End the recording; from now on every update is served and kept nowhere."""
        self._recording = False

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Record, or return the shared keys and values followed by the row's own."""
        if self._recording:
            self.layers.append((key, value))
            return key, value
        shared = (part.expand(len(key), -1, -1, -1) for part in self.layers[layer])
        first, second = shared
        return torch.cat([first, key], dim=2), torch.cat([second, value], dim=2)


def shared_length(prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts begin with, before any picture and short of any whole prompt."""
    first, last = (chosen.ids for chosen in (min(prompts, key=_ids), max(prompts, key=_ids)))
    limit = min(min(prompt.image_start, len(prompt.ids) - 1) for prompt in prompts)
    same = 0
    while same < limit and first[same] == last[same]:
        same += 1
    return same


def lay_out(rows: Sequence[Row], shared: int) -> Layout:
    """Arrange rows, each without its first `shared` tokens, padded on the right.

    An answer's end token is predicted but never read, so it is a target and takes no place.
    """
    answers = max(len(row.answers) for row in rows)
    spans = [
        len(row.prompt.ids) - shared + sum(len(answer) - 1 for answer in row.answers)
        for row in rows
    ]
    count, width = len(rows), max(spans)
    ids = np.zeros((count, width), dtype=np.int64)
    segments = np.full((count, width), -1, dtype=np.int64)
    positions = np.zeros((3, count, width), dtype=np.int64)
    ends = np.empty(count, dtype=np.int64)
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for place, row in enumerate(rows):
        at = len(row.prompt.ids) - shared
        ids[place, :at] = row.prompt.ids[shared:]
        segments[place, :at] = 0
        where = row.prompt.positions
        positions[:, place, :at] = where[:, shared:]
        following = int(where.max()) + 1
        end = ends[place] = at - 1
        for index, answer in enumerate(row.answers):
            read = len(answer) - 1
            ids[place, at : at + read] = answer[:-1]
            segments[place, at : at + read] = index + 1
            positions[:, place, at : at + read] = np.arange(following, following + read)
            base = place * width
            sources += [base + int(end), *range(base + at, base + at + read)]
            targets += answer
            owners += [place * answers + index] * len(answer)
            at += read
    arrays = (ids, segments, positions, ends, *map(np.asarray, (sources, targets, owners)))
    return Layout(*(torch.from_numpy(array.astype(np.int64, copy=False)) for array in arrays))


def visibility(layout: Layout, shared: int, apart: bool) -> torch.Tensor:
    """Who may look at whom: (B or 1, 1, T, shared + T), true where allowed.

    Causal order alone does where each row holds at most one answer, for padding comes last;
    `apart` also hides the answers of a row from one another.
    """
    width = layout.ids.shape[1]
    causal = torch.ones(width, shared + width, dtype=torch.bool).tril(shared)
    if not apart:
        return causal[None, None]
    own = layout.segments[:, :, None] == layout.segments[:, None, :]
    prompt = layout.segments[:, None, :] == 0
    near = (own | prompt) & causal[:, shared:]
    before = torch.ones(len(near), width, shared, dtype=torch.bool)
    return torch.cat([before, near], dim=2)[:, None]


def record_prefix(model: Qwen2VL, prompts: Sequence[Prompt], shared: int) -> SharedPrefix:
    """Run the first `shared` tokens of the prompts once, and keep their keys and values."""
    prefix = SharedPrefix()
    if shared:
        ids = torch.tensor([prompts[0].ids[:shared]], device=model.device)
        positions = torch.arange(shared, device=model.device).expand(3, 1, shared)
        model.run(model.embed(ids), positions, None, prefix)
    prefix.seal()
    return prefix


def embed_rows(
    model: Qwen2VL, ids: torch.Tensor, prompts: Sequence[Prompt], shared: int
) -> torch.Tensor:
    """Embeddings (B, T, hidden) of laid-out ids, with each prompt's picture in its place."""
    embeddings = model.embed(ids)
    lengths = torch.tensor([len(prompt.image.features) for prompt in prompts])
    starts = torch.tensor([prompt.image_start - shared for prompt in prompts])
    rows = torch.repeat_interleave(torch.arange(len(prompts)), lengths)
    within = torch.arange(len(rows)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    columns = torch.repeat_interleave(starts, lengths) + within
    features = torch.cat([prompt.image.features for prompt in prompts])
    places = (rows.to(embeddings.device), columns.to(embeddings.device))
    return embeddings.index_put(places, features.to(embeddings.device, embeddings.dtype))


def answer_logprobs(
    model: Qwen2VL, rows: Sequence[Row], share: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """log π of every answer token, (N,), and the answer it belongs to, (N,): row · answers + index.

    `share` False computes the common beginning of the prompts in every row; needed under gradient
    checkpointing.
    """
    prompts = [row.prompt for row in rows]
    shared = shared_length(prompts) if share else 0
    layout = lay_out(rows, shared)
    apart = any(len(row.answers) > 1 for row in rows)
    prefix = record_prefix(model, prompts, shared)
    embeddings = embed_rows(model, layout.ids.to(model.device), prompts, shared)
    mask = visibility(layout, shared, apart).to(model.device)
    hidden = model.run(
        embeddings, layout.positions.to(model.device), mask, prefix if shared else None
    )
    predicting = hidden.flatten(0, 1)[layout.sources.to(model.device)]
    logprobs = token_logprobs(model.logits(predicting), layout.targets.to(model.device))
    return logprobs, layout.owners.to(model.device)


def sum_by_answer(logprobs: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    """log π of whole answers, (count,): the sum over each one's tokens."""
    return logprobs.new_zeros(count).index_add(0, owners, logprobs)


def _ids(prompt: Prompt) -> TokenIds:
    return prompt.ids
