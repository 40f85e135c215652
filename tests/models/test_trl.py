"""TRL's own DPO on the same examples: another implementation of ISR eq. 8 to agree with."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from groundling.models.base import Preference
from groundling.prompts import writer_messages

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

# TRL 1.16 and PEFT 0.21 still use names that transformers 5.23 has renamed
RENAMED = "ignore:`(is_)?gradient_checkpointing(_kwargs)?` is deprecated:FutureWarning"

CHOSEN = ["the man with red hair", "The entity does not appear in the image", "a", "the man"] * 2
REJECTED = ["the woman", "the man", "The entity does not appear in the image", "b"] * 2
BETA = 0.5
LOSS_ROUNDING = 3e-5
"""What rounding may do to a loss: scores reach 65, where a unit in the last place is 7.6e-6, four
of them make a margin, and the loss falls by β/2 of it; each score four units off.
"""


def rows() -> datasets.Dataset:
    def turn(text: str) -> list[dict]:
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    return datasets.Dataset.from_list(
        [
            {
                "images": [tiny.picture(query.image)],
                "prompt": writer_messages(query.name, query.type),
                "chosen": turn(chosen),
                "rejected": turn(rejected),
            }
            for query, chosen, rejected in zip(tiny.QUERIES, CHOSEN, REJECTED, strict=False)
        ]
    )


def trainer_of(writer, folder) -> trl.DPOTrainer:
    settings = trl.DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=len(tiny.QUERIES),
        gradient_checkpointing=False,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    return trl.DPOTrainer(
        writer.model, args=settings, train_dataset=rows(), processing_class=tiny.processor()
    )


@pytest.mark.filterwarnings(RENAMED)
def test_loss_and_gradients_equal_trls(writer, tmp_path):
    """Policy and reference differ, and the reference is the adapter as it stood, not the base."""
    texts = CHOSEN[: len(tiny.QUERIES)], REJECTED[: len(tiny.QUERIES)]
    reference = writer.score_pairs(tiny.QUERIES, *texts)
    names = list(writer.trainable())
    trainer = trainer_of(writer, tmp_path)  # here TRL copies the adapter: its π_ref
    batch = next(iter(trainer.get_train_dataloader()))
    tiny.move(writer, seed=2, size=0.1)
    parameters = writer.trainable()
    assert list(parameters) == names

    theirs = trainer.compute_loss(trainer.model, batch)
    their_gradients = torch.autograd.grad(theirs, list(parameters.values()))
    preferences = [
        Preference(query, chosen, rejected, *logps)
        for query, chosen, rejected, logps in zip(tiny.QUERIES, *texts, reference, strict=True)
    ]
    ours = writer.dpo_loss(preferences, BETA)
    our_gradients = torch.autograd.grad(ours, list(parameters.values()))

    assert abs(theirs.item() - math.log(2)) > 0.01
    assert ours.item() == pytest.approx(theirs.item(), abs=LOSS_ROUNDING)
    assert all(gradient.abs().max() > 1e-5 for gradient in their_gradients)
    mine, other = (
        torch.cat([gradient.flatten() for gradient in side])
        for side in (our_gradients, their_gradients)
    )
    assert (mine - other).norm() < tiny.ROUNDING * other.norm()


def test_the_stored_reference_is_not_the_base_model(writer):
    """With the adapter switched off the reference would be another: the trap this guards."""
    texts = CHOSEN[: len(tiny.QUERIES)], REJECTED[: len(tiny.QUERIES)]
    stored = torch.tensor(writer.score_pairs(tiny.QUERIES, *texts))
    base = torch.tensor(tiny.writer().score_pairs(tiny.QUERIES, *texts))
    assert (stored - base).abs().max() > 0.1

    def loss(reference: torch.Tensor) -> float:
        preferences = [
            Preference(query, chosen, rejected, *logps)
            for query, chosen, rejected, logps in zip(
                tiny.QUERIES, *texts, reference.tolist(), strict=True
            )
        ]
        return writer.dpo_loss(preferences, BETA).item()

    assert loss(stored) == pytest.approx(math.log(2), abs=LOSS_ROUNDING)
    assert abs(loss(base) - math.log(2)) > 1000 * LOSS_ROUNDING
