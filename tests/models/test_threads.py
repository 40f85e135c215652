"""Tiny models compute with one thread, unless the user says otherwise; larger ones keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from groundling import baselines, isr
from groundling.config import (
    DataConfig,
    DirectConfig,
    GrounderConfig,
    IsrConfig,
    ToyworldData,
    WriterConfig,
)
from groundling.ground import EntityGrounder
from groundling.models.registry import compute_threads, few_threads

TINY = (WriterConfig(), GrounderConfig())
LARGE = WriterConfig(backend="local", path="Qwen/Qwen2-VL-7B-Instruct")
WORLD = DataConfig(toyworld=ToyworldData())


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, as on a machine with two cores where the user has said nothing."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class ToldError(Exception):
    """Ends what computes, with the number of threads that it would have computed with."""


def tell(*_: object, **__: object) -> None:
    raise ToldError(compute_threads())


def test_tiny_models_take_one_thread_and_give_the_others_back() -> None:
    with few_threads(*TINY):
        assert compute_threads() == 1
    assert compute_threads() == 2
    with pytest.raises(ToldError), few_threads(*TINY):
        raise ToldError
    assert compute_threads() == 2


@pytest.mark.parametrize("models", [(LARGE, GrounderConfig()), (LARGE,), ()])
def test_one_larger_model_keeps_the_threads(models: tuple[WriterConfig, ...]) -> None:
    with few_threads(*models):
        assert compute_threads() == 2


def test_the_users_own_number_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with few_threads(*TINY):
        assert compute_threads() == 2


def test_a_run_of_tiny_models_takes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From before its directory is made, whose record names the threads."""
    monkeypatch.setattr(isr.Workbench, "open", tell)
    with pytest.raises(ToldError, match="1"):
        isr.run_isr(IsrConfig(data=WORLD), tmp_path / "isr")
    monkeypatch.setattr(baselines.RunDir, "open", tell)
    with pytest.raises(ToldError, match="1"):
        baselines.run_direct(DirectConfig(data=WORLD), tmp_path / "direct")


def test_an_answer_of_tiny_models_takes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    model = EntityGrounder.load()
    monkeypatch.setattr(model.writer, "sample", tell)
    with pytest.raises(ToldError, match="1"):
        model.ground(tmp_path / "a.png", [("Mara Quill", "PER")])
    assert compute_threads() == 2
