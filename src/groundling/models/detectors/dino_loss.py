"""The loss of one gold box for one phrase, for DETR-like detectors that score text tokens.

Every output (each decoder layer, and the proposals that the encoder hands to the decoder) is
matched by itself: the query of least cost takes the gold box and is taught the phrase's tokens, all
others are taught that nothing of the text is there. With a single gold box this is the Hungarian
assignment of DETR. The terms and their weights are those of Grounding DINO's training: focal loss
on tokens, L1 and generalised IoU on the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own short name


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the matching costs, of the loss terms, and the focal loss's α and γ."""

    class_cost: float = 1.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    class_loss: float = 2.0
    box_loss: float = 5.0
    giou_loss: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    @classmethod
    def of(cls, config: Any) -> Weights:
        """Those of a model's configuration; it has no field for the class loss and for γ."""
        return cls(
            class_cost=config.class_cost,
            box_cost=config.bbox_cost,
            giou_cost=config.giou_cost,
            box_loss=config.bbox_loss_coefficient,
            giou_loss=config.giou_loss_coefficient,
            alpha=config.focal_alpha,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """What a batch should say: gold boxes (B, 4) as centre and sides, tokens (B, T) as bool.

    `phrase` marks the expression's tokens, `text` all that are not padding.
    """

    boxes: Tensor
    phrase: Tensor
    text: Tensor

    def to(self, device: torch.device) -> Target:
        """The same on a device."""
        return Target(self.boxes.to(device), self.phrase.to(device), self.text.to(device))


def grounding_loss(logits: Tensor, boxes: Tensor, target: Target, weights: Weights) -> Tensor:
    """The loss of one output, a scalar: mean over the batch.

    logits (B, Q, T), −∞ where a token is padding; boxes (B, Q, 4), centre and sides as shares.
    """
    best = match(logits.detach(), boxes.detach(), target, weights)
    rows = torch.arange(len(best), device=best.device)
    wanted = torch.zeros_like(logits)
    wanted[rows, best] = target.phrase.to(logits.dtype)
    text = target.text[:, None, :].expand_as(logits)
    tokens = focal_loss(logits.masked_fill(~text, 0.0), wanted, weights)
    chosen = boxes[rows, best]
    return (
        weights.class_loss * tokens.masked_fill(~text, 0.0).sum((1, 2))
        + weights.box_loss * (chosen - target.boxes).abs().sum(-1)
        + weights.giou_loss * (1 - generalised_iou(chosen, target.boxes))
    ).mean()


def match(logits: Tensor, boxes: Tensor, target: Target, weights: Weights) -> Tensor:
    """The query (B,) of least cost for each gold box: class, L1 and generalised IoU.

    The class cost is the focal loss of a hit less that of a miss, mean over the phrase's tokens.
    """
    phrase = target.phrase[:, None, :]
    seen = logits.masked_fill(~phrase, 0.0)
    gain = focal_loss(seen, torch.ones_like(seen), weights)
    gain = gain - focal_loss(seen, torch.zeros_like(seen), weights)
    of_class = gain.masked_fill(~phrase, 0.0).sum(-1) / phrase.sum(-1)
    gold = target.boxes[:, None, :]
    cost = (
        weights.class_cost * of_class
        + weights.box_cost * (boxes - gold).abs().sum(-1)
        - weights.giou_cost * generalised_iou(boxes, gold)
    )
    return cost.argmin(-1)


def focal_loss(logits: Tensor, wanted: Tensor, weights: Weights) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 5) of each number, of the shape of `logits`.

    `wanted` is 1 or 0; α weighs the former.
    """
    p = logits.sigmoid()
    missed = wanted * (1 - p) + (1 - wanted) * p
    share = wanted * weights.alpha + (1 - wanted) * (1 - weights.alpha)
    plain = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return share * missed**weights.gamma * plain


def generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes (…, 4) as centre and sides, in [−1, 1]."""
    low_1, high_1 = one[..., :2] - one[..., 2:] / 2, one[..., :2] + one[..., 2:] / 2
    low_2, high_2 = other[..., :2] - other[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2
    shared = (torch.minimum(high_1, high_2) - torch.maximum(low_1, low_2)).clamp(min=0).prod(-1)
    union = one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - shared
    hull = (torch.maximum(high_1, high_2) - torch.minimum(low_1, low_2)).prod(-1)
    tiny = torch.finfo(hull.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
