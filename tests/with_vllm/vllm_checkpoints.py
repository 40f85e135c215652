"""Tiny random checkpoints that vLLM runs: heads of 32, all that a published folder holds.

A published checkpoint ships a processor for video and settings for sampling; both are here, the
settings as unfriendly as they come.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import tiny_families
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from groundling.models.local import Adapter, LocalWriter, Resources

RANK = 4
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_next", "internvl")
"""What vLLM 0.32 runs on a CPU; of Qwen3.5 and Mllama see docs/vllm.md."""

_VIDEO = {
    "Qwen2VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen2_5_VLProcessor": "Qwen2VLVideoProcessor",
    "Qwen3VLProcessor": "Qwen3VLVideoProcessor",
    "InternVLProcessor": "InternVLVideoProcessor",
}
_SIZES = tiny_families.text_sizes
_WIDE = {"hidden_size": 128}


SECOND_END = 90
"""What the checkpoint says ends an answer too, as published ones name several end tokens."""


def write(folder: Path, family: str, monkeypatch: Any) -> None:
    """A checkpoint of the family, the same each time."""
    monkeypatch.setattr(tiny_families, "text_sizes", lambda words: {**_SIZES(words), **_WIDE})
    config, processor = _stock_shape(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    _with_video(processor).save_pretrained(folder)
    if family == "llava_next":
        _name_as_published(folder / "model.safetensors")
    path = folder / "generation_config.json"
    shipped = json.loads(path.read_text(encoding="utf-8"))
    shipped |= {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001}
    shipped |= {"repetition_penalty": 1.05, "eos_token_id": [shipped["eos_token_id"], SECOND_END]}
    path.write_text(json.dumps(shipped), encoding="utf-8")


def writer(folder: Path, max_pixels: int | None = None) -> LocalWriter:
    """The writer that the sampler must agree with, its adapter fresh."""
    resources = Resources(open_image=tiny.picture, max_pixels=max_pixels)
    return LocalWriter.load(folder, adapter=Adapter(RANK, 8, 0), resources=resources)


def _stock_shape(family: str) -> tuple[Any, Any]:
    if family == "qwen2_vl":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
        return tiny.config(tiny.tokenizer(), {**_WIDE, "rope_parameters": rope}, {}), (
            tiny.processor()
        )
    config, processor = tiny_families.FAMILIES[family]()
    if "qwen" in family:
        config.vision_config.out_hidden_size = 128
        sections = [4, 6, 6] if family == "qwen2_5_vl" else [6, 5, 5]
        config.text_config.rope_parameters["mrope_section"] = sections
    if family == "qwen3_vl":
        config.text_config.head_dim = 32
    return config, processor


def _with_video(processor: Any) -> Any:
    name = type(processor).__name__
    if name not in _VIDEO:
        return processor
    parts = {
        "image_processor": processor.image_processor,
        "tokenizer": processor.tokenizer,
        "video_processor": getattr(transformers, _VIDEO[name])(),
        "chat_template": processor.chat_template,
    }
    if name == "InternVLProcessor":
        parts["image_seq_length"] = processor.image_seq_length
    return getattr(transformers, name)(**parts)


def _name_as_published(path: Path) -> None:
    """The names of LLaVA-NeXT's vision tower from before transformers 5, which vLLM looks for."""
    weights = load_file(path)
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value
        for name, value in weights.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})
