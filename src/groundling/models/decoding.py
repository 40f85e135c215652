"""Drawing K answers to each prompt of a batch.

Each prompt is run once. Its K answers grow from it as a tree: answers that have drawn the same
words so far share one node, which is computed once, and a mask lets a node see the prompt and its
own ancestors only. One copy of the prompt's keys and values serves all K answers, and one copy of
the instruction's serves the whole batch. What is drawn follows the model's own distribution at the
temperature asked for; no setting that a checkpoint ships takes part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from groundling.models.packing import (
    PackedAttention,
    Prompt,
    Row,
    embed_rows,
    lay_out,
    record_shared,
    shared_length,
    visibility,
)
from groundling.models.qwen2vl import Qwen2VL
from groundling.models.tree import TreeAttention

THIN = 0.7
"""A batch drops its finished prompts once fewer than this share of its rows still grow."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn answer: its tokens without the end token, and log π of all of them and the end.

    `end` is the token that ended it. `logprob` is at temperature 1, in nats; None where the answer
    was cut at the longest length allowed, so that no end token was drawn. It is NaN, cut or not,
    where the model gave numbers that are none: such tokens mean nothing.
    """

    tokens: tuple[int, ...]
    logprob: float | None
    end: int | None = None


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


class Answers:
    """The B × K answers so far, and which of them still grow; any of `ends` ends one."""

    def __init__(
        self, rows: int, k: int, steps: int, ends: Sequence[int], device: torch.device
    ) -> None:
        self.growing = torch.ones(rows, k, dtype=torch.bool, device=device)
        self._tokens = torch.full((rows, k, steps), ends[0], device=device)
        self._logprobs = torch.zeros(rows, k, dtype=torch.float64, device=device)
        self._ends = torch.tensor(ends, device=device)

    def add(self, step: int, tokens: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """Take one token for each growing answer, (A,); return which of those grow on, (A,)."""
        rows, samples = self.growing.nonzero(as_tuple=True)
        self._tokens[rows, samples, step] = tokens
        self._logprobs[rows, samples] += logprobs.double()
        on = ~torch.isin(tokens, self._ends)
        self.growing[rows, samples] = on
        return on

    def result(self) -> list[list[Drawn]]:
        """The answers in order; those that never ended carry no log-probability."""
        cut = (self.growing & ~self._logprobs.isnan()).tolist()
        logprobs = self._logprobs.tolist()
        ends = set(self._ends.tolist())
        return [
            [
                _until(tokens, ends, None if cut[row][k] else logprobs[row][k])
                for k, tokens in enumerate(answers)
            ]
            for row, answers in enumerate(self._tokens.tolist())
        ]


@dataclass(slots=True)
class _Frontier:
    """The newest node of every tree, N in all, sorted by row.

    rows: (N,) row of each. sees: (N, columns) which of the row's own columns it may look at.
    following: (N,) position of the next token. holders: (A,) the node of each growing answer.
    """

    rows: torch.Tensor
    sees: torch.Tensor
    following: torch.Tensor
    holders: torch.Tensor

    def branch(self, tokens: torch.Tensor, on: torch.Tensor, vocabulary: int) -> torch.Tensor:
        """Move on by the tokens (A,) of the growing answers; return the new nodes' tokens.

        Answers at one node that drew the same token stay together.
        """
        drawn = (self.holders * vocabulary + tokens)[on]
        branches: torch.Tensor
        branches, self.holders = torch.unique(drawn, return_inverse=True)
        parents = branches // vocabulary
        self.rows, self.sees = self.rows[parents], self.sees[parents]
        self.following = self.following[parents] + 1
        return branches % vocabulary

    def take_columns(self) -> tuple[torch.Tensor, int]:
        """Give every node a column of its own; return their slots (N,) and the columns taken."""
        places = torch.arange(len(self.rows), device=self.rows.device)
        slots = places - torch.searchsorted(self.rows, self.rows)
        width = int(slots.max()) + 1
        own = torch.zeros(len(places), width, dtype=torch.bool, device=slots.device)
        own[places, slots] = True
        self.sees = torch.cat([self.sees, own], dim=1)
        return slots, width


def draw(
    model: Qwen2VL,
    prompts: Sequence[Prompt],
    noise: NDArray[np.float64] | None,
    temperature: float,
    steps: int,
    ends: Sequence[int],
) -> list[list[Drawn]]:
    """Draw K answers of at most `steps` tokens to each of B prompts, by `noise` (B, K, steps).

    `noise` None takes the likeliest token each time (one answer a prompt). `ends` are the ids of
    the tokens that end an answer; one counts as one of the `steps`. To be called without gradients.
    """
    k = 1 if noise is None else noise.shape[1]
    uniforms = None if noise is None else torch.from_numpy(noise).to(model.device)
    answers = Answers(len(prompts), k, steps, ends, model.device)
    logits, attention, frontier = _run_prompts(model, prompts, k)
    rows_held = len(prompts)
    for step in range(steps):
        drawn = None if uniforms is None else uniforms[:, :, step][answers.growing]
        tokens, logprobs = choose(logits.float(), frontier.holders, drawn, temperature)
        on = answers.add(step, tokens, logprobs)
        if step + 1 == steps or not bool(on.any()):
            break
        tokens = frontier.branch(tokens, on, logits.shape[-1])
        alive = torch.unique(frontier.rows)
        if len(alive) < THIN * rows_held:
            attention.keep(alive)
            frontier.rows = torch.searchsorted(alive, frontier.rows)
            rows_held = len(alive)
        positions = frontier.following.expand(3, 1, -1)
        slots, width = frontier.take_columns()
        mask = _step_mask(frontier, slots, width, rows_held)
        attention.grow(frontier.rows, slots, width, mask)
        logits = model.logits(model.run(model.embed(tokens[None]), positions, attention))[0]
    return answers.result()


def _run_prompts(
    model: Qwen2VL, prompts: Sequence[Prompt], k: int
) -> tuple[torch.Tensor, TreeAttention, _Frontier]:
    """The logits (B, V) after each prompt, and the trees' roots."""
    shared = shared_length(prompts)
    layout = lay_out([Row(prompt, ()) for prompt in prompts], shared).to(model.device)
    beginning = record_shared(model, prompts, shared)
    mask = visibility(layout, shared, apart=False)
    attention = PackedAttention(beginning, mask, layout.kept, recording=True)
    embeddings = embed_rows(model, layout.ids, prompts, shared)
    hidden = model.run(embeddings, layout.positions, attention, layout.kept)
    rows = torch.arange(len(prompts), device=model.device)
    frontier = _Frontier(
        rows=rows,
        sees=layout.segments == 0,
        following=layout.positions.amax(dim=(0, 2)),
        holders=rows.repeat_interleave(k),
    )
    return model.logits(hidden[:, 0]), TreeAttention(beginning, attention.recorded, k), frontier


def choose(
    logits: torch.Tensor, holders: torch.Tensor, uniforms: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each of A answers and its log-probability at temperature 1: twice (A,).

    `logits` (N, V) are those of the nodes that `holders` (A,) names. Draws invert the distribution
    function of softmax(logits / temperature) at `uniforms` (A,).
    """
    if uniforms is None:
        tokens = logits.argmax(dim=-1)[holders]
    else:
        peak = logits.amax(dim=-1, keepdim=True)
        mass = ((logits - peak).double() / temperature).exp().cumsum(dim=-1)
        goal = uniforms[:, None] * mass[holders, -1:]
        tokens = torch.searchsorted(mass[holders], goal, right=True)[:, 0]
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    logprobs: torch.Tensor = logits[holders, tokens] - logits.logsumexp(dim=-1)[holders]
    return tokens, logprobs


def _step_mask(
    frontier: _Frontier, slots: torch.Tensor, width: int, rows: int
) -> torch.Tensor | None:
    """What each slot may see, (rows, width, columns); None where one node a row sees everything."""
    if width == 1 and len(slots) == rows and bool(frontier.sees.all()):
        return None
    mask = frontier.sees.new_zeros(rows, width, frontier.sees.shape[1])
    mask[frontier.rows, slots] = frontier.sees
    return mask


def _until(tokens: Sequence[int], ends: set[int], logprob: float | None) -> Drawn:
    """The answer in a row of tokens, which goes as far as its first end."""
    length = next((place for place, token in enumerate(tokens) if token in ends), None)
    end = None if length is None else tokens[length]
    return Drawn(tuple(tokens[:length]), logprob, end)
