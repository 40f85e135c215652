"""One small real run of ISR on the embedded world, shared by the tests that look at it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from groundling.config import IsrConfig, dump_yaml, load_config

RECIPE = Path(__file__).parents[2] / "recipes" / "toy.yaml"
SMALL: dict[str, object] = {
    "data.toyworld.train_queries": 480,
    "data.toyworld.validation_queries": 60,
    "data.toyworld.test_queries": 60,
    "sft_queries": 320,
    "sft.epochs": 5,
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
    """An undisturbed run of `small_config`, by the command and in a process of its own.

    What other tests did to this process (its threads above all) could change the last bits.
    """
    folder = tmp_path_factory.mktemp("isr")
    recipe, out = folder / "small.yaml", folder / "undisturbed"
    recipe.write_text(dump_yaml(small_config))
    command = [sys.executable, "-m", "groundling", "isr", "--quiet", "--config", str(recipe)]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out
