"""A plan as a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groundling.planning.stages import Stage

GIB = 1 << 30

_PARTS = (
    "weights",
    "adapter",
    "pictures",
    "gradients",
    "moments",
    "activations",
    "cache",
    "vLLM",
    "grounder",
    "writer",
    "reserve",
)


def gib(size: float) -> str:
    """Bytes as GiB with one decimal, two below one."""
    value = size / GIB
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2f}"


def count(number: int) -> str:
    """A number of parameters in billions or millions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def hours(seconds: float) -> str:
    """A duration as hours or minutes."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def memory_table(
    stages: Sequence[Stage], deciding: str, durations: Mapping[str, float]
) -> list[str]:
    """Parts as rows and stages as columns, in GiB; the last rows are the peak and the time."""
    names = [name for name in _PARTS if any(name in stage.parts for stage in stages)]
    widths = [max(len(stage.name), 8) + 2 for stage in stages]
    lines = [_row("GiB", [stage.name for stage in stages], widths)]
    for name in names:
        cells = [gib(stage.parts[name]) if name in stage.parts else "" for stage in stages]
        lines.append(_row(name, cells, widths))
    peaks = [gib(stage.peak) + ("*" if stage.name == deciding else "") for stage in stages]
    lines.append(_row("peak (* decides)", peaks, widths))
    if durations:
        times = [
            hours(durations[stage.name]) if stage.name in durations else "" for stage in stages
        ]
        lines.append(_row("time, all rounds", times, widths))
    return lines


def _row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"  {name:17}" + "".join(padded).rstrip()
