"""How words look at a picture: attention to its patches, through a gate.

After UMT (Yu et al. 2020): each word asks the patches of its post's picture, and a gate between 0
and 1 for each number decides how much of what it found stands beside the word, for many pictures
have nothing to say about their text. UMT also turns the attention round and has an auxiliary task
of finding borders; this has neither.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groundling.config_gmner import VisionConfig
from groundling.models.taggers.pictures import CNN, PATCH_PX, Pictures, Seen


class PatchGrid(nn.Module):
    """A small convolutional network: each patch of 8 × 8 pixels becomes a vector."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, PATCH_PX // 4, stride=2),
        )
        self.place = nn.Parameter(0.1 * torch.randn(grid * grid, width))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, patches, width)."""
        patches: Tensor = self.body(pixels).flatten(2).transpose(1, 2) + self.place
        return patches


class Sight(nn.Module):
    """Puts beside each word what it finds in the picture; `width` numbers more a word.

    A post without a picture has one patch, a vector that is learned: training hides a share of the
    pictures, so that it is learned even where every post has one.
    """

    def __init__(self, config: VisionConfig, word_width: int, patch_width: int) -> None:
        super().__init__()
        self.width = config.width
        self.hidden = config.hidden
        self.patches = (
            PatchGrid(config.grid, config.width)
            if config.encoder == CNN
            else nn.Linear(patch_width, config.width)
        )
        self.norm = nn.LayerNorm(config.width)
        self.nothing = nn.Parameter(torch.randn(config.width))
        self.ask = nn.Linear(word_width, config.width)
        self.attention = nn.MultiheadAttention(config.width, config.heads, batch_first=True)
        self.gate = nn.Linear(word_width + config.width, config.width)

    def forward(self, words: Tensor, seen: Seen) -> Tensor:
        """Words (B, T, D) → (B, T, D + width)."""
        there = seen.there
        if self.training and self.hidden:
            there = there & (torch.rand(len(there), device=there.device) >= self.hidden)
        patches = self.norm(self.patches(seen.pictures))
        patches = torch.where(there[:, None, None], patches, self.nothing)
        found, _ = self.attention(self.ask(words), patches, patches, need_weights=False)
        gate = torch.sigmoid(self.gate(torch.cat([words, found], dim=-1)))
        return torch.cat([words, gate * found], dim=-1)


def sight_of(
    config: VisionConfig | None, word_width: int, pictures: Pictures | None
) -> Sight | None:
    """What looks at the pictures for words of a width; None for a tagger that does not."""
    if config is None or pictures is None:
        return None
    return Sight(config, word_width, pictures.patch_width)
