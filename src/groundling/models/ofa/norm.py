"""Batch norm whose batch is that of all processes which train together.

torch's own SyncBatchNorm does the same, but on GPUs alone, and it counts every example.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn

from groundling.team import team


class TeamBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`; in training, statistics are those of the examples of all processes.

    Examples that a process computes for nothing (`Team.counts`) are normalised, but not counted.
    """

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → the same shape; in training, every process must come here."""
        if not self.training or team().size == 1:
            return super().forward(cells)
        normalised, mean, variance, count = _Normalise.apply(  # type: ignore[no-untyped-call]
            cells, self.weight, self.bias, self.eps
        )
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        result: torch.Tensor = normalised
        return result


class _Normalise(torch.autograd.Function):
    """The equations of Ioffe & Szegedy 2015 (arXiv 1502.03167, §3), sums over all processes."""

    @staticmethod
    def forward(
        ctx: Any, cells: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The normalised cells, and mean (C,), variance (C,) and number of what was counted."""
        mean, variance, count = _moments(cells.float(), team().counts)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(cells, weight, mean, scale, count)
        ctx.counts = team().counts
        centred = cells.float() - _wide(mean)
        result = centred * _wide(scale * weight.float()) + _wide(bias.float())
        ctx.mark_non_differentiable(mean, variance, count)
        return result.to(cells.dtype), mean, variance, count

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Gradients by the cells, the scale γ and the shift β; those of γ and β are one's own."""
        cells, weight, mean, scale, count = ctx.saved_tensors
        wide = grad.float()
        normal = (cells.float() - _wide(mean)) * _wide(scale)
        by_bias = wide.sum((0, 2, 3))
        by_weight = (wide * normal).sum((0, 2, 3))
        sums = torch.stack([by_bias, by_weight])
        distributed.all_reduce(sums)
        by_cells = wide
        if ctx.counts:  # else the statistics do not depend on these cells
            by_cells = wide - _wide(sums[0] / count) - normal * _wide(sums[1] / count)
        by_cells = by_cells * _wide(scale * weight.float())
        return by_cells.to(cells.dtype), by_weight.to(weight.dtype), by_bias.to(weight.dtype), None


def _moments(cells: torch.Tensor, counts: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and variance (C,) of the cells of all processes that count, and how many there are.

    Each gives its own mean, sum of squared distances and number; those are put together, so that
    no small difference of large sums is taken.
    """
    number = cells.new_tensor(cells.numel() // cells.shape[1] if counts else 0)
    own_mean = cells.mean((0, 2, 3))
    own_squares = (cells - _wide(own_mean)).square().sum((0, 2, 3))
    own = torch.cat([own_mean, own_squares, number[None]])
    gathered = [torch.empty_like(own) for _ in range(team().size)]
    distributed.all_gather(gathered, own)
    told = torch.stack(gathered)
    means, squares = told[:, :-1].reshape(team().size, 2, -1).unbind(1)
    numbers = told[:, -1:]
    count = numbers.sum()
    mean = (numbers * means).sum(0) / count
    within = torch.where(numbers > 0, squares, 0.0).sum(0)
    between = (numbers * (means - mean).square()).sum(0)
    return mean, (within + between) / count, count


def _wide(channels: torch.Tensor) -> torch.Tensor:
    """(C,) → (1, C, 1, 1)."""
    return channels[None, :, None, None]
