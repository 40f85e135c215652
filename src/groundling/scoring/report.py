"""Scores as text for people. Every table names its rule: figures mean nothing without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groundling.metrics import Ratio
from groundling.scoring.compare import Comparison
from groundling.scoring.floors import Floor
from groundling.scoring.isr import SUMMARY, IsrScore
from groundling.scoring.resample import Difference, Interval
from groundling.scoring.triples import TaskScore, TripleScore

NOT_COMPARABLE = "Figures under different rules are not comparable."

_ISR_ROWS = {
    "accuracy": "any gold box",
    "largest": "largest gold box",
    "groundable": "groundable",
    "ungroundable": "ungroundable",
    "always_absent": "always absent",
}
_FLOOR_MEANING: dict[Floor, str] = {
    "none": "every entity absent",
    "whole": "the whole picture for every entity",
    "mean-person": "PER: where people are on average; other types absent",
    "oracle-whole": "told which are groundable; the whole picture for those",
}


def isr_report(score: IsrScore) -> str:
    """Acc@0.5 by type and overall, by gold, with intervals and the always-absent floor."""
    columns = list(score.accuracy)
    rows = [["Acc@0.5", *columns, "95 % of all"]]
    for field, label in _ISR_ROWS.items():
        figures = _percents(getattr(score, field))
        key = "all" if field == "accuracy" else field
        rows.append([label, *figures, _span(score.interval.get(key))])
    totals = [str(ratio.total) for ratio in score.accuracy.values()]
    rows.append(["entities", *totals, ""])
    return "\n".join([f"Rule isr: {SUMMARY}", "", _table(rows), "", NOT_COMPARABLE])


def triple_report(score: TripleScore) -> str:
    """Precision, recall and F1 of the three tasks, and what mentions were compared by."""
    rows = [["", "P", "R", "F1", "95 % of F1", "right", "predicted", "gold", "compared by"]]
    rows += [_task_row(name, task) for name, task in score.tasks.items()]
    rows += [_task_row(name, task) for name, task in score.by_name.items()]
    head = f"Rule {score.rule.name}: {score.rule.summary}"
    return "\n".join([head, "", _table(rows), "", NOT_COMPARABLE])


def floor_report(floors: Mapping[Floor, IsrScore]) -> str:
    """What each floor scores under the rule `isr`."""
    columns = next((list(score.accuracy) for score in floors.values()), [])
    rows = [["Acc@0.5", *columns, ""]]
    for floor, score in floors.items():
        rows.append([floor, *_percents(score.accuracy), _FLOOR_MEANING[floor]])
    head = f"Floors under rule isr: {SUMMARY}"
    return "\n".join([head, "", _table(rows, left=(0, len(columns) + 1)), "", NOT_COMPARABLE])


def comparison_report(comparison: Comparison, other: str) -> str:
    """Differences to another file, with intervals and p values."""
    rows = [["this minus other, points", "difference", "95 % interval", "p"]]
    rows += [_difference_row(name, change) for name, change in comparison.differences.items()]
    lines = [f"Against {other}:", "", _table(rows)]
    test = comparison.mcnemar
    if test is not None:
        lines += [
            "",
            f"Right only here {test.only_this}, only there {test.only_other}; "
            f"McNemar's exact p = {test.p_value:.4g} (takes queries as independent)",
        ]
    lines += ["", "p: approximate randomisation over posts; interval: the same test turned round."]
    return "\n".join(lines)


def _task_row(name: str, task: TaskScore) -> list[str]:
    counts = task.counts
    shares = [f"{100 * share:.2f}" for share in (counts.precision, counts.recall, counts.f1)]
    sizes = [str(size) for size in (counts.right, counts.predicted, counts.gold)]
    return [name.upper(), *shares, _span(task.f1_interval), *sizes, task.unit]


def _difference_row(name: str, change: Difference) -> list[str]:
    label = name.upper() if name in {"gmner", "eeg", "mner"} else name
    value = "–" if change.value is None else f"{100 * change.value:+.2f}"
    p_value = "–" if change.p_value is None else f"{change.p_value:.4f}"
    return [label, value, _span(change.interval), p_value]


def _percents(row: Mapping[str, Ratio]) -> list[str]:
    return [
        "–" if (percent := ratio.percent) is None else f"{percent:.2f}" for ratio in row.values()
    ]


def _span(pair: Interval | None) -> str:
    return "" if pair is None else f"{100 * pair[0]:.2f} … {100 * pair[1]:.2f}"


def _table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns two spaces apart, flush right but for those in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
