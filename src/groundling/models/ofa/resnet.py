"""The residual trunk that turns a picture into patches: three stages, one cell per 16 pixels.

Source: He et al. 2015 (arXiv 1512.03385), with the stride on the 3 × 3 convolution as in
torchvision, cut off after the third stage as OFA does (Wang et al. 2022, arXiv 2202.03052, §3.1).
"""

from __future__ import annotations

import torch
from torch import nn

from groundling.models.ofa.layers import DropPath
from groundling.models.ofa.norm import TeamBatchNorm2d

EXPANSION = 4
"""Channels that a block puts out, per channel of its 3 × 3 convolution."""


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = TeamBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = TeamBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = TeamBatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), TeamBatchNorm2d(out)
            )
        self.drop_path = DropPath(drop_path)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → (B, 4 × width, H / stride, W / stride)."""
        shortcut = cells if self.downsample is None else self.downsample(cells)
        cells = torch.relu(self.bn1(self.conv1(cells)))
        cells = torch.relu(self.bn2(self.conv2(cells)))
        cells = self.bn3(self.conv3(cells))
        return torch.relu(shortcut + self.drop_path(cells))


class ResNet(nn.Module):
    """Stem and three stages of bottlenecks."""

    def __init__(self, depths: tuple[int, int, int], width: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = TeamBatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, depths[0], 1, drop_path)
        self.layer2 = _stage(width * 4, width * 2, depths[1], 2, drop_path)
        self.layer3 = _stage(width * 8, width * 4, depths[2], 2, drop_path)
        self.channels = width * 16

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) → cells (B, 16 × width, H / 16, W / 16)."""
        cells: torch.Tensor = self.maxpool(torch.relu(self.bn1(self.conv1(pictures))))
        out: torch.Tensor = self.layer3(self.layer2(self.layer1(cells)))
        return out


def _stage(channels: int, width: int, depth: int, stride: int, drop_path: float) -> nn.Sequential:
    """A stage whose first block changes resolution and never drops; later ones drop more often."""
    first = Bottleneck(channels, width, stride, 0.0)
    rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
    rest = [Bottleneck(width * EXPANSION, width, 1, rate) for rate in rates[1:]]
    return nn.Sequential(first, *rest)
