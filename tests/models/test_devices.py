"""No tensor is left behind on the CPU when a model computes elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_families
import torch
from PIL import Image
from pretend_gpu import DEVICE, Away, pretended, sent
from tiny_detectors import tiny_dino, tiny_florence2, tiny_mm_dino
from tiny_ofa import tiny_ofa

from groundling.models.base import GREEDY, Demonstration, GroundingExample, Preference, Sampling
from groundling.models.detectors import DinoGrounder, FlorenceGrounder
from groundling.models.local import Adapter, LocalWriter
from groundling.models.ofa import OFAGrounder
from groundling.records import Box, Expression, Grounded, Query

GROUNDERS: dict[str, tuple[Any, Any]] = {
    "dino": (tiny_dino, DinoGrounder.load),
    "mm-dino": (tiny_mm_dino, DinoGrounder.load),
    "ofa": (tiny_ofa, OFAGrounder.load),
    "florence2": (tiny_florence2, lambda path: FlorenceGrounder.load(path, max_new_tokens=8)),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate([(64, 48), (90, 48)]):
        Image.linear_gradient("L").convert("RGB").resize(size).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(2)]


def test_the_pretence() -> None:
    with pretended():
        here, away = torch.ones(3), torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="aten::add: tensors of two devices"):
            here + away
        assert isinstance(away + 1, Away)
        assert (away + here.to(DEVICE)).tolist() == [2, 2, 2]
        assert (away * 2).cpu().sum().item() == 6
        assert torch.tensor([1, 2], device=DEVICE).tolist() == [1, 2]
        assert away[torch.tensor([0, 1])].tolist() == [1, 1], "as a GPU allows"
        assert isinstance(away.add_(1), Away)
        assert away.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "name",
    [name if name == "ofa" else pytest.param(name, marks=pytest.mark.slow) for name in GROUNDERS],
)
def test_grounders(name: str, pictures: list[str], tmp_path: Path) -> None:
    make, load = GROUNDERS[name]
    folder = make(tmp_path / "model")
    requests = [(path, words) for path in pictures for words in ("the man", "a red square")]
    examples = [GroundingExample(path, words, Box(2, 2, 40, 30)) for path, words in requests]
    here, away = load(folder), load(folder)
    sent(away.model)
    with pretended():
        found = away.ground(requests)
        lost = 0.0 if name == "florence2" else away.loss(examples).item()
    for one, other in zip(found, here.ground(requests), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Grounded) and isinstance(other, Grounded):
            assert one.box.xyxy == pytest.approx(other.box.xyxy, abs=1e-3)
            assert one.score == pytest.approx(other.score, abs=1e-5)
    assert lost >= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tiny_families.FAMILIES))
def test_writers(name: str, pictures: list[str]) -> None:
    """Qwen2-VL by hand, the others by the stock engine."""

    def writer() -> LocalWriter:
        model, processor = tiny_families.build(name)
        return LocalWriter.from_parts(
            model if here else sent(model), processor, adapter=Adapter(4, 8.0, 0)
        )

    queries = [Query(f"{i}#0", path, "Ann", "PER") for i, path in enumerate(pictures)]
    demonstrations = [Demonstration(query, "a man") for query in queries]
    preferences = [Preference(query, "a man", "the", -1.0, -2.0) for query in queries]
    results = []
    for here in (True, False):
        with torch.no_grad() if here else pretended():
            made = writer()
            if not here:
                sent(made.model)  # its adapter
            rows = made.sample(queries, 2, Sampling(0.8, 6), 0, "writer:t/0")
            rows += made.sample(queries, 1, GREEDY, 0, "writer:t/0")
            numbers = [
                *(made.score_pairs(queries, ["a man", "b"], ["c", "the red square"])),
                made.sft_loss(demonstrations).item(),
                made.dpo_loss(preferences, 0.5).item(),
            ]
        results.append((rows, numbers))
    (rows, numbers), (far_rows, far_numbers) = results
    for row, far_row in zip(rows, far_rows, strict=True):
        assert isinstance(row, list)
        assert isinstance(far_row, list)
        assert all(isinstance(one, Expression) for one in row)
        assert [one.text for one in row] == [one.text for one in far_row]
    for number, far in zip(numbers, far_numbers, strict=True):
        assert far == pytest.approx(number, rel=1e-3)
