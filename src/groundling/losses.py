"""The log-probabilities and losses of ISR, each one equation, each a few lines.

Shapes: B sequences, T positions, V vocabulary entries, N tokens in all. Log-probabilities are
natural logarithms, computed in float32 whatever the model's own precision.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, logsigmoid

IGNORE = -100
"""The label of a position that is no part of an answer, as in PyTorch and transformers."""


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log π of each target token: logits (N, V) and targets (N,) give (N,), each ≤ 0."""
    return -cross_entropy(logits.float(), targets, reduction="none")


def sequence_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log π(s | p), summed over the tokens of s: the inner term of ISR eq. 3 and 8.

    `logits` (B, T, V) at position t predict `labels` (B, T) at position t + 1; labels equal to
    IGNORE do not count. Returns (B,).
    """
    shifted = labels[:, 1:]
    losses = cross_entropy(
        logits[:, :-1].float().transpose(1, 2), shifted, reduction="none", ignore_index=IGNORE
    )
    return -losses.sum(dim=1)


def sft_loss(logprobs: torch.Tensor) -> torch.Tensor:
    """ISR eq. 3 over a batch: the mean of −log π over all its answer tokens, (N,) to a scalar.

    Every token weighs the same, as in the usual language-model loss, so a long answer weighs
    more than a short one.
    """
    return -logprobs.mean()


def dpo_margin(
    chosen_logp: torch.Tensor,
    rejected_logp: torch.Tensor,
    ref_chosen_logp: torch.Tensor,
    ref_rejected_logp: torch.Tensor,
) -> torch.Tensor:
    """log [π(s_w|p) / π(s_l|p)] − log [π_ref(s_w|p) / π_ref(s_l|p)]: four (B,) to (B,)."""
    return (chosen_logp - rejected_logp) - (ref_chosen_logp - ref_rejected_logp)


def dpo_loss(
    chosen_logp: torch.Tensor,
    rejected_logp: torch.Tensor,
    ref_chosen_logp: torch.Tensor,
    ref_rejected_logp: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """ISR eq. 8 (Rafailov et al. 2024, eq. 7): mean over B of −log σ(β · margin), a scalar.

    All four inputs are summed sequence log-probabilities of shape (B,). Where policy and
    reference agree the loss is log 2.
    """
    margin = dpo_margin(chosen_logp, rejected_logp, ref_chosen_logp, ref_rejected_logp)
    return -logsigmoid(beta * margin).mean()
