"""What a recipe would need, before anything is loaded: memory by stage, disk, time, a verdict.

Models are built without weights; everything else is arithmetic (`groundling.planning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from groundling.config import DirectConfig, GrounderConfig, IsrConfig
from groundling.data.gmner import read_gmner
from groundling.errors import InputError
from groundling.planning.changes import deciding, find_changes
from groundling.planning.counts import counts_of
from groundling.planning.devices import PEAKS, Speed, speed_of
from groundling.planning.disk import plan_disk
from groundling.planning.durations import plan_durations
from groundling.planning.outline import ChatOutline
from groundling.planning.page import gib
from groundling.planning.pictures import RULES, PictureTokens, Size, picture_tokens
from groundling.planning.stages import BOX_TOKENS, Model, Stage, plan_stages
from groundling.team import shards, team
from groundling.toyworld.scene import SIZE_PX

OVERRIDE = "check_memory"
"""The key that turns `check_fits` off, in whatever calls it."""

DIRECT_NAMES = {"writer": "model", "sft": "tuning", "SFT": "tuning"}
"""What a direct baseline calls the parts of the run that it is planned as."""

CPU_BYTES_S = 1e10
"""Memory bandwidth of a host, 10 GB/s: an assumption."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run would go: `count` of them, `room` free bytes each; its speed where known."""

    name: str
    room: int
    count: int = 1
    speed: Speed | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """What is known of a recipe's data: picture sizes, training and groundable entities."""

    sizes: tuple[Size, ...]
    train: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that `groundling plan` tells; sizes in bytes, times in seconds.

    `direct` is a baseline without a grounder, planned as the ISR run that costs the same.
    """

    config: IsrConfig
    direct: bool
    device: Device
    writer: Model
    grounder: Model
    stages: tuple[Stage, ...]
    disk: dict[str, int]
    durations: dict[str, float]
    changes: dict[str, object]
    mended: bool

    @property
    def decides(self) -> Stage:
        """The stage with the highest peak."""
        return deciding(list(self.stages))

    @property
    def fits(self) -> bool:
        """Whether that peak is within the device's room."""
        return self.decides.peak <= self.device.room

    @property
    def verdict(self) -> str:
        """One line: whether it fits, which stage decides, and what to change."""
        peak, room = gib(self.decides.peak), gib(self.device.room)
        if self.fits:
            return f"fits: {self.decides.name} needs the most, {peak} of {room} GiB"
        told = f"does not fit: {self.decides.name} needs {peak} of {room} GiB"
        if not self.mended:
            tried = f" (tried {_settings(self.changes)})" if self.changes else ""
            return f"{told}; nothing that was tried makes it fit{tried}"
        return f"{told}; it fits with {_settings(self.changes)}"


def _settings(changes: dict[str, object]) -> str:
    words = (
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in changes.items()
    )
    return " ".join(words)


def plan_run(recipe: IsrConfig | DirectConfig, device: Device) -> Plan:
    """Plan a recipe on a device. Raises InputError where a model's configuration is not known."""
    direct = isinstance(recipe, DirectConfig)
    config = as_isr(recipe) if isinstance(recipe, DirectConfig) else recipe
    data = read_data(config)

    def models(one: IsrConfig) -> tuple[Model, Model]:
        return open_models(one, data.sizes)

    def replan(one: IsrConfig) -> list[Stage]:
        return plan_stages(one, *models(one), device.count, device.room)

    stages = replan(config)
    writer, grounder = models(config)
    counts = counts_of(config, data.train)
    changes: dict[str, object] = {}
    mended = True
    if deciding(stages).peak > device.room:
        changes, mended = find_changes(config, device.room, replan, models, device.count)
    durations: dict[str, float] = {}
    if device.speed is not None:
        durations = plan_durations(config, writer, grounder, counts, device.speed, device.count)
    if direct:
        if durations:  # all processes give all answers
            durations["evaluation"] *= device.count
        stages = [_without_grounder(stage) for stage in stages]
        durations = {_renamed(name): seconds for name, seconds in durations.items()}
        changes = {_renamed(key): value for key, value in changes.items()}
    return Plan(
        config,
        direct,
        device,
        writer,
        grounder,
        tuple(stages),
        plan_disk(config, writer, grounder, counts, data.sizes),
        durations,
        changes,
        mended,
    )


def as_isr(config: DirectConfig) -> IsrConfig:
    """The ISR run that costs what a direct baseline does: its fine-tuning and evaluation alone."""
    every_query = 1_000_000
    return IsrConfig(
        data=config.data,
        writer=config.model,
        grounder=GrounderConfig(tune=False),
        lora=config.lora,
        sft=config.tuning,
        sft_queries=every_query,
        rounds=0,
        max_new_tokens=BOX_TOKENS,
    )


def _without_grounder(stage: Stage) -> Stage:
    parts = {name: size for name, size in stage.parts.items() if name != "grounder"}
    return Stage(_renamed(stage.name), parts, stage.planned)


def _renamed(key: str) -> str:
    """A stage or dotted key of an ISR run as a direct baseline calls it."""
    first, dot, rest = key.partition(".")
    return DIRECT_NAMES.get(first, first) + dot + rest


def check_fits(config: IsrConfig | DirectConfig) -> None:
    """Refuse, with InputError, to start a run that its device cannot hold.

    The error says what to change, and the key that goes on regardless. Nothing is refused where all
    models are `tiny`, nor where a team shares out its parameters (FSDP), which is not planned.
    """
    if isinstance(config, DirectConfig):
        first, tiny = config.model, config.model.backend == "tiny"
    else:
        first = config.writer
        tiny = first.backend == config.grounder.backend == "tiny"
    if tiny or shards():
        return
    plan = plan_run(config, find_device(first.device, devices=team().size))
    if not plan.fits:
        raise InputError(f"{plan.verdict}; {OVERRIDE}=false starts it all the same")


def find_device(
    wanted: str = "auto",
    *,
    room: int | None = None,
    devices: int = 1,
    name: str | None = None,
    timed_dtype: str | None = None,
) -> Device:
    """The device at hand, or one as described.

    `name` is one of the table's, for its speed. `timed_dtype` measures the host's speed in that
    precision where there is no GPU. Raises InputError for a name that is not known.
    """
    from groundling.models import meta

    found, free = meta.free_memory(wanted) if room is None or name is None else ("", 0)
    if name is not None and speed_of(name) is None:
        raise InputError(f"{name}: no device that is known; wanted one of {', '.join(PEAKS)}")
    speed = speed_of(name or found)
    if speed is None and room is None and found == "cpu" and timed_dtype is not None:
        flops = meta.measure_flops(timed_dtype)
        told = f"this machine: {flops / 1e9:.0f} GFLOP/s measured"
        speed = Speed(flops, CPU_BYTES_S, told, measured=True)
    return Device(name or (found if room is None else "as told"), room or free, devices, speed)


def open_models(config: IsrConfig, sizes: Sequence[Size]) -> tuple[Model, Model]:
    """Writer and grounder as outlines, with the pictures as each sees them."""
    from groundling.models import meta

    writer = meta.outline_writer(config.writer, config.lora.targets)
    grounder = meta.outline_grounder(config.grounder)
    seen = _pictures(writer, sizes, config.writer.max_pixels)
    box_pictures = None
    if isinstance(grounder, ChatOutline):
        box_pictures = _pictures(grounder, sizes, config.grounder.max_pixels)
    return (
        Model(writer, config.writer, config.lora.rank, seen),
        Model(grounder, config.grounder, config.grounder.lora.rank, box_pictures),
    )


def _pictures(outline: ChatOutline, sizes: Sequence[Size], max_pixels: int | None) -> PictureTokens:
    return picture_tokens(RULES[outline.model_type], outline.vision.unit_px, sizes, max_pixels)


def read_data(config: IsrConfig) -> Data:
    """Picture sizes and entity counts of the recipe's data; nothing where it is not at hand.

    Sizes are those in the annotations, which posts without a groundable entity do not have; the
    embedded world has a picture for each query at most.
    """
    world = config.data.toyworld
    if world is not None:
        most = world.train_queries + world.validation_queries + world.test_queries
        return Data(((SIZE_PX, SIZE_PX),) * most, None)
    assert config.data.gmner is not None
    source = Path(config.data.gmner.source)
    return _read_release(source) if source.is_dir() else Data((), None)


@lru_cache(maxsize=2)
def _read_release(source: Path) -> Data:
    split = read_gmner(source, "train", skip_bad=True)
    entities = [entity for post in split.posts for entity in post.entities]
    groundable = sum(entity.groundable for entity in entities)
    return Data(tuple(split.xml_sizes.values()), (len(entities), groundable))
