"""A LoRA adapter as some program stored it: what its files say, and how they name layers.

A shared module, no backend. Everything that changes what an adapter computes is honoured, or
refused by its name: PEFT itself drops settings that it does not know, with a warning at most.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from groundling.errors import InputError
from groundling.models.weights import demand_floats, read_tensors
from groundling.strict_json import parse_json

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"

_WRAPPED = "base_model.model."
"""What PEFT puts in front of the names of the base model."""

_TENSOR = re.compile(rf"{re.escape(_WRAPPED)}(.+)\.(lora_[AB]\.weight)")

_EARLIER = ("model.", "language_model.model.", "language_model.")
"""What stood in front of `layers.` in the language model before transformers 4.52."""

_NAMING_LAYERS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_SCALING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")

_OF_NO_EFFECT = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "fan_in_fan_out",
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_dtype",
        "lora_ga_config",
        "lorap_lr_ratio",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    ]
)
"""Settings that say where an adapter comes from or how it was trained, or that need another one to
mean anything."""

_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
"""`init_lora_weights` that leave the base weights as they are; PiSSA, OLoRA, CorDA, LoftQ and
LoRA-GA alter them, so that their adapters fit no other base."""


class Scale(NamedTuple):
    """The rank r of one layer's adapter and the factor before B A: α / r, or α / √r."""

    rank: int
    factor: float


@dataclass(frozen=True, slots=True)
class Naming:
    """How an adapter names the layers of the language model: `used` where the model has `own`."""

    own: str
    used: str

    def by_adapter(self, path: str) -> str:
        """The name that a part of the model had when the adapter was trained."""
        if self.used == self.own:
            return path
        if path.startswith(self.own):
            return self.used + path.removeprefix(self.own)
        return path.removeprefix("model.")

    def by_model(self, path: str) -> str:
        """The model's own name of a layer that the adapter names."""
        return self.own + path.removeprefix(self.used) if path.startswith(self.used) else path


@dataclass(frozen=True, slots=True)
class Stored:
    """What a stored adapter says of itself. `config` holds what names layers and scales."""

    folder: Path
    config: LoraConfig

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max(int(self.config.r), *map(int, self.config.rank_pattern.values()), 0)

    @property
    def told(self) -> str:
        """Rank, α and the scale's rule, for errors."""
        return told_scale(self.config)

    @property
    def patterns(self) -> list[str]:
        """The settings that give single layers ranks or α of their own."""
        return [name for name in ("rank_pattern", "alpha_pattern") if getattr(self.config, name)]

    def layers(self, paths: Iterable[str], naming: Naming) -> set[str]:
        """Those of the model's parts that the adapter says it is on. Raises InputError."""
        try:
            return {path for path in paths if self._names(naming.by_adapter(path))}
        except re.error as fault:
            raise InputError(
                f"{self.folder}: {SETTINGS}: not a pattern of names ({fault})"
            ) from fault

    def _names(self, path: str) -> bool:
        if self.config.target_modules is None:
            return False
        found = check_target_module_exists(self.config, path)
        return found is True or isinstance(found, re.Match)  # PEFT has a class for "excluded"

    def ranks(self, paths: Iterable[str], naming: Naming) -> dict[str, int]:
        """The layers whose rank is their own, and that rank."""
        found = self._by_pattern(self.config.rank_pattern, paths, naming)
        return {path: int(rank) for path, rank in found.items()}

    def alphas(self, paths: Iterable[str], naming: Naming) -> dict[str, float]:
        """The layers whose α is their own, and that α."""
        return self._by_pattern(self.config.alpha_pattern, paths, naming)

    def scales(self, paths: Collection[str], naming: Naming) -> dict[str, Scale]:
        """Rank and factor of each layer."""
        ranks, alphas = self.ranks(paths, naming), self.alphas(paths, naming)
        scales = {}
        for path in paths:
            rank = ranks.get(path, int(self.config.r))
            below = math.sqrt(rank) if self.config.use_rslora else rank
            scales[path] = Scale(rank, alphas.get(path, self.config.lora_alpha) / below)
        return scales

    def _by_pattern(
        self, pattern: Mapping[str, Any], paths: Iterable[str], naming: Naming
    ) -> dict[str, Any]:
        """What the first matching key of a pattern says, by layer, as PEFT looks it up."""
        found = {}
        try:
            for path in paths:
                key = get_pattern_key(list(pattern), naming.by_adapter(path))
                if key in pattern:
                    found[path] = pattern[key]
        except re.error as fault:
            raise InputError(
                f"{self.folder}: {SETTINGS}: not a pattern of names ({fault})"
            ) from fault
        return found


def told_scale(config: LoraConfig) -> str:
    """Rank, α and the rule of the scale in words.

    >>> told_scale(LoraConfig(r=4, lora_alpha=8, use_rslora=True))
    'rank 4, alpha 8, use_rslora'
    """
    rule = ", use_rslora" if config.use_rslora else ""
    return f"rank {config.r}, alpha {config.lora_alpha:g}{rule}"


def settings_of(folder: Path) -> Stored:
    """What `adapter_config.json` says. Raises InputError where `folder` holds no adapter.

    So it does for what cannot be honoured: DoRA, biases, modules stored whole, a beginning that
    alters the base weights, and any other setting that is not known here to be of no effect.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise InputError(f"{folder}: no {SETTINGS}; wanted a folder that PEFT wrote")
    try:
        said = parse_json(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise InputError(f"{folder}: {SETTINGS} cannot be read: {fault}") from fault
    if not isinstance(said, dict):
        raise InputError(f"{folder}: {SETTINGS} holds no JSON object; wanted what PEFT wrote")
    if odd := _not_honoured(said):
        raise InputError(
            f"{folder}: adapter with {', '.join(odd)}: not supported; wanted plain LoRA on linear "
            "layers: merge it into its base model (PEFT: merge_and_unload) and open the result"
        )
    _check_scaling(folder, said)
    known = {
        name: said[name] for name in (*_NAMING_LAYERS, *_SCALING) if said.get(name) is not None
    }
    try:
        return Stored(folder, LoraConfig(**known))
    except (TypeError, ValueError) as fault:
        raise InputError(f"{folder}: {SETTINGS}: {fault}") from fault


def _not_honoured(said: Mapping[str, Any]) -> list[str]:
    """The settings, by name, that change what an adapter computes and are not known here."""
    odd = []
    if said.get("peft_type", "LORA") != "LORA":
        odd.append(f"peft_type {said['peft_type']}")
    if said.get("bias", "none") not in ("none", None):
        odd.append(f"bias {said['bias']}")
    beginning = said.get("init_lora_weights", True)
    if beginning not in _BEGINNINGS:
        odd.append(f"init_lora_weights {beginning} (which alters the base weights)")
    seen = {*_NAMING_LAYERS, *_SCALING, *_OF_NO_EFFECT, "bias", "init_lora_weights"}
    return odd + [name for name, value in said.items() if name not in seen and value]


def _check_scaling(folder: Path, said: Mapping[str, Any]) -> None:
    """Ranks are whole and positive, α are numbers. Raises InputError."""
    ranks = {"r": said.get("r", 8), **_pattern(folder, said, "rank_pattern")}
    alphas = {"lora_alpha": said.get("lora_alpha", 8), **_pattern(folder, said, "alpha_pattern")}
    for name, rank in ranks.items():
        if type(rank) is not int or rank < 1:
            raise InputError(
                f"{folder}: {SETTINGS}: {name}: got {rank!r}; wanted a rank, 1 or more"
            )
    for name, alpha in alphas.items():
        if type(alpha) not in (int, float):
            raise InputError(f"{folder}: {SETTINGS}: {name}: got {alpha!r}; wanted a number")


def _pattern(folder: Path, said: Mapping[str, Any], name: str) -> dict[str, Any]:
    pattern = said.get(name) or {}
    if not isinstance(pattern, dict):
        raise InputError(f"{folder}: {SETTINGS}: {name}: got {pattern!r}; wanted an object")
    return pattern


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a stored adapter under the names in its file.

    Raises InputError for a file that cannot be read, for tensors that are not the matrices A and B
    of a layer, by name, and for numbers that no trained weight is.
    """
    weights = read_tensors(folder / WEIGHTS)
    odd = sorted(key for key in weights if not _TENSOR.fullmatch(key))
    if odd:
        raise InputError(
            f"{folder}: {WEIGHTS} holds {odd[0]} ({len(odd)} such tensors); wanted lora_A and "
            "lora_B of linear layers alone"
        )
    demand_floats(folder / WEIGHTS, weights)
    return weights


def layer_of(key: str) -> str:
    """The base model's layer that a stored tensor adapts.

    >>> layer_of("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    'model.layers.0.self_attn.q_proj'
    """
    return key.partition(".lora_")[0].removeprefix(_WRAPPED)


def naming_of(keys: Iterable[str], own_layers: Iterable[str]) -> Naming:
    """How stored tensors name the language model's layers, of which `own_layers` are the model's.

    An adapter uses an earlier naming where all of its layers have that naming's beginning.
    """
    own = next((path.partition("layers.")[0] for path in own_layers if "layers." in path), "")
    used = {layer_of(key).partition("layers.")[0] for key in keys if ".layers." in key}
    earlier = used.pop() if len(used) == 1 else own
    return Naming(own, earlier if earlier in _EARLIER else own)


def renamed(weights: Mapping[str, torch.Tensor], naming: Naming) -> dict[str, torch.Tensor]:
    """The tensors under the names that the model's own adapter has for them."""
    found = {}
    for key, value in weights.items():
        layer, _, matrix = key.rpartition(".lora_")
        found[f"{_WRAPPED}{naming.by_model(layer.removeprefix(_WRAPPED))}.lora_{matrix}"] = value
    return found
