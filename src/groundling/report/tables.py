"""The rows of the page's tables: accuracy as in the paper's Table 3, rounds, and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from groundling.records import ENTITY_TYPES
from groundling.report.record import RunRecord, stage_label

COLUMNS = (*ENTITY_TYPES, "all")
ACTS = ("draw", "judge", "prefer", "train", "evaluate")
"""What a stage does with its time, in order."""

_FLOOR_WORDS = {
    "none": "Always absent",
    "mean-person": "Mean person",
    "whole": "Whole picture",
    "oracle-whole": "Whole picture, presence known",
}
_KNOWN_PARTS = {"none": (0.0, 100.0), "whole": (None, 0.0), "oracle-whole": (None, 100.0)}
"""Floors whose accuracy on groundable and ungroundable queries follows from their definition."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A percentage with two decimals, and its 95 % interval where there is one."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A system: test by type, overall, groundable, ungroundable; and validation overall."""

    label: str
    cells: tuple[Cell, ...]
    validation: Cell
    selected: bool = False


def accuracy_rows(record: RunRecord) -> list[Row]:
    """A row for each evaluated writer."""
    rows = []
    for stage in record.stages:
        test, validation = stage["test"], stage["validation"]
        spans = test["interval"]
        cells = [_cell(test["accuracy"][name], spans[name]) for name in COLUMNS]
        cells += [_cell(test[part]["all"], spans[part]) for part in ("groundable", "ungroundable")]
        rows.append(
            Row(
                _system(stage["name"]),
                tuple(cells),
                _cell(validation["accuracy"]["all"], validation["interval"]["all"]),
                stage["name"] == record.selected,
            )
        )
    return rows


def floor_rows(record: RunRecord) -> list[Row]:
    """A row for each answer that needs no model."""
    rows = []
    for name, label in _FLOOR_WORDS.items():
        accuracy = record.floors["test"].get(name)
        if accuracy is None:
            continue
        validation = record.floors["validation"].get(name, {}).get("all")
        cells = [_cell(accuracy[column]) for column in COLUMNS]
        cells += [_cell(known) for known in _KNOWN_PARTS.get(name, (None, None))]
        rows.append(Row(label, tuple(cells), _cell(validation)))
    return rows


def round_rows(record: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """The numbers behind the charts of the rounds: a label, then (what, figure) pairs."""
    return [(stage_label(f"round-{t}"), list(_figures(row))) for t, row in record.rounds.items()]


def _figures(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "prompts", f"{row['prompts']:,}"
    yield "expressions drawn", f"{row['expressions']:,}"
    for part in ("all", "groundable", "ungroundable"):
        yield f"mean reward, {part}", _share(row["mean_reward"][part])
    yield "prompts with a success", _share(row["any_success"])
    yield "prompts with only successes", _share(row["all_success"])
    for verdict, count in row["verdicts"].items():
        yield f"expressions {verdict}", f"{count:,}"
    yield "pairs, chosen from samples", f"{row['pairs']['from_sample']:,}"
    yield "pairs, chosen from experts", f"{row['pairs']['from_expert']:,}"
    for reason, count in row["dropped"].items():
        yield f"dropped, {reason}", f"{count:,}"
    yield "prompts nothing was written for", f"{row['prompts_unwritten']:,}"
    yield "expressions the grounder failed on", f"{row['expressions_unjudged']:,}"


@dataclass(frozen=True, slots=True)
class TimeRow:
    """Seconds of a part of the run by act, in words; `share` of the whole in percent."""

    label: str
    acts: tuple[str, ...]
    total: str
    share: float


@dataclass(frozen=True, slots=True)
class Times:
    """Where the time went. `continued` counts the times that the run was taken up again."""

    rows: tuple[TimeRow, ...]
    total: str
    began: str
    continued: int
    adopted: tuple[str, ...]


def time_table(events: Sequence[Mapping[str, Any]]) -> Times:
    """Wall time by part and act. Attempts that a kill cut short left no end and are not in it."""
    spent: dict[str, dict[str, float]] = {}
    for stage, seconds in stage_seconds(events).items():
        part, act = _place(stage)
        spent.setdefault(part, defaultdict(float))[act] += seconds
    whole = sum(sum(acts.values()) for acts in spent.values())
    rows = tuple(
        TimeRow(
            label=_PARTS.get(part) or stage_label(part),
            acts=tuple(duration(acts[act]) if act in acts else "" for act in ACTS),
            total=duration(sum(acts.values())),
            share=100 * sum(acts.values()) / whole if whole else 0.0,
        )
        for part, acts in spent.items()
    )
    began = next((_moment(event) for event in events), None)
    return Times(
        rows=rows,
        total=duration(whole),
        began=f"{began.day} {began:%B %Y, %H:%M} UTC" if began else "",
        continued=_continued(events),
        adopted=tuple(event["stage"] for event in events if event["kind"] == "adopted"),
    )


def stage_seconds(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Wall seconds of each stage over its attempts that ended, in order of their first start."""
    began: dict[str, datetime] = {}
    spent: dict[str, float] = {}
    for event in events:
        stage, kind = event["stage"], event["kind"]
        if stage is None:
            continue
        if kind == "started":
            began[stage] = _moment(event)
            spent.setdefault(stage, 0.0)
        elif kind in ("finished", "stopped") and stage in began:
            seconds = (_moment(event) - began.pop(stage)).total_seconds()
            spent[stage] += max(0.0, seconds)  # the clock may have been set back in between
    return spent


def _continued(events: Sequence[Mapping[str, Any]]) -> int:
    """How often the run was taken up again with something left to do."""
    found, waiting = 0, False
    for event in events:
        if event["kind"] == "continued":
            waiting = True
        elif event["kind"] == "started" and waiting:
            found, waiting = found + 1, False
    return found


def duration(seconds: float) -> str:
    """`3.2 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_PARTS = {"data": "Data", "grounder": "Grounder", "untuned": "Untuned writer"}


def _place(stage: str) -> tuple[str, str]:
    """The part of the run and the act of a stage: `round-2-draw` → round-2, draw."""
    if stage.startswith("evaluate-"):
        return stage.removeprefix("evaluate-"), "evaluate"
    part, _, act = stage.rpartition("-")
    if part.startswith("round-"):
        return part, "train" if act == "update" else act
    return stage, "" if stage == "data" else "train"


def _moment(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])


def _system(name: str) -> str:
    """A row's label, in the manner of the paper's Table 3."""
    if name == "untuned":
        return "Untuned writer"
    return "+ SFT" if name == "sft" else f"+ ISR, {stage_label(name).lower()}"


def _cell(value: float | None, interval: Sequence[float] | None = None) -> Cell:
    if value is None:
        return Cell("–")
    span = f"{interval[0]:.1f}–{interval[1]:.1f}" if interval else ""
    return Cell(f"{value:.2f}", span)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
