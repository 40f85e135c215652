"""The network of the tiny grounder: a picture encoder, a text encoder and a likelihood of boxes.

The picture is encoded once; any number of expressions then read it, so an expression costs a
small share of a picture. The likelihood of a box v = (centre cell, distances to the sides) is
P(v | I, s) = P(cell | I, s) · ∏ Laplace(distance | cell, I, s), whose negative logarithm is the
loss of ISR eq. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

LAPLACE_SCALE = 0.02
"""b of the Laplace factors, as a share of the picture's side."""


@dataclass(frozen=True)
class TinyGrounderConfig:
    """Sizes of the network; `words` is its whole vocabulary after PAD, START and UNKNOWN."""

    words: tuple[str, ...]
    size_px: int = 112
    stride_px: int = 8
    width: int = 96
    heads: int = 4
    text_layers: int = 1
    picture_layers: int = 1
    reading_layers: int = 3
    max_words: int = 32

    @property
    def grid(self) -> int:
        """Cells along one side."""
        return self.size_px // self.stride_px


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) → the same shape."""
        out: Tensor = x + self.body(x)
        return out


class _Reading(nn.Module):
    """One layer in which words look at each other and at the picture."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.own = nn.Linear(width, 3 * width)
        self.own_out = nn.Linear(width, width)
        self.ask = nn.Linear(width, width)
        self.seen = nn.Linear(width, 2 * width)
        self.ask_out = nn.Linear(width, width)
        self.mix = nn.Sequential(
            nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width)
        )

    def forward(self, words: Tensor, keep: Tensor, cells: Tensor) -> Tensor:
        """words (B, E, L, D), keep (B·E, 1, 1, L) bool, cells (B, C, D) → words."""
        pictures, said, length, width = words.shape
        head = width // self.heads
        rows = (pictures * said, length, self.heads, head)
        q, k, v = self.own(self.norms[0](words)).chunk(3, dim=-1)
        q, k, v = (t.reshape(rows).transpose(1, 2) for t in (q, k, v))
        heard = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        words = words + self.own_out(heard.transpose(1, 2).reshape(words.shape))
        # All expressions about a picture read its cells together: they are projected only once.
        q = self.ask(self.norms[1](words)).view(pictures, said * length, self.heads, head)
        k, v = self.seen(cells).view(pictures, -1, 2, self.heads, head).unbind(2)
        found = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        words = words + self.ask_out(found.transpose(1, 2).reshape(words.shape))
        out: Tensor = words + self.mix(self.norms[2](words))
        return out


def _encoder(width: int, heads: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, 3 * width, dropout=0.0, activation="relu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class TinyGrounderNet(nn.Module):
    """Picture and word encoders, reading layers, and heads for cell and sides."""

    def __init__(self, config: TinyGrounderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 4, stride=2, padding=1),
            nn.GroupNorm(4, width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 4, stride=2, padding=1),
            nn.GroupNorm(8, width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            _Residual(width),
        )
        self.place = nn.Parameter(torch.randn(config.grid**2, width) * 0.1)
        self.look = _encoder(width, config.heads, config.picture_layers)
        self.cell_norm = nn.LayerNorm(width)
        self.embed = nn.Embedding(len(config.words) + 3, width, padding_idx=0)
        self.order = nn.Parameter(torch.randn(config.max_words, width) * 0.1)
        self.listen = _encoder(width, config.heads, config.text_layers)
        self.read = nn.ModuleList(
            [_Reading(width, config.heads) for _ in range(config.reading_layers)]
        )
        self.query_norm = nn.LayerNorm(width)
        self.cell_query = nn.Linear(width, width)
        self.sides = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 4))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] → cells (B, G·G, D)."""
        cells = self.stem(pixels).flatten(2).transpose(1, 2) + self.place
        out: Tensor = self.cell_norm(self.look(cells))
        return out

    def forward(self, cells: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, C, D), tokens (B, E, L) with 0 as padding → heat (B, E, C), query (B, E, D).

        `heat` are unnormalised log-probabilities of the centre cell. A row of padding alone is
        read as START alone.
        """
        pictures, said, length = tokens.shape
        keep = (tokens != 0).view(pictures * said, length).clone()
        keep[:, 0] = True
        words = self.embed(tokens) + self.order[:length]
        words = self.listen(words.flatten(0, 1), src_key_padding_mask=~keep).view(words.shape)
        for layer in self.read:
            words = layer(words, keep[:, None, None, :], cells)
        query = self.query_norm(words[:, :, 0])
        heat = self.cell_query(query) @ cells.transpose(1, 2)
        return heat / self.config.width**0.5, query

    def distances(self, cells: Tensor, query: Tensor) -> Tensor:
        """Chosen cells (…, D) and queries (…, D) → distances (…, 4) to left, top, right, bottom.

        In shares of the picture's side, measured from the centre of the cell.
        """
        out: Tensor = self.sides(torch.cat([cells, query], dim=-1)).exp() * 0.2
        return out

    def cell_centres(self) -> Tensor:
        """(G·G, 2) centres x, y of the cells, in shares of the side."""
        steps = (torch.arange(self.config.grid) + 0.5) / self.config.grid
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=-1)

    def negative_log_likelihood(self, cells: Tensor, tokens: Tensor, boxes: Tensor) -> Tensor:
        """Mean −log P(v | I, s) (ISR eq. 2) over the expressions that are not all padding.

        Cells (B, C, D), tokens (B, E, L), boxes (B, E, 4) x1 y1 x2 y2 in shares of the side.
        """
        said = (tokens != 0).any(-1)
        heat, query = self(cells, tokens)
        boxes, heat, query = boxes[said], heat[said], query[said]
        picture = said.nonzero()[:, 0]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        column_row = (centre * self.config.grid).long().clamp(0, self.config.grid - 1)
        gold = column_row[:, 1] * self.config.grid + column_row[:, 0]
        origin = self.cell_centres()[gold]
        wanted = torch.cat([origin - boxes[:, :2], boxes[:, 2:] - origin], dim=-1)
        got = self.distances(cells[picture, gold], query)
        sides = (got - wanted).abs().sum(-1) / LAPLACE_SCALE
        return functional.cross_entropy(heat, gold) + sides.mean()
