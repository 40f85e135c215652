"""One small real run of ISR on the embedded world, shared by the tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundling.config import IsrConfig, load_config
from groundling.isr import run_isr

RECIPE = Path(__file__).parents[2] / "recipes" / "toy.yaml"
SMALL: dict[str, object] = {
    "data.toyworld.train_queries": 420,
    "data.toyworld.validation_queries": 60,
    "data.toyworld.test_queries": 60,
    "sft_queries": 220,
    "sft.epochs": 2,
    "prompts_per_round": 64,
    "dpo.batch_size": 8,
    "rounds": 3,
    "checkpoint_every_s": 0.2,
}
"""What makes the toy recipe small enough for the fast tests."""


@pytest.fixture(scope="session")
def small_config() -> IsrConfig:
    return load_config(IsrConfig, RECIPE, SMALL)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, small_config: IsrConfig) -> Path:
    """An undisturbed run of `small_config`."""
    out = tmp_path_factory.mktemp("isr") / "undisturbed"
    run_isr(small_config, out, quiet=True)
    return out
