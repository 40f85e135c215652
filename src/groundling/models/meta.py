"""Models without weights: their sizes and numbers of parameters, read off the meta device.

What is built here holds no numbers at all, so a plan for 90 billion parameters takes a second.
Configurations come from a folder's config.json, from the published ones in `assets/configs` by
their hub name, or from the hub's local cache; nothing is downloaded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForZeroShotObjectDetection,
)
from transformers.utils import cached_file

from groundling.config import GrounderConfig, WriterConfig
from groundling.errors import InputError
from groundling.models import lora
from groundling.models.families import Family, family_of
from groundling.models.ofa.config import SIZES, OFAConfig, published
from groundling.models.ofa.decoder import CODE_ONLY
from groundling.models.ofa.model import OFAModel
from groundling.models.qwen2vl import runs_by_hand
from groundling.models.registry import packaged
from groundling.models.weights import stored_shapes
from groundling.planning.outline import (
    BLOCK,
    ChatOutline,
    GrounderOutline,
    OfaOutline,
    PlainOutline,
    TextShape,
    TrunkStage,
    VisionShape,
)
from groundling.strict_json import parse_json

Facts = dict[str, Any]
"""A config.json."""


def outline_writer(config: WriterConfig, targets: Sequence[str] | None = None) -> ChatOutline:
    """The sizes of a writer whose adapter is on `targets`, as in `LoraConfig`.

    Raises InputError where its configuration cannot be found or used.
    """
    return _chat_outline(config.path or str(packaged("writer")), _fixed(targets))


def outline_grounder(config: GrounderConfig) -> GrounderOutline:
    """The sizes of a grounder. Raises InputError where its configuration cannot be found."""
    if config.backend == "tiny":
        folder = Path(config.path) if config.path else packaged("grounder")
        count = _stored_parameters(folder / "model.safetensors")
        return PlainOutline("the embedded grounder", count, count)
    assert config.path is not None
    if config.backend == "ofa":
        return outline_ofa(config.path)
    if config.backend == "vlm":
        return _chat_outline(config.path, _fixed(config.lora.targets))
    return _detector_outline(config.path)


@lru_cache(maxsize=32)
def _chat_outline(path: str, targets: tuple[str, ...] | None) -> ChatOutline:
    return outline_chat(path, find_facts(path), targets)


def outline_chat(name: str, facts: Facts, targets: Sequence[str] | None = None) -> ChatOutline:
    """The sizes of the multimodal language model that a config.json describes.

    Raises InputError for a family that is not supported and for targets that it does not have.
    """
    config = _open_config(name, facts)
    family = family_of(config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    model.tie_weights()
    return read_outline(name, model, family, targets)


def read_outline(
    name: str, model: Any, family: Family, targets: Sequence[str] | None = None
) -> ChatOutline:
    """The sizes of a model in memory, on whichever device."""
    layers = dict(model.model.named_modules(prefix="model"))
    adapted = lora.linear_layers(model, family.lora_targets(model, targets))
    packed = lora.linear_layers(model, family.linear_layers).values()
    tower = getattr(model.model, "visual", None) or getattr(model.model, "vision_tower", None)
    tower = tower if tower is not None else model.model.vision_model
    return ChatOutline(
        name=name,
        model_type=model.config.model_type,
        parameters=_count(model),
        linear=sum(module.weight.numel() for module in packed),
        largest=max(module.weight.numel() for module in packed),
        vision_parameters=_count(tower),
        adapter_width=sum(module.in_features + module.out_features for module in adapted.values()),
        adapted=len(adapted),
        text=_text_shape(model.config, layers, adapted),
        vision=_vision_shape(model.config, tower),
        packs=family.packs,
        by_hand=runs_by_hand(model.config),
    )


def _fixed(targets: Sequence[str] | None) -> tuple[str, ...] | None:
    """Targets as something that can be remembered by."""
    return None if targets is None else tuple(targets)


def _text_shape(
    config: Any, layers: dict[str, nn.Module], adapted: dict[str, nn.Linear]
) -> TextShape:
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or []
    return TextShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
        head_norms=any(path.endswith("self_attn.q_norm") for path in layers),
        crossing=len(getattr(text, "cross_attention_layers", None) or []),
        recurrent=sum(kind == "linear_attention" for kind in kinds),
        adapted=frozenset(path.rpartition(".")[2] for path in adapted) & BLOCK,
        recurrent_width=getattr(text, "linear_num_value_heads", 0)
        * getattr(text, "linear_value_head_dim", 0),
        deep=len(getattr(config.vision_config, "deepstack_visual_indexes", None) or []),
    )


def _vision_shape(config: Any, tower: nn.Module) -> VisionShape:
    vision = config.vision_config
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(hidden * vision.mlp_ratio)
    shuffled = round(1 / getattr(config, "downsample_ratio", 1))  # InternVL's pixel shuffle
    merge = getattr(vision, "spatial_merge_size", None) or shuffled
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    hands_on_all = hasattr(vision, "intermediate_layers_indices")  # Mllama
    return VisionShape(
        hidden=hidden,
        inner=inner,
        patches=merge**2,
        unit_px=patch * merge,
        rotary=hasattr(tower, "rotary_pos_emb"),
        kept=vision.num_hidden_layers + vision.num_global_layers if hands_on_all else 0,
    )


@lru_cache(maxsize=8)
def outline_ofa(path: str) -> OfaOutline:
    """The sizes of an OFA checkpoint. Raises InputError where its configuration is missing."""
    facts = find_facts(path)
    config = OFAConfig(**{key: value for key, value in facts.items() if key[:1] != "_"})
    with torch.device("meta"):
        model = OFAModel(config)
    model.tie_weights()
    unused = tuple(f"decoder.{name}." for name in CODE_ONLY)
    trained = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(unused))
    return OfaOutline(
        name=path,
        parameters=_count(model),
        trained=trained,
        trunk_parameters=_count(model.encoder.embed_images),
        side_px=config.patch_image_size or _published_side(config),
        hidden=config.d_model,
        heads=config.encoder_attention_heads,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        inner=config.encoder_ffn_dim,
        vocabulary=config.vocab_size,
        stem=config.resnet_width,
        stages=tuple(
            TrunkStage(blocks, config.resnet_width * 2**level, 1 if level == 0 else 2)
            for level, blocks in enumerate(config.trunk_depths)
        ),
    )


def _published_side(config: OFAConfig) -> int:
    for size in SIZES:
        one = published(size)
        if (one.d_model, one.encoder_layers) == (config.d_model, config.encoder_layers):
            return int(one.patch_image_size or 512)
    return 512


@lru_cache(maxsize=8)
def _detector_outline(path: str) -> PlainOutline:
    config = _open_config(path, find_facts(path))
    kind = (
        AutoModelForZeroShotObjectDetection
        if config.model_type == "grounding-dino"
        else AutoModelForImageTextToText
    )
    with torch.device("meta"):
        model = kind.from_config(config, attn_implementation="eager")
    model.tie_weights()
    return PlainOutline(path, _count(model), _count(model))


def find_facts(path: str) -> Facts:
    """The config.json of a folder, of a published checkpoint, or of the hub's local cache.

    Raises InputError where there is none.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        return _read(file)
    if path in published_names():
        return _read(published_names()[path])
    try:
        found = cached_file(path, "config.json", local_files_only=True)
    except (OSError, ValueError):
        found = None
    if found is None:
        known = ", ".join(sorted(published_names()))
        raise InputError(
            f"{path}: no config.json here or in the hub's cache, and not a published model that is "
            f"known; download its config.json into a folder and name that, or use one of {known}"
        )
    return _read(Path(found))


@lru_cache(maxsize=1)
def published_names() -> dict[str, Path]:
    """Hub names whose configuration comes with the package, and where it lies."""
    folder = Path(str(resources.files("groundling"))) / "assets" / "configs"
    names = {f"OFA-Sys/ofa-{size}": folder / "ofa" / f"{size}.json" for size in SIZES}
    for file in sorted(folder.glob("*/*.json")):
        names |= dict.fromkeys(_read(file).get("_hub", []), file)
    return names


def _read(file: Path) -> Facts:
    try:
        facts = parse_json(file.read_bytes())
    except (OSError, ValueError) as fault:
        raise InputError(f"{file}: cannot be read as JSON ({fault})") from fault
    if not isinstance(facts, dict):
        raise InputError(f"{file}: wanted a JSON object, as in a checkpoint's config.json")
    return facts


def _open_config(name: str, facts: Facts) -> Any:
    own = {key: value for key, value in facts.items() if key[:1] != "_"}
    try:
        return AutoConfig.for_model(own.pop("model_type"), **own)
    except (KeyError, ValueError, TypeError) as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{name}: config.json describes no known model: {reason}") from fault


def _count(model: nn.Module) -> int:
    """Parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _stored_parameters(file: Path) -> int:
    """Numbers in a safetensors file, by its header alone."""
    return sum(math.prod(shape) for _, shape in stored_shapes(file).values())


# ----------------------------------------------------------------------------------------- devices


def free_memory(device: str) -> tuple[str, int]:
    """The name of a device and its free bytes: of a GPU, or else what the host has available."""
    wanted = "cuda" if device == "auto" and torch.cuda.is_available() else device
    if wanted.startswith("cuda") and torch.cuda.is_available():
        place = torch.device(wanted)
        free, _ = torch.cuda.mem_get_info(place)
        return torch.cuda.get_device_name(place), int(free)
    return "cpu", _host_memory()


def _host_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    raise InputError("the free memory of this machine cannot be told; pass --device-memory GIB")


def measure_flops(dtype: str, side: int = 1024, seconds: float = 0.2) -> float:
    """Floating-point operations a second of a square matrix product on this machine's CPU."""
    matrix = torch.rand(side, side, dtype=getattr(torch, dtype))
    matrix @ matrix
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        matrix @ matrix
        done += 1
    return done * 2 * side**3 / (time.perf_counter() - began)
