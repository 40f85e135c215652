"""Stacked horizontal bars: what became of a whole, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from groundling.report.panel import HEIGHT, LETTER, RIGHT, WIDTH, Panel, rect, text


@dataclass(frozen=True, slots=True)
class StackedBars:
    """A bar a row, its parts as shares of the row's whole; `keys` are (key, label, style)."""

    title: str
    keys: Sequence[tuple[str, str, str]]
    rows: Sequence[tuple[str, dict[str, int]]]


def draw_bars(chart: StackedBars) -> Panel:
    """Draw stacked horizontal bars, with the share in every part that has room for it."""
    pitch, top, left = 30, 60, 62
    parts = [text(0, 14, chart.title, "title")]
    shown = [key for key in chart.keys if any(row.get(key[0]) for _, row in chart.rows)]
    lines = _key_lines(shown)
    top += 16 * (lines[-1][1] if lines else 0)
    for (label, style), (x, line) in zip(
        ((label, style) for _, label, style in shown),
        lines,
        strict=True,
    ):
        parts.append(rect(x, 28 + 16 * line, 10, 10, f"fill-{style}"))
        parts.append(text(x + 14, 37 + 16 * line, label, "note"))
    for index, (label, row) in enumerate(chart.rows):
        y = top + pitch * index
        parts.append(text(0, y + 14, label, "tick"))
        parts += _bar(shown, row, left, y)
    return Panel(
        Markup("").join(parts), _bar_words(chart), max(HEIGHT, top + pitch * len(chart.rows) + 4)
    )


def _key_lines(keys: Sequence[tuple[str, str, str]]) -> list[tuple[float, int]]:
    """Where each entry of a bar chart's legend goes: x, and the line it is on."""
    places: list[tuple[float, int]] = []
    x, line = 0.0, 0
    for _, label, _ in keys:
        width = 28 + LETTER * len(label)
        if x + width > WIDTH and x:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += width
    return places


def _bar(
    keys: Sequence[tuple[str, str, str]], row: dict[str, int], left: float, y: float
) -> list[Markup]:
    whole = sum(row.get(key, 0) for key, _, _ in keys)
    parts: list[Markup] = []
    x = left
    for key, label, style in keys:
        share = row.get(key, 0) / whole if whole else 0.0
        width = share * (RIGHT - left)
        if not width:
            continue
        note = f"{label}: {row[key]:,} ({100 * share:.1f} %)"
        parts.append(rect(x, y, max(0.6, width - 1), 20, f"fill-{style}", note))
        if width >= 28:
            parts.append(text(x + width / 2, y + 14, f"{100 * share:.0f} %", f"on-{style} middle"))
        x += width
    return parts


def _bar_words(chart: StackedBars) -> str:
    said = []
    for label, row in chart.rows:
        figures = (f"{words} {row[key]}" for key, words, _ in chart.keys if row.get(key))
        said.append(f"{label}: {', '.join(figures)}")
    return f"{chart.title}. " + ". ".join(said)
