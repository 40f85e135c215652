"""A tagger on disk: `tagger.json` says what it is, `model.safetensors` holds all its weights.

A weight that a network has under several names is stored once, under the first of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from groundling import team
from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.models.saving import saving
from groundling.models.weights import read_net, repeated_names
from groundling.records import EntityType, Scheme
from groundling.strict_json import read_object

Net = TypeVar("Net", bound=nn.Module)

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
    repeated = repeated_names(net)
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
    if not (folder / FACTS).is_file():
        raise InputError(f"{folder}: no tagger here; wanted {FACTS} and {WEIGHTS}")
    try:
        told = read_object(folder / FACTS)
        stored = TaggerConfig.model_validate(told["config"])
        types, temperature = tuple(told["types"]), float(told["temperature"])
        if not all(isinstance(name, str) for name in (told["scheme"], *types)):
            raise ValueError("scheme and types: wanted texts")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature: got {temperature}; wanted a number > 0")
        facts = Facts(told["scheme"], types, stored, temperature)
    except (ValueError, KeyError, TypeError, OverflowError, ValidationError) as fault:
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


def read_filled(folder: Path, build: Callable[[], Net]) -> Net:
    """The network that `build` makes, with the stored weights. Raises InputError."""
    try:
        return read_net(folder / WEIGHTS, build)
    except InputError as fault:
        raise InputError(f"{folder / WEIGHTS}: not this tagger's weights ({fault})") from fault


def texts(value: object) -> list[str]:
    """A value that is a list of texts. Raises TypeError for any other."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise TypeError("wanted a list of texts")
    return value
