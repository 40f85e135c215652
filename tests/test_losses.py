from __future__ import annotations

import math

import pytest
import torch

from groundling.losses import (
    IGNORE,
    dpo_loss,
    dpo_margin,
    sequence_logprobs,
    sft_loss,
    token_logprobs,
)


def test_token_logprobs_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]])
    ours = token_logprobs(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(ours, torch.tensor([math.log(3 / 4), math.log(1 / 2)]))


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.zeros(1, 3, dtype=torch.bfloat16)
    assert token_logprobs(logits, torch.tensor([0])).item() == pytest.approx(-math.log(3), abs=1e-6)


def test_sequence_logprobs_shifts_and_ignores():
    logits = torch.zeros(2, 4, 8)
    logits[0, 1, 5] = math.log(7)  # predicts position 2, where the first label stands
    labels = torch.tensor([[IGNORE, IGNORE, 5, 3], [IGNORE, 2, IGNORE, IGNORE]])
    expected = torch.tensor([math.log(7 / 14) + math.log(1 / 8), math.log(1 / 8)])
    torch.testing.assert_close(sequence_logprobs(logits, labels), expected)


def test_sequence_logprobs_equals_the_tokens_summed():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    tokens = token_logprobs(logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1))
    torch.testing.assert_close(sequence_logprobs(logits, labels), tokens.view(3, 4).sum(1))


def test_sft_loss_is_the_mean_over_tokens():
    assert sft_loss(torch.tensor([-1.0, -2.0, -6.0])).item() == pytest.approx(3.0)


def test_dpo_loss_by_hand():
    """Margin (−1 − −3) − (−2 − −2.5) = 1.5, times β = 0.5; and its mirror image."""
    chosen, rejected = torch.tensor([-1.0, -3.0]), torch.tensor([-3.0, -1.0])
    ref_chosen, ref_rejected = torch.tensor([-2.0, -2.5]), torch.tensor([-2.5, -2.0])
    margins = dpo_margin(chosen, rejected, ref_chosen, ref_rejected)
    assert margins.tolist() == [1.5, -1.5]
    loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5)
    expected = (math.log1p(math.exp(-0.75)) + math.log1p(math.exp(0.75))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_dpo_loss_is_log_2_where_policy_and_reference_agree():
    chosen, rejected = torch.tensor([-4.0]), torch.tensor([-90.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, 0.5).item() == pytest.approx(math.log(2))


def test_dpo_gradient_is_the_papers_weight():
    """d loss / d log π(s_w) = −β σ(−β margin) (Rafailov et al. 2024, §4)."""
    chosen = torch.tensor([-1.0], requires_grad=True)
    zero = torch.zeros(1)
    dpo_loss(chosen, zero, zero, zero, beta=0.5).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.5 / (1 + math.exp(-0.5)))


def test_dpo_loss_survives_extreme_margins():
    big = torch.tensor([1e4])
    zero = torch.zeros(1)
    assert dpo_loss(big, zero, zero, zero, 0.5).item() == 0.0
    assert dpo_loss(zero, big, zero, zero, 0.5).item() == pytest.approx(5e3)
