from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

for folder in (Path(__file__).parent, Path(__file__).parents[1]):
    sys.path.insert(0, str(folder))

import client_calls  # noqa: E402
import tiny  # noqa: E402

from groundling.models.local import LocalWriter  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in one order, and no fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key where clients look for it."""
    monkeypatch.setenv("OPENAI_API_KEY", client_calls.KEY)


@pytest.fixture(scope="module")
def processor():
    return tiny.processor()


@pytest.fixture
def writer() -> LocalWriter:
    """A tiny writer whose adapter has already moved."""
    made = tiny.writer()
    tiny.move(made)
    return made
