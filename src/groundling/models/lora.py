"""One LoRA adapter, named `default`, on every linear layer of a language model (Hu et al. 2021).

The adapter starts from a seed of its own, is stored in PEFT's layout, and is replaced in place.
A shared module, no backend.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from groundling import team
from groundling.errors import InputError

NAME = "default"
"""PEFT's own default name; TRL takes π_ref to be π_{t−1} only for an adapter of this name."""

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Every linear layer of the language model's blocks, never the vision's; matched in full."""

MERGE_LIMIT = 500_000_000
"""Largest number of adapted weights for which `merged` keeps a second copy of them."""


def attach(model: Any, rank: int, alpha: float, seed: int, targets: str = TARGETS) -> Any:
    """Wrap `model` with a fresh adapter that changes nothing yet; freeze all the rest.

    `targets` is a pattern that the names of the adapted layers match in full.
    """
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT still asks by the name that transformers 5.23 has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        wrapped = get_peft_model(model, settings, adapter_name=NAME)
    restart(wrapped, seed)
    return wrapped.eval()


def restart(model: Any, seed: int) -> None:
    """Return the adapter to its beginning: A uniform as PEFT draws it, B zero.

    The draws are made on the CPU, so that every device starts alike.
    """
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in _layers(model):
            down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            bound = 1 / math.sqrt(down.shape[1])  # kaiming_uniform with a = √5
            team.fill(down, torch.empty(down.shape).uniform_(-bound, bound, generator=draws))
            up.zero_()


def parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by their name in the wrapped model, in a stable order."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def save(model: Any, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors; `PeftModel` opens them unaided.

    A base model that lay in a folder is named by that folder alone, not by where it was. Every
    process of a team calls this; the leader writes.
    """
    settings: dict[str, Any] = {}
    if team.is_sharded(model):
        settings["state_dict"] = {
            name: team.whole(value.detach()).cpu() for name, value in parameters(model).items()
        }
    if not team.leads():
        return
    model.save_pretrained(folder, save_embedding_layers=False, **settings)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path") or ""
    if Path(base).is_absolute():
        settings["base_model_name_or_path"] = Path(base).name
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def settings_of(folder: Path) -> tuple[int, float]:
    """Rank and α of a stored adapter. Raises InputError where `folder` holds none of ours."""
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: no adapter_config.json; wanted a folder that PEFT wrote")
    settings = LoraConfig.from_pretrained(folder)
    return int(settings.r), float(settings.lora_alpha)


def load(model: Any, folder: Path) -> None:
    """Replace the adapter's weights by those in `folder`.

    Raises InputError where the folder holds no adapter, or one of another rank, α or set of layers.
    """
    own = model.peft_config[NAME]
    stored = settings_of(folder)
    if stored != (own.r, own.lora_alpha):
        raise InputError(
            f"{folder}: adapter of rank {stored[0]}, alpha {stored[1]:g}; "
            f"wanted {own.r}, {own.lora_alpha:g}: load the writer with those settings"
        )
    try:
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as fault:
        raise InputError(f"{folder}: adapter_model.safetensors cannot be read ({fault})") from fault
    expected = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    odd = sorted(weights.keys() ^ expected.keys()) + sorted(
        name
        for name in weights.keys() & expected.keys()
        if weights[name].shape != expected[name].shape
    )
    if odd:
        raise InputError(
            f"{folder}: {len(odd)} tensors do not fit this model, first {odd[0]}; "
            "wanted an adapter trained on the same base model"
        )
    if team.is_sharded(model):
        for name, value in weights.items():
            team.fill(expected[name], value)
        return
    set_peft_model_state_dict(model, weights, adapter_name=NAME)


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside, every adapted layer is one matrix W + (α / r) B A, without gradients.

    On leaving, the base weights are the very tensors that they were: PEFT's own merge subtracts
    what it added, which rounds. Models in half precision, where the sum would round, and models
    over MERGE_LIMIT are left as they are, which gives the same answers more slowly; so are models
    whose parameters are shared out over a team.
    """
    if team.is_sharded(model):
        with torch.no_grad(), team.assembled(model):
            yield
        return
    layers = _layers(model)
    weights = [layer.get_base_layer().weight for layer in layers]
    fits = sum(weight.numel() for weight in weights) <= MERGE_LIMIT
    if not fits or any(weight.dtype != torch.float32 for weight in weights):
        with torch.no_grad():
            yield
        return
    kept = [weight.data for weight in weights]
    with torch.no_grad():
        try:
            for layer, weight in zip(layers, weights, strict=True):
                weight.data = weight.data + layer.get_delta_weight(NAME)
                layer.merged_adapters.append(NAME)
            yield
        finally:
            for layer, weight, base in zip(layers, weights, kept, strict=True):
                weight.data = base
                layer.merged_adapters.clear()


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
