"""A drawn chart: a panel of fixed width, shown in a page by itself or with others on a sheet.

Colours and type are CSS classes of `templates/chart.css` (Okabe and Ito's palette, safe for
colour-blind readers); markers and dashes tell series apart without colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

WIDTH = 360
HEIGHT = 240
RIGHT = 352
"""Where the marks of a panel end."""
LETTER = 6.1
"""Mean width of a letter of a legend, in the panel's units."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawn chart: its marks, its height, and what it says in words."""

    body: Markup
    words: str
    height: int = HEIGHT

    def inline(self) -> Markup:
        """The panel for a page that brings its styles along."""
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        ).format(WIDTH, self.height, self.words, self.body)


def styles() -> str:
    """The style sheet of charts, for a sheet of panels."""
    return files("groundling").joinpath("templates/chart.css").read_text(encoding="utf-8")


def sheet(panels: Sequence[Panel], css: str, columns: int = 3) -> str:
    """A file of its own with the panels in rows."""
    gap = 20
    columns = min(columns, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    tops = [0]
    for row in rows:
        tops.append(tops[-1] + max(panel.height for panel in row) + gap)
    placed = [
        Markup('<g transform="translate({} {})"><title>{}</title>{}</g>').format(
            gap + column * (WIDTH + gap), gap + top, panel.words, panel.body
        )
        for row, top in zip(rows, tops, strict=False)
        for column, panel in enumerate(row)
    ]
    width, height = gap + columns * (WIDTH + gap), gap + tops[-1]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" class="chart">\n<style>{css}</style>\n'
        f'<rect class="sheet" width="{width}" height="{height}"/>\n'
        + "\n".join(placed)
        + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, style: str) -> Markup:
    """Words at a place; `style` holds CSS classes."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        style, x1, y1, x2, y2
    )


def rect(x: float, y: float, width: float, height: float, style: str, note: str = "") -> Markup:
    """A box; `note` is told where a pointer rests on it."""
    title = Markup("<title>{}</title>").format(note) if note else ""
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>'
    ).format(style, x, y, width, height, title)
