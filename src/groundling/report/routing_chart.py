"""What asking about more mentions brings: F1 against the share of calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from groundling.metrics import Floats
from groundling.report.line_chart import LineChart, Series, common_range, draw_lines
from groundling.report.panel import Panel, sheet, styles

SHARES = tuple(share / 10 for share in range(11))
"""Shares of all mentions that are asked about, at which curves are drawn."""

Interval = tuple[float, float]


def routing_panel(
    title: str,
    uncertain: Sequence[float],
    by_chance: Sequence[float],
    bands: tuple[Sequence[Interval], Sequence[Interval]] = ((), ()),
) -> Panel:
    """F1 in percent at SHARES, the least certain mentions first and in random order, with bands."""
    series = [
        Series("least certain first", uncertain, "a", bands[0], told=True),
        Series("random order", by_chance, "b", bands[1], dashed=True),
    ]
    heights = [*uncertain, *by_chance, *(end for band in bands for pair in band for end in pair)]
    ((low, high),) = common_range([heights])
    places = [f"{100 * share:.0f}" for share in SHARES]
    across = "mentions asked about, %"
    return draw_lines(LineChart(title, places, series, low, high, across=across))


def routing_sheet(f1: Sequence[float], f1_random: Sequence[Sequence[float]], title: str) -> str:
    """The plot of a run, SVG: F1 in percent after each call, and the same for random orders.

    The band of the random orders is their range.
    """
    drawn = np.array([at_shares(curve) for curve in f1_random])
    band = [(float(low), float(high)) for low, high in zip(drawn.min(0), drawn.max(0), strict=True)]
    panel = routing_panel(title, at_shares(f1).tolist(), drawn.mean(0).tolist(), ((), band))
    return sheet([panel], styles())


def at_shares(curve: Sequence[float]) -> Floats:
    """The values of a curve over 0, 1, 2 … calls at SHARES, rounded down to whole calls."""
    last = len(curve) - 1
    return np.array([curve[math.floor(share * last + 1e-9)] for share in SHARES])
