"""What came out of a run, in sentences that are computed and say plainly when it is a tie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from groundling.errors import GroundlingError
from groundling.report.record import RunRecord, stage_label
from groundling.scoring.compare import Comparison, compare_isr
from groundling.scoring.resample import Difference

RESAMPLES = 2000
"""Resamples behind each difference's interval and p value."""

ALPHA = 0.05
"""A difference counts where its p value is below this: there its 95 % interval leaves out 0."""

Outcome = Literal["gain", "loss", "tie", "untested"]
PARTS = {
    "accuracy": "All queries",
    "groundable": "In the picture",
    "ungroundable": "Not in the picture",
}
"""The figures that are always shown together, and what the page calls them."""

_HOLDING: dict[tuple[Outcome, Outcome], str] = {
    ("gain", "gain"): "The gain holds where the entity is in the picture",
    ("gain", "tie"): "Where the entity is in the picture, the gain is not certain",
    ("gain", "loss"): "But where the entity is in the picture, answers got worse",
    ("tie", "gain"): "Where the entity is in the picture, there is a gain",
    ("tie", "tie"): "Where the entity is in the picture, it is a tie too",
    ("tie", "loss"): "Where the entity is in the picture, answers got worse",
    ("loss", "gain"): "Where the entity is in the picture, answers still got better",
    ("loss", "tie"): "Where the entity is in the picture, it is a tie",
    ("loss", "loss"): "The loss holds where the entity is in the picture",
}


@dataclass(frozen=True, slots=True)
class Contrast:
    """One figure before and after, in percent, and their difference in points.

    `interval` and `p_value` are None where the difference could not be tested.
    """

    part: str
    before: float | None
    after: float | None
    difference: float | None
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @property
    def outcome(self) -> Outcome:
        """Whether the difference counts, by `ALPHA`."""
        if self.interval is None or self.p_value is None or self.difference is None:
            return "untested"
        if self.p_value < ALPHA:
            return "gain" if self.difference > 0 else "loss"
        return "tie"

    def words(self) -> str:
        """`+2.4 points (95 % interval +1.4 to +3.4, p < 0.001)`."""
        if self.difference is None:
            return "nothing was asked"
        change = f"{points(self.difference)}\u00a0points"
        if self.interval is None or self.p_value is None:
            return f"{change} (not tested)"
        low, high = (points(end) for end in self.interval)
        return f"{change} (95\u00a0% interval {low} to {high}, {p_words(self.p_value)})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The headline, what supports it, and the two stages that the page compares."""

    title: str
    sentences: tuple[str, ...]
    before: str | None = None
    after: str | None = None
    contrasts: tuple[Contrast, ...] = ()
    warnings: tuple[str, ...] = ()


def judge_run(record: RunRecord) -> Verdict:
    """The verdict on a run: the selected round against fine-tuning, on test."""
    pair = compared(record)
    if pair is None:
        return _too_early(record)
    before, after = pair
    contrasts = contrast(record, before, after)
    total = contrasts[0]
    asked = record.stage(after)["test"]["queries"]
    who = _introduced(record, before, after)
    lead = f"On {asked:,} test queries, {who}: {_levels(total)}{total.words()}."
    return Verdict(
        title=_title(record, before, after, total),
        sentences=tuple(
            part for part in (_chosen(record, after), lead, _holding(contrasts)) if part
        ),
        before=before,
        after=after,
        contrasts=contrasts,
        warnings=_warnings(record, after, total),
    )


def compared(record: RunRecord) -> tuple[str, str] | None:
    """The stages to compare: SFT and the selected round.

    Where SFT itself was selected, SFT and the last round; without rounds, untuned and SFT.
    """
    names = record.names
    rounds = [name for name in names if name.startswith("round-")]
    if "sft" in names and rounds:
        chosen = record.selected if record.selected in rounds else rounds[-1]
        return "sft", chosen
    return ("untuned", "sft") if {"untuned", "sft"} <= set(names) else None


def contrast(record: RunRecord, before: str, after: str) -> tuple[Contrast, ...]:
    """The difference between two stages on test: overall, groundable, ungroundable."""
    comparison = _comparison(record, before, after)
    scores = {name: record.stage(name)["test"] for name in (before, after)}
    return tuple(
        _contrast(part, scores[before], scores[after], comparison.differences[part])
        if comparison
        else _contrast(part, scores[before], scores[after], None)
        for part in PARTS
    )


def points(value: float) -> str:
    """A difference with its sign: `+2.4`, `−0.3`, `0.0`."""
    shown = f"{abs(value):.1f}"
    if float(shown) == 0:
        return shown
    return ("+" if value > 0 else "−") + shown


def p_words(p_value: float) -> str:
    """`p = 0.042`, or `p < 0.001`."""
    words = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    return words.replace(" ", "\u00a0")


def _comparison(record: RunRecord, before: str, after: str) -> Comparison | None:
    """The paired comparison, None where gold or predictions are not at hand."""
    if record.gold is None:
        return None
    try:
        this, other = record.predictions(after), record.predictions(before)
        return compare_isr(record.gold.posts, this, other, resamples=RESAMPLES)
    except (GroundlingError, OSError):
        return None


def _contrast(
    part: str, before: Mapping[str, Any], after: Mapping[str, Any], tested: Difference | None
) -> Contrast:
    first, second = before[part]["all"], after[part]["all"]
    if first is None or second is None:
        return Contrast(part, first, second, None)
    if tested is None or tested.value is None or tested.interval is None:
        return Contrast(part, first, second, second - first)
    low, high = tested.interval
    return Contrast(
        part, first, second, 100 * tested.value, (100 * low, 100 * high), tested.p_value
    )


def _title(record: RunRecord, before: str, after: str, total: Contrast) -> str:
    if after != record.selected:
        return "No round beat fine-tuning on validation"
    who = "Fine-tuning" if before == "untuned" else "Self-refinement"
    amount = f"{abs(total.difference or 0.0):.1f} points on test"
    match total.outcome:
        case "gain":
            return f"{who} gained {amount}"
        case "loss":
            return f"{who} lost {amount}"
        case "tie":
            return f"A tie on test: {who.lower()} made no certain difference"
        case _:
            return f"{who}: {points(total.difference or 0.0)} points on test, not tested"


def _levels(total: Contrast) -> str:
    """`83.0 → 85.4 %, `, before the difference itself."""
    if total.difference is None:
        return ""
    return f"{total.before:.1f}\u00a0→\u00a0{total.after:.1f}\u00a0%, "


def _introduced(record: RunRecord, before: str, after: str) -> str:
    if before == "untuned":
        return "the fine-tuned writer against the untuned one"
    if after != record.selected:
        return f"{stage_label(after).lower()}, the last one, against fine-tuning alone"
    return f"{stage_label(after).lower()}, selected on validation, against fine-tuning alone"


def _chosen(record: RunRecord, after: str) -> str:
    """What was selected, where that is not the stage that is compared."""
    if after == record.selected or record.selected is None:
        return ""
    accuracy = record.stage(record.selected)["test"]["accuracy"]["all"]
    name = stage_label(record.selected)
    return f"Validation chose {name}: {accuracy:.1f}\u00a0% on test is the result of this run."


def _holding(contrasts: tuple[Contrast, ...]) -> str:
    total, groundable, ungroundable = contrasts
    words = _HOLDING.get((total.outcome, groundable.outcome), "Where the entity is in the picture")
    return f"{words}: {groundable.words()}. Where it is not: {ungroundable.words()}."


def _warnings(record: RunRecord, after: str, total: Contrast) -> tuple[str, ...]:
    found = []
    name = record.selected or after
    reached = record.stage(name)["test"]["accuracy"]["all"]
    floor = record.floors["test"].get("none", {}).get("all")
    if floor is not None and reached is not None and reached <= floor:
        found.append(
            f"{stage_label(name)} does not beat the floor: always answering “not in the picture” "
            f"is right in {floor:.1f} % of test queries."
        )
    if total.outcome == "untested":
        reason = record.gold_problem or "the answers of both stages are not at hand"
        found.append(f"The difference was not tested: {reason}.")
    return tuple(found)


def _too_early(record: RunRecord) -> Verdict:
    if not record.stages:
        return Verdict("Nothing has been evaluated yet", ())
    last = record.stages[-1]
    accuracy = last["test"]["accuracy"]["all"]
    sentence = f"{stage_label(last['name'])}: {accuracy:.1f} % of test queries are right."
    return Verdict("There is nothing to compare yet", (sentence,))
