from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

for folder in (Path(__file__).parents[1] / "models", Path(__file__).parents[1]):
    sys.path.insert(0, str(folder))


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in one order, and no fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
