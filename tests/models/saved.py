"""Counts what a forward pass keeps for its backward pass, and a writer of every family to run."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tiny
import tiny_families
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from groundling.models.base import Preference
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.records import Query

CHOSEN = "the man on the left of the picture in a blue shirt"
REJECTED = "the woman with black hair on the right"


class _Box:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Saved:
    """Bytes of the distinct storages that are alive for the backward pass, parameters left out."""

    def __init__(self, model: torch.nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self._own = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._boxes: list[weakref.ref[_Box]] = []
        self.counting = True

    def pack(self, tensor: torch.Tensor) -> _Box:
        """Note a tensor that autograd wants to keep."""
        box = _Box(tensor)
        if self.counting:
            self._boxes.append(weakref.ref(box))
        return box

    @property
    def size(self) -> int:
        """Bytes alive now."""
        found = {}
        for reference in self._boxes:
            if (box := reference()) is not None:
                storage = box.tensor.untyped_storage()
                if storage.data_ptr() not in self._own:
                    found[storage.data_ptr()] = storage.nbytes()
        return sum(found.values())


@contextmanager
def counting(model: torch.nn.Module) -> Iterator[Saved]:
    """Inside, everything that is kept for a backward pass is noted."""
    saved = Saved(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda box: box.tensor):
        yield saved


@contextmanager
def counting_text(model: Any) -> Iterator[Saved]:
    """The same from the language model on: the frozen tower before it is left out."""
    with counting(model) as saved:
        saved.counting = False

        def begin(*_: object) -> None:
            saved.counting = True

        hook = model.get_base_model().model.language_model.register_forward_pre_hook(begin)
        try:
            yield saved
        finally:
            hook.remove()


_SIZES = tiny_families.text_sizes


def _sizes(words: Any) -> dict[str, Any]:
    """Wide enough that what is kept is not mostly odds and ends."""
    return {
        **_SIZES(words),
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    }


def configuration(family: str, monkeypatch: Any) -> tuple[Any, Any]:
    """The tiny configuration of a family at four wider layers, and its processor."""
    monkeypatch.setattr(tiny_families, "text_sizes", _sizes)
    words = tiny.tokenizer()
    if family == "qwen2_vl":
        text = {name: value for name, value in _sizes(words).items() if not name.endswith("_id")}
        return tiny.config(words, {**text, "rope_parameters": tiny_rope()}, {}), tiny.processor()
    if family == "qwen3_5":
        linear = {
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
            "partial_rotary_factor": 1.0,
        }
        return tiny_families._qwen3(tiny_families.Qwen3_5Config, linear, {"out_hidden_size": 64})
    if family == "qwen3_vl":
        tower = {"out_hidden_size": 64, "deepstack_visual_indexes": [0]}
        return tiny_families._qwen3(tiny_families.Qwen3VLConfig, {}, tower)
    config, processor = tiny_families.FAMILIES[family]()
    if family == "qwen2_5_vl":
        config.vision_config.out_hidden_size = 64
    return config, processor


def tiny_rope() -> dict[str, Any]:
    """Rotary settings of `tiny`."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


def build(family: str, monkeypatch: Any) -> tuple[Any, Any]:
    """A random model of that configuration in evaluation mode, and its processor."""
    config, processor = configuration(family, monkeypatch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    return model.eval(), processor


def writer(
    family: str,
    monkeypatch: Any,
    dtype: torch.dtype,
    rank: int,
    checkpointing: bool,
    targets: Sequence[str] | None = None,
) -> LocalWriter:
    """A random writer of the family that runs through its own forward pass."""
    model, processor = build(family, monkeypatch)
    picture = Image.new("RGB", (112, 112), (90, 120, 30))
    resources = Resources(open_image=lambda _: picture, checkpointing=checkpointing, engine="stock")
    adapter = Adapter(rank, 8.0, 0, targets)
    return LocalWriter.from_parts(model.to(dtype), processor, adapter=adapter, resources=resources)


def preferences(count: int) -> Sequence[Preference]:
    """Pairs about as many pictures."""
    return [
        Preference(Query(f"q{i}", f"p{i}", "Neymar", "PER"), CHOSEN, REJECTED, -5.0, -6.0)
        for i in range(count)
    ]
