"""Every family that vLLM runs: the writer's prompts, its log-probabilities, its adapter.

`./run test-vllm`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import vllm_checkpoints
from overheard import Overheard, distances

from groundling.errors import InputError
from groundling.models.base import Sampling
from groundling.models.vllm_sampler import VllmSampler

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

NEAR = 5e-4
"""Nats that the sum over an answer's tokens may differ by; the largest seen is 1.05e-4."""
LIMITED = [(family, 3136) for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")]


def load(folder: Path, max_pixels: int | None = None) -> VllmSampler:
    return VllmSampler.load(
        str(folder),
        rank=vllm_checkpoints.RANK,
        dtype="float32",
        max_pixels=max_pixels,
        memory_share=0.2,
        longest=256,
        open_image=tiny.picture,
    )


@pytest.mark.parametrize(
    ("family", "max_pixels"), [*((name, None) for name in vllm_checkpoints.FAMILIES), *LIMITED]
)
def test_it_is_the_writer(
    family: str, max_pixels: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_checkpoints.write(tmp_path / "checkpoint", family, monkeypatch)
    writer = vllm_checkpoints.writer(tmp_path / "checkpoint", max_pixels)
    tiny.move(writer, size=0.2)
    writer.save_adapter(tmp_path / "adapter")
    sampler = load(tmp_path / "checkpoint", max_pixels)
    try:
        for adapter in (tmp_path / "adapter", None):
            if adapter is None:
                writer.restart_adapter(0)
            with monkeypatch.context() as patch:
                heard = Overheard(sampler, patch)
                sampler.follow(adapter)
                sampler.sample(tiny.QUERIES, 4, Sampling(0.8, 24), 0, "writer:x/0")
            prompts = tiny.prompts(writer, tiny.QUERIES)
            assert heard.prompts() == [prompt.ids for prompt in prompts]
            apart = distances(writer, tiny.QUERIES, heard)
            assert len(apart) >= 12
            assert max(apart) < NEAR
    finally:
        sampler.close()


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_checkpoints.write(tmp_path, "llava_next", monkeypatch)
    with pytest.raises(InputError, match="max_pixels: not known to vLLM for llava_next"):
        load(tmp_path, max_pixels=3136)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)  # would take its place
    with pytest.raises(InputError, match=r"memory_share 0\.999 and longest 256: Available memory"):
        VllmSampler.load(str(tmp_path), rank=4, memory_share=0.999, longest=256)
    with pytest.raises(InputError, match=r"memory_share 0\.2 and longest 5000: .*max_model_len"):
        VllmSampler.load(str(tmp_path), rank=4, memory_share=0.2, longest=5000)
