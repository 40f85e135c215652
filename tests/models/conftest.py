from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny  # noqa: E402

from groundling.models.local import Adapter, LocalWriter, Resources  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in one order, and no fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor():
    return tiny.processor()


def make_writer(seed: int = 0, **resources) -> LocalWriter:
    """A fresh tiny writer whose pictures are made in memory."""
    return LocalWriter.from_parts(
        tiny.model(seed),
        tiny.processor(),
        adapter=Adapter(rank=4, alpha=8, seed=seed),
        resources=Resources(open_image=tiny.picture, **resources),
    )


def move(writer: LocalWriter, seed: int = 1, size: float = 0.05) -> None:
    """Push the adapter away from its start, as training would."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in writer.trainable().values():
            parameter += size * torch.randn(parameter.shape, generator=draws)


@pytest.fixture
def writer() -> LocalWriter:
    """A tiny writer whose adapter has already moved."""
    made = make_writer()
    move(made)
    return made
