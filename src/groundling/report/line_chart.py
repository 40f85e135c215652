"""Lines over named places, with interval bands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from groundling.report.panel import HEIGHT, LETTER, RIGHT, Panel, line, rect, text

_LEFT, _TOP, _BOTTOM = 30, 62, 212
_INSET = 34
"""Room between the axis and the first place, where the first values are told."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line over the x places; None leaves a gap. `style` is one of a, b, c: colour and marker."""

    label: str
    values: Sequence[float | None]
    style: str = "a"
    band: Sequence[tuple[float, float] | None] = ()
    dashed: bool = False
    told: bool = False


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over named x places, y in percent between `low` and `high`.

    `mark` is the index of the x place to point out, with `mark_label`; `floor` a level to draw;
    `across` says what the places are.
    """

    title: str
    places: Sequence[str]
    series: Sequence[Series]
    low: float = 0.0
    high: float = 100.0
    mark: int | None = None
    mark_label: str = "selected"
    floor: tuple[float, str] | None = None
    across: str = ""


def common_range(
    groups: Sequence[Iterable[float | None]],
) -> list[tuple[float, float]]:
    """A y range for each group of percentages, all of one length, so that slopes compare."""
    sets = [[value for value in group if value is not None] or [0.0] for group in groups]
    step = _step(max(2.0, *(max(values) - min(values) for values in sets)))
    while True:
        lows = [math.floor(min(values) / step) * step for values in sets]
        ends = zip(sets, lows, strict=True)
        length = step * max(4, *(math.ceil((max(values) - low) / step) for values, low in ends))
        if (grid := _step(length)) <= step:
            break
        step = grid  # the grid of so long a range is coarser: start on its lines
    length = min(length, 100.0)
    return [(low, low + length) for low in (max(0.0, min(low, 100.0 - length)) for low in lows)]


def draw_lines(chart: LineChart) -> Panel:
    """Draw lines, their bands below them."""
    parts = [text(0, 14, chart.title, "title"), *_grid(chart)]
    if chart.mark is not None:
        x = _x(chart, chart.mark)
        parts.append(rect(x - 13, _TOP, 26, _BOTTOM - _TOP, "mark"))
        parts.append(text(x, _TOP - 6, chart.mark_label, "note middle"))
    if chart.floor is not None and chart.low <= chart.floor[0] <= chart.high:
        y = _y(chart, chart.floor[0])
        parts.append(line(_LEFT, y, RIGHT, y, "floor"))
        parts.append(text(RIGHT, y - 4, chart.floor[1], "note end"))
    parts += [_band(chart, series) for series in chart.series if series.band]
    for series in chart.series:
        parts += _curve(chart, series)
    parts += _told(chart)
    parts += _legend([(series.label, series) for series in chart.series])
    if not chart.across:
        return Panel(Markup("").join(parts), _line_words(chart))
    parts.append(text((_LEFT + RIGHT) / 2, _BOTTOM + 35, chart.across, "note middle"))
    return Panel(Markup("").join(parts), _line_words(chart), HEIGHT + 12)


def _grid(chart: LineChart) -> list[Markup]:
    parts = []
    step = _step(chart.high - chart.low)
    level = math.ceil(chart.low / step) * step
    while level <= chart.high + 1e-9:
        y = _y(chart, level)
        parts.append(line(_LEFT, y, RIGHT, y, "grid"))
        parts.append(text(_LEFT - 6, y + 4, f"{level:g}", "tick end"))
        level += step
    for index, place in enumerate(chart.places):
        parts.append(text(_x(chart, index), _BOTTOM + 18, place, "tick middle"))
    return parts


def _band(chart: LineChart, series: Series) -> Markup:
    ends = [(i, pair) for i, pair in enumerate(series.band) if pair is not None]
    if not ends:
        return Markup("")
    if len(ends) == 1:
        i, (low, high) = ends[0]
        x = _x(chart, i)
        return line(x, _y(chart, low), x, _y(chart, high), f"whisker line-{series.style}")
    upper = [f"{_x(chart, i):.1f},{_y(chart, high):.1f}" for i, (_, high) in ends]
    lower = [f"{_x(chart, i):.1f},{_y(chart, low):.1f}" for i, (low, _) in reversed(ends)]
    return Markup('<polygon class="band fill-{}" points="{}"/>').format(
        series.style, " ".join(upper + lower)
    )


def _curve(chart: LineChart, series: Series) -> list[Markup]:
    at = [
        (index, _x(chart, index), _y(chart, value), value)
        for index, value in enumerate(series.values)
        if value is not None
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for _, x, y, _ in at)
    dash = " dashed" if series.dashed else ""
    parts = [
        Markup('<polyline class="line line-{}{}" points="{}"/>').format(series.style, dash, points)
    ]
    for index, x, y, value in at:
        note = f"{chart.places[index]}, {series.label}: {value:.2f} %"
        parts.append(_marker(series, x, y, note))
    return parts


def _told(chart: LineChart) -> list[Markup]:
    """The values of told series at both ends, kept apart, and above the marked place."""
    parts: list[Markup] = []
    last = len(chart.places) - 1
    for index in sorted({0, last, chart.mark or 0}):
        found = [s.values[index] for s in chart.series if s.told and s.values]
        values = sorted((value for value in found if value is not None), reverse=True)
        x, floor = _x(chart, index), -math.inf
        if index not in (0, last) or last == 0:
            parts += [text(x, _y(chart, v) - 10, f"{v:.1f}", "value middle") for v in values]
            continue
        at, style = (x - 8, "value end") if index == 0 else (x + 8, "value")
        for value in values:
            floor = max(_y(chart, value) + 4, floor + 12)
            parts.append(text(at, floor, f"{value:.1f}", style))
    return parts


def _marker(series: Series, x: float, y: float, note: str = "") -> Markup:
    hollow = "hollow " if series.dashed else f"fill-{series.style} "
    name = f"{hollow}line-{series.style}"
    title = Markup("<title>{}</title>").format(note) if note else ""
    if series.style == "b":
        return Markup(
            '<rect class="dot {}" x="{:.1f}" y="{:.1f}" width="7" height="7">{}</rect>'
        ).format(name, x - 3.5, y - 3.5, title)
    if series.style == "c":
        corners = f"{x:.1f},{y - 4.8:.1f} {x + 4.6:.1f},{y + 3.4:.1f} {x - 4.6:.1f},{y + 3.4:.1f}"
        return Markup('<polygon class="dot {}" points="{}">{}</polygon>').format(
            name, corners, title
        )
    return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.6">{}</circle>').format(
        name, x, y, title
    )


def _legend(entries: Sequence[tuple[str, Series]]) -> list[Markup]:
    parts, x = [], 0.0
    for label, series in entries:
        dash = " dashed" if series.dashed else ""
        parts.append(line(x, 32, x + 22, 32, f"line line-{series.style}{dash}"))
        parts.append(_marker(series, x + 11, 32))
        parts.append(text(x + 28, 36, label, "note"))
        x += 44 + LETTER * len(label)
    return parts


def _line_words(chart: LineChart) -> str:
    said = []
    for series in chart.series:
        figures = (
            f"{place} {value:.1f}"
            for place, value in zip(chart.places, series.values, strict=True)
            if value is not None
        )
        said.append(f"{series.label}: {', '.join(figures)}")
    return f"{chart.title}, in percent. " + ". ".join(said)


def _x(chart: LineChart, index: int) -> float:
    room = RIGHT - _LEFT
    if len(chart.places) == 1:
        return _LEFT + room / 2
    return _LEFT + _INSET + (room - 2 * _INSET) * index / (len(chart.places) - 1)


def _y(chart: LineChart, level: float) -> float:
    share = (level - chart.low) / (chart.high - chart.low)
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _step(span: float) -> float:
    """A round distance between about five grid lines."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5.0001)
