"""One LoRA adapter, named `default`, on linear layers of a language model (Hu et al. 2021).

The adapter starts from a seed of its own, is stored in PEFT's layout, and is replaced in place.
A shared module, no backend.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from groundling import team
from groundling.errors import InputError
from groundling.models.saving import saving
from groundling.models.stored_adapter import (
    Scale,
    layer_of,
    naming_of,
    renamed,
    settings_of,
    told_scale,
    weights_of,
)

NAME = "default"
"""PEFT's own default name; TRL takes π_ref to be π_{t−1} only for an adapter of this name."""

_INSIDE = ".*language_model.*"
"""Names of what is in the language model, in every family."""

MERGE_LIMIT = 500_000_000
"""Largest number of adapted weights for which `merged` keeps a second copy of them."""


def within(*names: str) -> str:
    """The pattern of layers in the language model whose names end in one of `names`."""
    return rf"{_INSIDE}\.({'|'.join(map(re.escape, names))})"


def named(model: Any, names: Sequence[str]) -> str:
    """The same; raises InputError for a name that no linear layer of the language model has."""
    inside = linear_layers(model, _INSIDE)
    for name in names:
        if not any(path.endswith(f".{name}") for path in inside):
            raise InputError(
                f"lora.targets: got {name!r}; wanted linear layers of the language model by the "
                f"ends of their names, such as {_last_parts(inside)}"
            )
    return within(*names)


def linear_layers(model: Any, pattern: str) -> dict[str, nn.Linear]:
    """The linear layers whose names match a pattern in full, by name."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, path)
    }


def attach(model: Any, rank: int, alpha: float, targets: str, seed: int, **scaling: Any) -> Any:
    """Wrap `model` with a fresh adapter that changes nothing yet; freeze all the rest.

    `targets` is a pattern that the names of the adapted layers match in full; `scaling` holds
    PEFT's `use_rslora`, `rank_pattern` and `alpha_pattern`. Raises InputError where the pattern
    matches nothing, or more than linear layers of the language model: features of pictures are
    kept, so the vision tower must stay as it is.
    """
    inside = linear_layers(model, _INSIDE)
    found = {path for path, _ in model.named_modules() if re.fullmatch(targets, path)}
    if not found or not found <= inside.keys():
        raise InputError(_not_on(min(found - inside.keys(), default=targets), inside))
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        task_type="CAUSAL_LM",
        **scaling,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT still asks by the name that transformers 5.23 has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        wrapped = get_peft_model(model, settings, adapter_name=NAME)
    restart(wrapped, seed)
    return wrapped.eval()


def _not_on(name: Any, inside: Iterable[str]) -> str:
    return (
        f"no adapter can be on {name}; wanted linear layers of the language model, such as "
        f"{_last_parts(inside)}"
    )


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
    with saving(folder):
        model.save_pretrained(folder, save_embedding_layers=False, **settings)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path") or ""
    if Path(base).is_absolute():
        settings["base_model_name_or_path"] = Path(base).name
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def attach_stored(model: Any, folder: Path) -> Any:
    """Wrap `model` with a fresh adapter on the layers and at the scales of the one in `folder`.

    Layers may be named as they are today or as before transformers 4.52. Raises InputError where
    the folder holds no adapter, one that does not fit, and one that would compute otherwise here.
    """
    stored = settings_of(folder)
    weights = weights_of(folder)
    inside = linear_layers(model, _INSIDE)
    naming = naming_of(weights, inside)
    by_list = not isinstance(stored.config.target_modules, str)
    paths = stored.layers(inside if by_list else dict(model.named_modules()), naming)
    stray = {naming.by_model(layer_of(key)) for key in weights} - paths - inside.keys()
    if not paths or stray:
        named = min(stray, default=stored.config.target_modules)
        raise InputError(f"{folder}: {_not_on(named, inside)}")
    try:
        return attach(
            model,
            int(stored.config.r),
            stored.config.lora_alpha,
            _pattern(model, paths, stored.config.target_modules),
            seed=0,
            use_rslora=stored.config.use_rslora,
            rank_pattern=stored.ranks(paths, naming),
            alpha_pattern=stored.alphas(paths, naming),
        )
    except InputError as fault:
        raise InputError(f"{folder}: {fault}") from fault


def _pattern(model: Any, paths: set[str], targets: Any) -> str:
    """A pattern that matches these parts of a model and no others; a short one where there is."""
    short = targets if isinstance(targets, str) else within(*sorted(targets))
    named = (path for path, _ in model.named_modules())
    if {path for path in named if re.fullmatch(short, path)} == paths:
        return short
    return "|".join(map(re.escape, sorted(paths)))


def read(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the adapter in `folder`, which fit those of `model`, by PEFT's names.

    Raises InputError where the folder holds no adapter, or one of other ranks, scales or layers.
    """
    own = model.peft_config[NAME]
    stored = settings_of(folder)
    if stored.told != told_scale(own):
        raise InputError(
            f"{folder}: adapter of {stored.told}; wanted {told_scale(own)}: load the writer with "
            "those settings"
        )
    expected = _stored_names(model)
    layers = {layer_of(key) for key in expected}
    weights = weights_of(folder)
    naming = naming_of(weights, layers)
    weights = renamed(weights, naming)
    held, wanted = (_last_parts(map(layer_of, keys)) for keys in (weights, expected))
    if held != wanted:
        raise InputError(
            f"{folder}: adapter on {held}; wanted {wanted}: load the writer with those targets"
        )
    odd = sorted(weights.keys() ^ expected.keys()) or sorted(
        name for name in weights if weights[name].shape != expected[name].shape
    )
    if odd:
        raise InputError(
            f"{folder}: {len(odd)} tensors do not fit this model, first {odd[0]}; "
            "wanted an adapter trained on the same base model"
        )
    scales = stored.scales(layers, naming)
    if other := [path for path, scale in sorted(_scales(model).items()) if scale != scales[path]]:
        raise InputError(
            f"{folder}: {other[0]} has a rank or alpha of its own ({len(other)} such layers); "
            "load the writer from this folder"
        )
    return weights


def _scales(model: Any) -> dict[str, Scale]:
    """Rank and factor of each adapted layer, by its name in the base model."""
    return {
        path: Scale(layer.r[NAME], layer.scaling[NAME])
        for path, layer in model.get_base_model().named_modules()
        if isinstance(layer, LoraLayer)
    }


def load(model: Any, folder: Path) -> None:
    """Replace the adapter's weights by those in `folder`. Raises what `read` raises."""
    weights = read(model, folder)
    if team.is_sharded(model):
        held = _stored_names(model)
        for name, value in weights.items():
            team.fill(held[name], value)
        return
    set_peft_model_state_dict(model, weights, adapter_name=NAME)


def _stored_names(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's parameters by the names that PEFT stores them under."""
    held: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, adapter_name=NAME, save_embedding_layers=False
    )
    return held


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside, every adapted layer is one matrix W + scale · B A, without gradients.

    On leaving, the base weights are the very tensors that they were: PEFT's own merge subtracts
    what it added, which rounds. Models in half precision or in 4 bits, where the sum would round,
    and models over MERGE_LIMIT are left as they are, which gives the same answers more slowly; so
    are models whose parameters are shared out over a team.
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


def _last_parts(paths: Iterable[str]) -> str:
    """The different last parts of names, as a list in words."""
    return ", ".join(sorted({path.rpartition(".")[2] for path in paths}))
