"""Peaks of memory at full size without the memory: models of numbers that do not exist.

A model is built on the meta device and its parameters are replaced by fake tensors, which have
shapes, types and storages but no numbers (`torch._subclasses.fake_tensor`). The code under test
then runs as it always does, forward and backward, and `Meter` adds up the storages that are alive.
Token ids and masks stay real, for what is done next depends on them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tiny_families
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForImageTextToText

from groundling.models import decoding, lora, meta, stock
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.planning.outline import ChatOutline

GIB = 1 << 30
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
_ATEN = torch.ops.aten


class Meter(TorchDispatchMode):
    """Bytes of the storages that come to be inside and are alive; `held` ones are not counted.

    Where there are fake tensors they are what is on the device, and real ones belong to the host.
    Two things are added that happen on a GPU only: attention's mask is copied to align its rows
    (`preprocess_mask` in torch's attention.cpp), and, by `act_as_on_a_gpu`, AdamW's step takes all
    parameters at once. `grain` is what the allocator rounds sizes up to, in bytes.
    """

    def __init__(self, *held: torch.Tensor, grain: int = 512) -> None:
        super().__init__()
        self._grain = grain
        self.now = self.peak = 0
        self._alive = {_key(tensor) for tensor in held}
        self._held = held
        self._fakes_alone = any(isinstance(tensor, FakeTensor) for tensor in held)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATEN._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0  # a loss that is not there
        if func in (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default):
            args = (args[0], _without_masks(args[1]), *args[2:])
        aligned = self._aligned(kwargs.get("attn_mask")) if "flash_attention" in str(func) else None
        result = func(*args, **kwargs)
        del aligned
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return result

    def _aligned(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """What a GPU would make of a mask whose rows are not whole eights of numbers."""
        if mask is None or mask.shape[-1] % 8 == 0 or not self._fakes_alone:
            return None
        with FAKE:
            copy = torch.empty(mask.shape, dtype=mask.dtype)
        self._count(copy)
        return copy

    def _count(self, tensor: torch.Tensor) -> None:
        key = _key(tensor)
        if key in self._alive or (self._fakes_alone and not isinstance(tensor, FakeTensor)):
            return
        storage = tensor.untyped_storage()
        size = -(-storage.nbytes() // self._grain) * self._grain
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _without_masks(index: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """An index whose real masks are given as places: a fake tensor cannot be counted out."""
    places: list[torch.Tensor | None] = []
    for one in index:
        masked = one is not None and one.dtype == torch.bool and not isinstance(one, FakeTensor)
        places += one.nonzero(as_tuple=True) if masked and one is not None else [one]
    return places


def act_as_on_a_gpu(monkeypatch: Any) -> None:
    """AdamW as it runs on a GPU; and answers that are made up, for logits without numbers say none.

    They never end, and no two of them are alike.
    """
    draws = np.random.default_rng(0)
    choose = decoding.choose

    def made_up(logits: Any, holders: torch.Tensor, *rest: Any) -> Any:
        choose(logits, holders, *rest)
        tokens = torch.from_numpy(draws.integers(300, 500, len(holders)))
        return tokens, torch.zeros(len(holders))

    monkeypatch.setattr(torch.optim, "AdamW", partial(torch.optim.AdamW, foreach=True))
    monkeypatch.setattr(decoding, "choose", made_up)
    monkeypatch.setattr(stock, "choose", made_up)


def faked(model: nn.Module) -> Any:
    """The model with fake tensors for its parameters and buffers; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            with FAKE:
                new = torch.empty(tensor.shape, dtype=tensor.dtype)
            trained = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if trained else new
        return made[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)  # type: ignore[assignment]
    return model


def tensors_of(model: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def size_of(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of their storages; tied ones count once."""
    return sum({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


# ---------------------------------------------------------------------------------------- writers

HUB = {
    "qwen2_vl": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3_5": "Qwen/Qwen3.5-9B",
    "llava_next": "llava-hf/llava-v1.6-mistral-7b-hf",
    "mllama": "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "internvl": "OpenGVLab/InternVL2_5-8B",
}
SIDES_PX = {"llava_next": (672, 672), "mllama": (1120, 1120), "internvl": (1792, 1344)}
"""Pictures that take all tiles; those of the other families are 1120 × 704."""

MOST_PX = 12 * 448**2


def sides_of(family: str) -> tuple[int, int]:
    """Width and height of the family's pictures."""
    return SIDES_PX.get(family, (1120, 704))


def cut(facts: dict[str, Any], layers: int) -> dict[str, Any]:
    """A config.json of fewer layers, their widths as they are, and a tower of three."""
    text = dict(facts.get("text_config", facts)) | {"num_hidden_layers": layers}
    for key in ("layer_types", "cross_attention_layers"):
        if key in text:
            text[key] = [one for place, one in enumerate(text[key]) if _within(one, place, layers)]
    vision = dict(facts["vision_config"])
    if "intermediate_layers_indices" in vision:  # all of its layers count
        return {**facts, "text_config": text}
    vision["depth" if "depth" in vision else "num_hidden_layers"] = 3
    vision |= {"fullatt_block_indexes": [2]} if "fullatt_block_indexes" in vision else {}
    if vision.get("deepstack_visual_indexes"):
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    whole = {"text_config": text} if "text_config" in facts else text
    return {**facts, **whole, "vision_config": vision}


def _within(one: int | str, place: int, layers: int) -> bool:
    return (one if isinstance(one, int) else place) < layers


def writer(
    family: str,
    monkeypatch: Any,
    *,
    layers: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    checkpointing: bool = False,
    batch_size: int = 4,
    targets: Sequence[str] | None = None,
) -> tuple[LocalWriter, ChatOutline]:
    """A writer of published widths without numbers, rank 32, and its outline.

    Its tokenizer is tiny and its pictures are grey. `layers` None leaves it whole.
    """
    tiny_config, processor = tiny_families.FAMILIES[family]()
    names = [name for name in vars(tiny_config) if name.endswith(("_token_id", "_token_index"))]
    ids = {name: getattr(tiny_config, name) for name in names if name.startswith(("im", "vi"))}
    facts = meta.find_facts(HUB[family]) | ids
    facts = facts if layers is None else cut(facts, layers)
    _enlarge(processor, family)
    known = {name: value for name, value in facts.items() if name[:1] != "_"}
    config = AutoConfig.for_model(known.pop("model_type"), **known)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, attn_implementation="sdpa", dtype=dtype
        )
    model.tie_weights()
    attach = lora.attach
    picture = Image.new("RGB", sides_of(family), (90, 120, 30))
    with monkeypatch.context() as patch:
        patch.setattr(lora, "attach", lambda *args: faked(attach(*args)))
        made = LocalWriter.from_parts(
            model.eval(),
            processor,
            adapter=Adapter(32, 64.0, 0, targets),
            resources=Resources(
                batch_size=batch_size,
                max_pixels=MOST_PX,
                open_image=lambda _: picture,
                checkpointing=checkpointing,
            ),
        )
    return made, meta.outline_chat(HUB[family], facts, targets)


def _enlarge(processor: Any, family: str) -> None:
    """Give a tiny processor the tiles of the published one."""
    pixels = processor.image_processor
    size = type(pixels.size)
    if family == "llava_next":
        pixels.size, pixels.crop_size = size(shortest_edge=336), size(height=336, width=336)
    elif family == "mllama":
        pixels.size = size(height=560, width=560)
    elif family == "internvl":
        pixels.size, processor.image_seq_length = size(height=448, width=448), 256


def expression(writer: LocalWriter, tokens: int, letter: str) -> str:
    """A text of that many tokens with its end."""
    text = letter * (tokens - 1)
    assert writer.answer_tokens(text) == tokens
    return text
