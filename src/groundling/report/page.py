"""The report page: everything about a run in one file that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groundling.atomic import write_bytes
from groundling.report.bar_chart import StackedBars, draw_bars
from groundling.report.gallery import gallery
from groundling.report.line_chart import LineChart, Series, common_range, draw_lines
from groundling.report.panel import Panel, sheet, styles
from groundling.report.record import RunRecord, blaming_record, read_record, stage_label
from groundling.report.tables import (
    ACTS,
    accuracy_rows,
    floor_rows,
    round_rows,
    time_table,
)
from groundling.report.verdict import ALPHA, PARTS, RESAMPLES, Verdict, judge_run, p_words, points

_MEANINGS = (
    ("exact", "exact", "a"),
    ("ambiguous", "ambiguous", "b"),
    ("wrong", "wrong", "c"),
    ("not understood", "not understood", "d"),
    ("absent", "“absent”", "e"),
)
_FATES = (
    ("sample", "pair, own success", "a"),
    ("expert", "pair, expert’s", "b"),
    ("no failure", "dropped, all right", "d"),
    ("no success", "dropped, none right", "c"),
    ("no expert", "dropped, no expert", "e"),
    ("same text", "dropped, same text", "f"),
    ("nothing judged", "dropped, not judged", "g"),
    ("unscored", "dropped, not scored", "i"),
    ("unwritten", "nothing written", "h"),
)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` and `figures/*.svg` into the run directory; return the page's path.

    The run may be unfinished: the page then shows what there is. Raises RunError where `run_dir`
    is not a run directory.
    """
    record = read_record(run_dir)
    with blaming_record(run_dir):
        return write_page(record, judge_run(record))


def write_page(record: RunRecord, verdict: Verdict) -> Path:
    """Write the page and the figures of a run that has been read and judged."""
    pages = _environment()
    drawn = {
        "accuracy": accuracy_panels(record),
        "rewards": reward_panels(record),
        "meanings": meaning_panels(record),
    }
    css = styles()
    for name, panels in drawn.items():
        if panels:
            write_bytes(record.path / f"figures/{name}.svg", sheet(panels, css).encode())
    text = pages.get_template("report.html").render(_context(record, verdict, drawn))
    path = record.path / "report.html"
    write_bytes(path, text.encode())
    return path


def accuracy_panels(record: RunRecord) -> list[Panel]:
    """Accuracy from fine-tuning on: overall, groundable, ungroundable; scaled alike."""
    stages = [stage for stage in record.stages if stage["name"] != "untuned"]
    if len(stages) < 2:
        return []
    names = [stage["name"] for stage in stages]
    places = ["SFT" if name == "sft" else name.removeprefix("round-") for name in names]
    mark = names.index(record.selected) if record.selected in names else None
    lines = {part: _accuracy_lines(stages, part) for part in PARTS}
    ranges = common_range([_heights(series) for series in lines.values()])
    floor = record.floors["test"].get("none", {}).get("all")
    panels = []
    for (part, series), (low, high) in zip(lines.items(), ranges, strict=True):
        level = (floor, "always absent") if part == "accuracy" and floor is not None else None
        chart = LineChart(PARTS[part], places, series, low, high, mark, floor=level)
        panels.append(draw_lines(chart))
    return panels


def reward_panels(record: RunRecord) -> list[Panel]:
    """Rewards, successes and pairs by round."""
    if not record.rounds:
        return []
    places = [str(t) for t in record.rounds]
    rows = list(record.rounds.values())
    mean = [
        Series(label, [_percent(row["mean_reward"][part]) for row in rows], style, told=True)
        for part, label, style in (
            ("ungroundable", "not in the picture", "c"),
            ("all", "all", "a"),
            ("groundable", "in the picture", "b"),
        )
    ]
    samples = record.config["samples"]
    successes = [
        Series("at least one", [_percent(row["any_success"]) for row in rows], "a", told=True),
        Series(f"all {samples}", [_percent(row["all_success"]) for row in rows], "b", told=True),
    ]
    return [
        draw_lines(LineChart("Mean reward of a sample", places, mean)),
        draw_lines(LineChart(f"Prompts with successes among {samples}", places, successes)),
        draw_bars(StackedBars("What became of the prompts", _FATES, _fates(record))),
    ]


def meaning_panels(record: RunRecord) -> list[Panel]:
    """What expressions mean in their scenes, where the world is known: drawn, and on test."""
    drawn = [(f"Round {t}", row["verdicts"]) for t, row in record.rounds.items() if row["verdicts"]]
    answered = [
        (stage_label(stage["name"]), stage["test"]["verdicts"])
        for stage in record.stages
        if stage["test"].get("verdicts")
    ]
    panels = []
    if drawn:
        panels.append(draw_bars(StackedBars("Samples drawn in training", _MEANINGS, drawn)))
    if answered:
        title = "Answers on test, entity in the picture"
        panels.append(draw_bars(StackedBars(title, _MEANINGS, answered)))
    return panels


def _accuracy_lines(stages: Sequence[Mapping[str, Any]], part: str) -> list[Series]:
    span = "all" if part == "accuracy" else part
    bands = [stage["test"]["interval"][span] for stage in stages]
    test = [stage["test"][part]["all"] for stage in stages]
    validation = [stage["validation"][part]["all"] for stage in stages]
    return [
        Series("validation", validation, "b", dashed=True),
        Series(
            "test, with 95 % interval", test, "a", [b and (b[0], b[1]) for b in bands], told=True
        ),
    ]


def _heights(series: Iterable[Series]) -> list[float | None]:
    """Every level that a panel must have room for."""
    found: list[float | None] = []
    for line in series:
        found += line.values
        found += [end for pair in line.band if pair for end in pair]
    return found


def _fates(record: RunRecord) -> list[tuple[str, dict[str, int]]]:
    return [
        (
            f"Round {t}",
            {
                "sample": row["pairs"]["from_sample"],
                "expert": row["pairs"]["from_expert"],
                "unwritten": row["prompts_unwritten"],
                **row["dropped"],
            },
        )
        for t, row in record.rounds.items()
    ]


def _context(
    record: RunRecord, verdict: Verdict, drawn: Mapping[str, Sequence[Panel]]
) -> dict[str, Any]:
    """What the template is filled with."""
    compared = verdict.before is not None and verdict.after is not None
    groups = gallery(record, verdict.before or "", verdict.after or "") if compared else ()
    widest = max((abs(end) for c in verdict.contrasts for end in c.interval or ()), default=0.0)
    return {
        "record": record,
        "config": record.config,
        "world": "the embedded world" if record.config["data"].get("toyworld") else "Twitter-GMNER",
        "verdict": verdict,
        "parts_named": PARTS,
        "reach": max(1.0, 1.15 * widest),
        "rows": accuracy_rows(record),
        "floors": floor_rows(record),
        "rounds": round_rows(record),
        "panels": {name: [panel.inline() for panel in panels] for name, panels in drawn.items()},
        "groups": groups,
        "times": time_table(record.events),
        "acts": ACTS,
        "drift": _drift(record.events),
        "yaml": yaml.safe_dump(dict(record.config), sort_keys=False, allow_unicode=True),
        "alpha": ALPHA,
        "resamples": RESAMPLES,
    }


def _drift(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was different when the run was taken up again: `versions.torch: 2.11 → 2.12`."""
    changes = [
        f"{key}: {then} → {now}"
        for event in events
        if event["kind"] == "continued"
        for key, (then, now) in event["payload"].get("changed", {}).items()
    ]
    return list(dict.fromkeys(changes))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("groundling", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"stage": stage_label, "points": points, "p_words": p_words}
    pages.globals["css"] = lambda name: Markup(_source(pages, name))
    return pages


def _source(pages: Environment, name: str) -> str:
    """A stylesheet of ours, as it stands."""
    assert pages.loader is not None
    return pages.loader.get_source(pages, name)[0]
