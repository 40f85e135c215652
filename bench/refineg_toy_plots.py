"""The plots of docs/results/refineg-toy.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from refineg_toy_runs import SPLITS, Measured, Routed, Shown

from groundling.metrics import Floats, f1_scores, ratios
from groundling.report.line_chart import LineChart, Series, common_range, draw_lines
from groundling.report.panel import Panel, sheet, styles
from groundling.report.routing_chart import SHARES, Interval, routing_panel
from groundling.scoring.resample import bootstrap_sums, percentile_interval

RESAMPLES = 1000
NAMES = {"dev": "validation", "test": "test"}
"""What splits are called."""


def plots(measured: Measured) -> dict[str, str]:
    """SVG by file name."""
    return {
        "calls.svg": sheet(_call_panels(measured), styles(), 2),
        "examples.svg": sheet(_example_panels(measured), styles(), 2),
    }


def pooled(routed: Sequence[Routed]) -> tuple[Floats, Floats]:
    """Counts of all seeds' posts by uncertainty, and by chance."""
    return (
        np.concatenate([one.uncertain for one in routed]),
        np.concatenate([one.by_chance for one in routed]),
    )


def _call_panels(measured: Measured) -> list[Panel]:
    panels = []
    for split in SPLITS:
        sides = pooled(measured.routed[split])
        levels = [(100 * f1_scores(one.sum(axis=0))).tolist() for one in sides]
        panels.append(
            routing_panel(
                f"MNER F1, {NAMES[split]}",
                levels[0],
                levels[1],
                (_bands(sides[0]), _bands(sides[1])),
            )
        )
    return panels


def _bands(counts: Floats) -> list[Interval]:
    drawn = f1_scores(bootstrap_sums(counts, RESAMPLES, 0))
    found = [percentile_interval(100 * drawn[:, place]) for place in range(len(SHARES))]
    return [pair for pair in found if pair is not None]


def pools(measured: Measured) -> tuple[int | None, int | None]:
    """The two pools of examples, as `Shown.labelled` says them."""
    return measured.config.data.labelled, None


def _example_panels(measured: Measured) -> list[Panel]:
    few, many = pools(measured)
    examples = sorted({way.examples for way in measured.shown})
    drawn: dict[str, list[Series]] = {}
    for pool, words in ((few, f"{few} posts"), (many, "all posts")):
        rows = {}
        for choose in ("similarity", "random"):
            ways = [Shown(pool, choose if k else "similarity", k) for k in examples]
            rows[choose] = [_accuracy(measured.shown[way]) for way in ways]
        drawn[f"Accuracy, in the picture, pool of {words}"] = [
            _series("nearest", rows["similarity"], "a"),
            _series("random", rows["random"], "b", dashed=True),
        ]
    levels = [[v for s in series for v in s.values] for series in drawn.values()]
    places = [str(k) for k in examples]
    top = max(
        end for series in drawn.values() for s in series for pair in s.band for end in pair or ()
    )
    ((low, high),) = common_range([[0.0, top, *(v for row in levels for v in row)]])
    return [
        draw_lines(LineChart(title, places, series, low, high, across="examples shown, K"))
        for title, series in drawn.items()
    ]


def _accuracy(counts: Sequence[Floats]) -> tuple[float, Interval]:
    """Of mentions that are in the picture, all seeds together, with the bootstrap interval."""
    table = np.concatenate(counts)[:, 1]
    drawn = percentile_interval(100 * ratios(bootstrap_sums(table, RESAMPLES, 0)))
    level = 100 * float(ratios(table.sum(axis=0)))
    return level, drawn or (level, level)


def _series(
    label: str, rows: Sequence[tuple[float, Interval]], style: str, dashed: bool = False
) -> Series:
    values, bands = [row[0] for row in rows], [row[1] for row in rows]
    return Series(label, values, style, bands, dashed=dashed, told=not dashed)
