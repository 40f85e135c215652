"""A tagger on disk: `tagger.json` says what it is, `model.safetensors` holds all its weights.

A weight that a network has under several names is stored once, under the first of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from groundling import team
from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.models.saving import saving
from groundling.records import EntityType, Scheme

FACTS, WEIGHTS = "tagger.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a stored tagger says of itself: its types, how it is built, its temperature."""

    scheme: str
    types: tuple[EntityType, ...]
    config: TaggerConfig
    temperature: float


def write_tagger(folder: Path, facts: Facts, net: nn.Module) -> None:
    """Write both files; of several processes the leader does."""
    repeated = _repeated(net)
    weights = {
        name: team.whole(tensor.detach())
        for name, tensor in net.state_dict().items()
        if name not in repeated
    }
    if not team.leads():
        return
    write_facts(folder, facts)
    with saving(folder):
        save_file({name: w.cpu().contiguous() for name, w in weights.items()}, folder / WEIGHTS)


def write_facts(folder: Path, facts: Facts) -> None:
    """Write `tagger.json`: all that there is of a tagger without weights of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "scheme": facts.scheme,
        "types": list(facts.types),
        "temperature": facts.temperature,
        "config": facts.config.model_dump(mode="json"),
    }
    (folder / FACTS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def read_facts(folder: Path, scheme: Scheme, wanted: TaggerConfig) -> Facts:
    """What the tagger in `folder` is, to run where and as `wanted` says.

    Raises InputError where there is none, or one of another kind or with other types.
    """
    try:
        told = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        stored = TaggerConfig.model_validate(told["config"])
        facts = Facts(told["scheme"], tuple(told["types"]), stored, float(told["temperature"]))
    except FileNotFoundError as fault:
        raise InputError(f"{folder}: no tagger here; wanted {FACTS} and {WEIGHTS}") from fault
    except (ValueError, KeyError, TypeError, ValidationError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(f"{folder / FACTS}: no tagger's facts ({reason})") from fault
    if stored.backend != wanted.backend:
        raise InputError(f"{folder}: a tagger of kind {stored.backend}, not {wanted.backend}")
    if facts.types != scheme.types:
        raise InputError(
            f"{folder}: it finds {', '.join(facts.types)}; scheme {scheme.name} has "
            f"{', '.join(scheme.types)}"
        )
    kinds = (stored.uncertainty.kind, wanted.uncertainty.kind)
    if "ensemble" in kinds and stored.uncertainty != wanted.uncertainty:
        raise InputError(
            f"{folder}: {stored.uncertainty.kind} of {stored.uncertainty.count}, not "
            f"{wanted.uncertainty.kind} of {wanted.uncertainty.count}; fit it anew"
        )
    here = {name: getattr(wanted, name) for name in ("device", "batch_size", "uncertainty")}
    return Facts(facts.scheme, facts.types, stored.model_copy(update=here), facts.temperature)


def fill_weights(folder: Path, net: nn.Module) -> None:
    """Load the stored weights. Raises InputError where they do not fit."""
    try:
        stored = load_file(folder / WEIGHTS)
        wanted = net.state_dict().keys() - _repeated(net)
        if stored.keys() != wanted:
            raise RuntimeError(f"{len(stored.keys() ^ wanted)} names differ")
        net.load_state_dict(stored, strict=False)
    except (OSError, RuntimeError, SafetensorError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(f"{folder / WEIGHTS}: not this tagger's weights ({reason})") from fault


def _repeated(net: nn.Module) -> set[str]:
    """Further names of weights that have one already."""
    every = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in net.named_parameters()}
