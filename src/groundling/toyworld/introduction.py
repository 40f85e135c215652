"""Introduces names to image tokens before the tiny writer learns to speak.

A transformer that has to match eighty names with what it sees sits on a plateau until some head
happens to compare the two. Here a linear map from image tokens to the writer's own (still random)
name embeddings is fitted first, in seconds, and half of the heads of the first two layers start out
with it: queries read names as they are, keys read image tokens through the map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LOW_TURNING = range(10, 24)
"""Rotary frequencies that hardly turn over the length of a prompt: matching must not depend on
how far a name is from the picture."""

GAIN = 2.0
STEPS = 600


def fit_map(tokens: Tensor, names: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """A map W (D, D) such that W · token points to the names of what the token covers.

    tokens (N, D), names (M, D) unit vectors, wanted (N, M) 0/1.
    """
    tokens = functional.normalize(tokens, dim=-1)
    width = tokens.shape[1]
    weight = nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
    sharpness = nn.Parameter(torch.tensor([10.0, -4.0]))
    optimiser = torch.optim.AdamW([weight, sharpness], lr=5e-3)
    for _ in range(STEPS):
        rows = torch.randint(0, len(tokens), (1024,), generator=generator)
        cosine = functional.normalize(tokens[rows] @ weight.T, dim=-1) @ names.T
        logits = cosine * sharpness[0] + sharpness[1]
        share = torch.where(wanted[rows] > 0, 4.0, 1.0)
        loss = functional.binary_cross_entropy_with_logits(logits, wanted[rows], weight=share)
        optimiser.zero_grad()
        (loss * 20).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    learned = weight.detach()
    size: Tensor = (tokens @ learned.T).norm(dim=-1).mean()
    return learned / size


@torch.no_grad()
def start_heads(attention: Any, weight: Tensor, generator: torch.Generator) -> None:
    """Let half of a layer's heads compare names (queries) with mapped image tokens (keys).

    They are those of the first key head; the others stay free to find out who stands where.
    """
    size, width = attention.head_dim, attention.k_proj.weight.shape[1]
    keys = attention.k_proj.weight.shape[0] // size
    per_key = attention.q_proj.weight.shape[0] // size // keys
    places = [*LOW_TURNING, *(i + size // 2 for i in LOW_TURNING)]
    rows = torch.zeros(size, width)
    frame = torch.randn(width, len(places), generator=generator)
    rows[places] = GAIN * torch.linalg.qr(frame)[0].T
    attention.k_proj.weight[:size] = rows @ weight
    for query in range(per_key):
        attention.q_proj.weight[query * size : (query + 1) * size] = rows
