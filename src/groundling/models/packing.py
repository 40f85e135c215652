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
from dataclasses import dataclass, fields
from operator import add
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from groundling.losses import token_logprobs
from groundling.models.qwen2vl import ImageTokens, Qwen2VL, prompt_positions

TokenIds = tuple[int, ...]
KeyValue = tuple[torch.Tensor, torch.Tensor]


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


class Laid(Protocol):
    """What laying out needs to know of a prompt."""

    @property
    def ids(self) -> TokenIds:
        """Its tokens."""
        ...

    @property
    def positions(self) -> NDArray[np.int64]:
        """Their positions along time, row and column, (3, length)."""
        ...


P_co = TypeVar("P_co", bound=Laid, covariant=True)


@dataclass(frozen=True, slots=True)
class Row(Generic[P_co]):
    """One prompt and the answers to score; every answer ends with the end token."""

    prompt: P_co
    answers: tuple[TokenIds, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows as arrays, the tokens they share left out.

    ids, segments: (B, T); segment 0 is the prompt, 1… its answers, −1 padding. positions:
    (3, B, T). kept: (B, R) the columns whose last states are wanted, from each prompt's last token
    on. sources, targets, owners: (N,) one entry per answer token: the place among the kept states
    (row · R + index) that predicts it, its id, and its answer (row · answers + index).
    """

    ids: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor
    kept: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor

    def to(self, device: torch.device) -> Layout:
        """The same layout on a device."""
        return Layout(*(getattr(self, field.name).to(device) for field in fields(self)))


class PackedAttention:
    """Attention within laid-out rows, which may all follow one shared beginning.

    `shared` holds that beginning's keys and values, layer by layer, each (1, P, heads, head size);
    gradients flow back into it. `mask` (B or 1, 1, T, P + T) is true where a token may look;
    `kept` (B, R) names the columns that ask in the last layer. With `recording`, each layer's own
    keys and values are kept in `recorded`.
    """

    def __init__(
        self,
        shared: Sequence[KeyValue] = (),
        mask: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        recording: bool = False,
    ) -> None:
        self.recorded: list[KeyValue] = []
        self._shared = shared
        self._recording = recording
        self._mask = mask
        self._kept_mask = mask
        if mask is not None and kept is not None:
            rows = torch.arange(len(kept), device=kept.device)[:, None]
            self._kept_mask = mask.expand(len(kept), -1, -1, -1)[rows, 0, kept][:, None]

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """The `qwen2vl.Attention` of these rows."""
        if self._recording:
            self.recorded.append((key, value))
        mask = self._mask if query.shape[1] == key.shape[1] else self._kept_mask
        if self._shared:
            first, second = (part.expand(len(key), -1, -1, -1) for part in self._shared[layer])
            key, value = torch.cat([first, key], dim=1), torch.cat([second, value], dim=1)
        groups = query.shape[2] // key.shape[2]
        if groups > 1:
            key, value = (part.repeat_interleave(groups, dim=2) for part in (key, value))
        mixed = scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
        )
        return mixed.transpose(1, 2)


class _AnswerTokens(NamedTuple):
    """The last three fields of a Layout, as they grow."""

    sources: list[int]
    targets: list[int]
    owners: list[int]


def shared_length(prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts begin with, before any picture and short of any whole prompt."""
    first, last = (chosen.ids for chosen in (min(prompts, key=_ids), max(prompts, key=_ids)))
    limit = min(min(prompt.image_start, len(prompt.ids) - 1) for prompt in prompts)
    same = 0
    while same < limit and first[same] == last[same]:
        same += 1
    return same


def lay_out(rows: Sequence[Row[Laid]], shared: int) -> Layout:
    """Arrange rows, each without its first `shared` tokens, padded on the right.

    An answer's end token is predicted but never read, so it is a target and takes no place.
    """
    answers = max(len(row.answers) for row in rows)
    prompts = [len(row.prompt.ids) - shared for row in rows]
    reads = [sum(len(answer) - 1 for answer in row.answers) for row in rows]
    count, width = len(rows), max(map(add, prompts, reads))
    most_kept = max(reads) + 1
    ids = np.zeros((count, width), dtype=np.int64)
    segments = np.full((count, width), -1, dtype=np.int64)
    positions = np.zeros((3, count, width), dtype=np.int64)
    tokens = _AnswerTokens([], [], [])
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        where = row.prompt.positions
        ids[place, :prompt] = row.prompt.ids[shared:]
        segments[place, :prompt] = 0
        positions[:, place, :prompt] = where[:, shared:]
        following = int(where.max()) + 1
        at = prompt
        for index, answer in enumerate(row.answers):
            end = at + len(answer) - 1
            ids[place, at:end] = answer[:-1]
            segments[place, at:end] = index + 1
            positions[:, place, at:end] = np.arange(following, following + end - at)
            first = place * most_kept + at - prompt + 1
            tokens.sources.extend([place * most_kept, *range(first, first + end - at)])
            tokens.targets.extend(answer)
            tokens.owners.extend([place * answers + index] * len(answer))
            at = end
    kept = np.asarray(prompts)[:, None] - 1 + np.arange(most_kept)
    arrays = (ids, segments, positions, np.minimum(kept, width - 1), *tokens)
    return Layout(*(torch.from_numpy(np.asarray(array, dtype=np.int64)) for array in arrays))


def visibility(layout: Layout, shared: int, apart: bool) -> torch.Tensor:
    """Who may look at whom: (B or 1, 1, T, shared + T), true where allowed.

    Causal order alone does where each row holds at most one answer, for padding comes last;
    `apart` also hides the answers of a row from one another.
    """
    width = layout.ids.shape[1]
    device = layout.ids.device
    causal = torch.ones(width, shared + width, dtype=torch.bool, device=device).tril(shared)
    if not apart:
        return causal[None, None]
    own = layout.segments[:, :, None] == layout.segments[:, None, :]
    prompt = layout.segments[:, None, :] == 0
    near = (own | prompt) & causal[:, shared:]
    before = torch.ones(len(near), width, shared, dtype=torch.bool, device=device)
    return torch.cat([before, near], dim=2)[:, None]


def record_shared(model: Qwen2VL, prompts: Sequence[Prompt], shared: int) -> list[KeyValue]:
    """Run the first `shared` tokens of the prompts once; their keys and values, layer by layer."""
    if not shared:
        return []
    attention = PackedAttention(recording=True)
    ids = torch.tensor([prompts[0].ids[:shared]], device=model.device)
    positions = torch.arange(shared, device=model.device).expand(3, 1, shared)
    model.run(model.embed(ids), positions, attention)
    return attention.recorded


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
    model: Qwen2VL, rows: Sequence[Row[Prompt]], checkpointing: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """log π of every answer token, (N,), and the answer it belongs to, (N,): row · answers + index.

    `checkpointing` trades time for memory in the backward pass.
    """
    prompts = [row.prompt for row in rows]
    shared = shared_length(prompts)
    layout = lay_out(rows, shared).to(model.device)
    apart = any(len(row.answers) > 1 for row in rows)
    attention = PackedAttention(
        record_shared(model, prompts, shared), visibility(layout, shared, apart), layout.kept
    )
    embeddings = embed_rows(model, layout.ids, prompts, shared)
    hidden = model.run(embeddings, layout.positions, attention, layout.kept, checkpointing)
    predicting = hidden.flatten(0, 1)[layout.sources]
    return token_logprobs(model.logits(predicting), layout.targets), layout.owners


def sum_by_answer(logprobs: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    """log π of whole answers, (count,): the sum over each one's tokens."""
    return logprobs.new_zeros(count).index_add(0, owners, logprobs)


def _ids(prompt: Prompt) -> TokenIds:
    return prompt.ids
