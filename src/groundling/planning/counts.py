"""How many examples each stage goes through."""

from __future__ import annotations

from dataclasses import dataclass

from groundling.config import IsrConfig

PAPER_TRAIN = (11457, 4449)
"""Training entities and groundable ones (ISR Table 5), where the data is not at hand."""

PAPER_EVALUATED = 2406 + 2543
"""Validation and test entities (ISR Table 5)."""

GROUNDABLE_SHARE = 4449 / 11457
"""Share of groundable entities, assumed of the embedded world too."""


@dataclass(frozen=True, slots=True)
class Counts:
    """`grounded` examples tune the grounder, `prompts` are drawn a round, `evaluated` each time."""

    grounded: int
    sft: int
    prompts: int
    evaluated: int


def counts_of(config: IsrConfig, train: tuple[int, int] | None) -> Counts:
    """From the recipe; `train` are the entities and groundable entities of data at hand."""
    world = config.data.toyworld
    if world is not None:
        queries, grounded = world.train_queries, round(world.train_queries * GROUNDABLE_SHARE)
        evaluated = world.validation_queries + world.test_queries
    else:
        (queries, grounded), evaluated = train or PAPER_TRAIN, PAPER_EVALUATED
    sft = min(config.sft_queries, queries)
    left = queries - sft
    prompts = left if config.prompts_per_round is None else min(config.prompts_per_round, left)
    return Counts(grounded, sft, prompts if config.rounds else 0, evaluated)
