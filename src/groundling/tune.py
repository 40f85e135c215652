"""The three updates of ISR: the grounder (eq. 2), the writer's start (eq. 3), a round (eq. 8).

Each is one call of the optimiser loop that leaves its weights in a stage's artefacts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from groundling.config import DpoOptimiser, Optimiser
from groundling.corpus import Case
from groundling.models.base import (
    Demonstration,
    Grounder,
    GroundingExample,
    Preference,
    Trainable,
    Writer,
)
from groundling.progress import Progress
from groundling.stage import Stage
from groundling.train import Checkpoint, FitSummary, StepReport, equal_pace, equal_weight, fit

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manner:
    """How a fit is run, beside what it optimises."""

    seed: int
    checkpoint_every_s: float = 20.0
    quiet: bool = False


def tune_grounder(
    stage: Stage,
    grounder: Grounder,
    cases: Sequence[Case],
    experts: Mapping[str, str],
    optimiser: Optimiser,
    how: Manner,
) -> None:
    """Fine-tune on D_VG (eq. 1): the expert expression and largest box of what is groundable."""
    examples = [
        GroundingExample(case.query.image, experts[case.query.id], case.entity.largest_box)
        for case in cases
        if case.entity.largest_box is not None
    ]
    fit_stage(stage, grounder, grounder.loss, examples, optimiser, how)
    with stage.write_folder("grounder") as folder:
        grounder.save(folder)


def start_writer(
    stage: Stage,
    writer: Writer,
    cases: Sequence[Case],
    experts: Mapping[str, str],
    optimiser: Optimiser,
    how: Manner,
) -> None:
    """Fine-tune on D_SFT (eq. 3): π_0."""
    examples = [Demonstration(case.query, experts[case.query.id]) for case in cases]
    fit_stage(
        stage,
        writer,
        writer.sft_loss,
        examples,
        optimiser,
        how,
        lambda example: len(example.expression),
        lambda example: writer.answer_tokens(example.expression),
    )
    with stage.write_folder("writer/round-0") as folder:
        writer.save_adapter(folder)


def update_writer(
    stage: Stage,
    writer: Writer,
    preferences: Sequence[Preference],
    optimiser: DpoOptimiser,
    round_: int,
    how: Manner,
) -> None:
    """One round of DPO against the stored π_{t−1} (eq. 8): π_t."""

    def loss(batch: Sequence[Preference]) -> torch.Tensor:
        return writer.dpo_loss(batch, optimiser.beta)

    fit_stage(
        stage,
        writer,
        loss,
        preferences,
        optimiser,
        how,
        lambda example: len(example.chosen) + len(example.rejected),
    )
    with stage.write_folder(f"writer/round-{round_}") as folder:
        writer.save_adapter(folder)


def fit_stage(
    stage: Stage,
    model: Trainable,
    loss: Callable[[Sequence[T]], torch.Tensor],
    examples: Sequence[T],
    optimiser: Optimiser,
    how: Manner,
    length: Callable[[T], int] | None = None,
    weight: Callable[[T], float] = equal_weight,
    pace: Callable[[str], float] = equal_pace,
    after_epoch: Callable[[int], bool] | None = None,
    folder: Path | None = None,
) -> FitSummary:
    """`train.fit` within a stage: a progress line, an event, checkpoints in its scratch.

    A stage of several fits names a `folder` there for each.
    """
    with Progress(stage.name, unit="steps", quiet=how.quiet) as progress:

        def report(step: StepReport) -> None:
            progress.at(step.step, step.steps, f"loss {step.loss:.3f}")

        summary = fit(
            model,
            loss,
            examples,
            optimiser,
            seed=how.seed,
            checkpoint=Checkpoint(
                (folder or stage.scratch) / "fit.safetensors", how.checkpoint_every_s
            ),
            on_step=report,
            length=length,
            weight=weight,
            pace=pace,
            after_epoch=after_epoch,
        )
    tail = summary.losses[-20:]
    stage.event(
        "fitted",
        examples=len(examples),
        steps=len(summary.losses),
        first_loss=summary.losses[0] if summary.losses else None,
        last_loss=sum(tail) / len(tail) if tail else None,
    )
    return summary
