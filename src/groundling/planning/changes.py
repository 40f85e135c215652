"""What to change where a run does not fit: changes are tried, the least harmful first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from groundling.config import IsrConfig
from groundling.planning.outline import ChatOutline
from groundling.planning.pictures import RULES
from groundling.planning.stages import Model, Stage, rows_of

Replan = Callable[[IsrConfig], list[Stage]]
Outlines = Callable[[IsrConfig], tuple[Model, Model]]

_FITS = {"grounder tuning": "grounder_tuning", "SFT": "sft", "DPO": "dpo"}
_OWNER = {"grounder tuning": "grounder", "rewards": "grounder"}
_MOST_TRIES = 60

PICTURE_TOKENS = (1024, 768, 512, 256)
"""Tokens that a picture is held to, one after the other; where it is cut into tiles, their number
goes down by one."""


def changed(config: IsrConfig, key: str, value: object) -> IsrConfig:
    """The configuration with one dotted key set."""
    values = config.model_dump()
    *parents, last = key.split(".")
    place: dict[str, Any] = values
    for parent in parents:
        place = place[parent]
    place[last] = value
    return IsrConfig.model_validate(values)


def deciding(stages: list[Stage]) -> Stage:
    """The stage with the highest peak."""
    return max(stages, key=lambda stage: stage.peak)


def find_changes(
    config: IsrConfig, room: int, replan: Replan, outlines: Outlines, devices: int
) -> tuple[dict[str, object], bool]:
    """Changes by dotted key, as `--set` takes them, and whether they make the run fit.

    Each is one that lowers the peak of the stage that decides at the time; the last value of a key
    counts. `room` in bytes a device.
    """
    made: dict[str, object] = {}
    for _ in range(_MOST_TRIES):
        stage = deciding(replan(config))
        if stage.peak <= room:
            return made, True
        for key, value in _options(config, stage.name, outlines(config), devices):
            if not _acts(config, key):
                continue
            tried = changed(config, key, value)
            then = next(one for one in replan(tried) if one.name == stage.name)
            if then.peak < stage.peak:
                config = tried
                made[key] = value
                break
        else:
            return made, False
    return made, False


def _acts(config: IsrConfig, key: str) -> bool:
    """Whether a key is one that the configured grounder, or the writer, acts on."""
    owner, _, name = key.partition(".")
    return owner != "grounder" or name in config.grounder.acting


def _options(
    config: IsrConfig, stage: str, models: tuple[Model, Model], devices: int
) -> Iterator[tuple[str, object]]:
    """What could be changed for a stage, the least harmful first."""
    owner = _OWNER.get(stage, "writer")
    own, other = models if owner == "writer" else models[::-1]
    yield from _precision(owner, own)
    if stage in _FITS:
        if not own.config.checkpointing:
            yield f"{owner}.checkpointing", True
        rows = rows_of(getattr(config, _FITS[stage]), devices)
        if rows > 1:
            yield f"{_FITS[stage]}.micro_batch", -(-rows // 2) * devices
    else:
        yield from _smaller_batch(owner, own)
    beside = "grounder" if owner == "writer" else "writer"
    if stage == "evaluation":
        yield from _smaller_batch(beside, other)
    yield from _precision(beside, other)
    yield from _four_bits(owner, own)
    yield from _four_bits(beside, other)
    yield from _smaller_pictures(owner, own)


def _smaller_batch(owner: str, model: Model) -> Iterator[tuple[str, object]]:
    if model.config.batch_size > 1:
        yield f"{owner}.batch_size", -(-model.config.batch_size // 2)


def _precision(owner: str, model: Model) -> Iterator[tuple[str, object]]:
    """Half precision where the weights are frozen; what is trained as a whole stays in full."""
    if isinstance(model.outline, ChatOutline) and model.config.dtype == "float32":
        yield f"{owner}.dtype", "bfloat16"


def _smaller_pictures(owner: str, model: Model) -> Iterator[tuple[str, object]]:
    outline, pictures = model.outline, model.pictures
    if not isinstance(outline, ChatOutline) or pictures is None:
        return
    rule = RULES[outline.model_type]
    side = rule.tile_px or outline.vision.unit_px
    for number in range(rule.tiles, 0, -1) if rule.tiles else PICTURE_TOKENS:
        if number * side**2 < (model.config.max_pixels or math.inf):
            yield f"{owner}.max_pixels", number * side**2


def _four_bits(owner: str, model: Model) -> Iterator[tuple[str, object]]:
    if isinstance(model.outline, ChatOutline) and not model.config.load_in_4bit:
        yield f"{owner}.load_in_4bit", True
