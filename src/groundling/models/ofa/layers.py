"""The transformer layers of OFA: pre-norm with NormFormer's extra norms and head scales.

Source: Wang et al. 2022 (arXiv 2202.03052), Shleifer et al. 2021 (NormFormer, arXiv 2110.09456).
Modules bear the names of the published checkpoints' tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own short name

from groundling.models.ofa.config import OFAConfig


class DropPath(nn.Module):
    """Leaves a branch out for whole examples, at random, and scales up the rest; only in training.

    As in OFA's training code; its transformers port, which has the batch first, drops positions
    instead of examples.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """(B, …) → the same shape, some examples 0."""
        if not self.training or self.rate == 0:
            return branch
        shape = (len(branch),) + (1,) * (branch.ndim - 1)
        kept = torch.rand(shape, device=branch.device, dtype=torch.float32) >= self.rate
        return branch * (kept.to(branch.dtype) / (1 - self.rate))


class Attention(nn.Module):
    """Multi-head attention with an additive bias and a learned scale per head."""

    def __init__(self, config: OFAConfig, heads: int) -> None:
        super().__init__()
        width = config.d_model
        self.heads = heads
        self.scale = float(width / heads * config.attn_scale_factor) ** -0.5
        self.dropout = config.attention_dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.c_attn = nn.Parameter(torch.ones(heads))

    def keys_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (B, S, D) → keys and values, (B, heads, S, D / heads) each."""
        return split_heads(self.k_proj(states), self.heads), split_heads(
            self.v_proj(states), self.heads
        )

    def forward(
        self, states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """States (B, T, D) over keys and values (B, heads, S, ·), bias (1 or B, heads, T, S)."""
        heard = F.scaled_dot_product_attention(
            split_heads(self.q_proj(states), self.heads),
            keys,
            values,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )
        scaled = heard * self.c_attn[:, None, None]
        joined: torch.Tensor = self.out_proj(scaled.transpose(1, 2).flatten(2))
        return joined


def split_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, S, D) → (B, heads, S, D / heads)."""
    return states.view(*states.shape[:-1], heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """What encoder and decoder layers share: the feed-forward branch, dropout and drop-path."""

    def __init__(self, config: OFAConfig, inner: int, drop_path: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, inner)
        self.fc2 = nn.Linear(inner, config.d_model)
        self.ffn_layer_norm = nn.LayerNorm(inner)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.drop_path = DropPath(drop_path)

    def join(self, states: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """The residual connection: states + branch, after dropout and drop-path."""
        joined: torch.Tensor = states + self.drop_path(self.dropout(branch))
        return joined

    def feed(self, states: torch.Tensor) -> torch.Tensor:
        """States (B, T, D) with the feed-forward branch added."""
        inner = self.activation_dropout(F.gelu(self.fc1(self.final_layer_norm(states))))
        return self.join(states, self.fc2(self.ffn_layer_norm(inner)))


class EncoderLayer(FeedForward):
    """Self-attention, then the feed-forward branch."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        super().__init__(config, config.encoder_ffn_dim, drop_path)
        self.self_attn = Attention(config, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.self_attn_mid_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """States (B, S, D), bias (1 or B, heads, S, S) → states."""
        normed = self.self_attn_layer_norm(states)
        heard = self.self_attn(normed, *self.self_attn.keys_values(normed), bias)
        return self.feed(self.join(states, self.self_attn_mid_layer_norm(heard)))


@dataclass(slots=True)
class LayerCache:
    """Keys and values of a decoder layer: its own (rows, heads, T, ·), across (B, heads, S, ·)."""

    own: tuple[torch.Tensor, torch.Tensor] | None = None
    cross: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass(slots=True)
class DecoderCache:
    """What a decoder need not compute again. Rows are beams, several of them to one example.

    `length` counts the tokens seen; `cross_positions` (1, heads, S, ·) are the encoder's position
    keys. Only a row's own keys and values exist per beam: those of the encoder are shared.
    """

    layers: list[LayerCache]
    length: int = 0
    cross_positions: torch.Tensor | None = field(default=None)

    def select(self, rows: torch.Tensor) -> None:
        """Keep, repeat or reorder rows: row i becomes what row `rows[i]` was."""
        for layer in self.layers:
            if layer.own is not None:
                keys, values = layer.own
                layer.own = (keys.index_select(0, rows), values.index_select(0, rows))


class DecoderLayer(FeedForward):
    """Self-attention, attention across to the encoder, then the feed-forward branch."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        super().__init__(config, config.decoder_ffn_dim, drop_path)
        heads = config.decoder_attention_heads
        self.self_attn = Attention(config, heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.self_attn_mid_layer_norm = nn.LayerNorm(config.d_model)
        self.cross_attn = Attention(config, heads)
        self.cross_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.cross_attn_mid_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        states: torch.Tensor,
        encoded: torch.Tensor,
        own_bias: torch.Tensor,
        cross_bias: torch.Tensor,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        """States (N, T, D) over encoded (B, S, D), N a multiple of B, rows of one example together.

        Biases: (1, heads, T, tokens so far) and (1 or B, heads, N / B × T, S).
        """
        normed = self.self_attn_layer_norm(states)
        own = self.self_attn.keys_values(normed)
        if cache is not None:
            if cache.own is not None:
                own = (torch.cat([cache.own[0], own[0]], 2), torch.cat([cache.own[1], own[1]], 2))
            cache.own = own
        heard = self.self_attn(normed, *own, own_bias)
        states = self.join(states, self.self_attn_mid_layer_norm(heard))

        cross = None if cache is None else cache.cross
        if cross is None:
            cross = self.cross_attn.keys_values(encoded)
            if cache is not None:
                cache.cross = cross
        grouped = self.cross_attn_layer_norm(states).reshape(len(encoded), -1, states.shape[-1])
        heard = self.cross_attn(grouped, *cross, cross_bias).reshape(states.shape)
        return self.feed(self.join(states, self.cross_attn_mid_layer_norm(heard)))
