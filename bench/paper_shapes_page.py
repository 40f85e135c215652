"""What was measured beside what `groundling plan` says: rows, and a page in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paper_shapes_data import EXPERT_WORDS
from paper_shapes_data import Counts as Made
from paper_shapes_meter import Measured

from groundling.config import IsrConfig
from groundling.planning.counts import Counts, counts_of
from groundling.planning.durations import MEAN_ANSWER
from groundling.planning.page import GIB, gib, hours
from groundling.planning.stages import Stage

STAGES = {
    "grounder tuning": ("grounder",),
    "SFT": ("sft",),
    "sampling": ("round-1-draw",),
    "rewards": ("round-1-judge",),
    "reference scoring": ("round-1-prefer",),
    "DPO": ("round-1-update",),
    "evaluation": ("evaluate-sft", "evaluate-round-1"),
}
"""The stages of a plan and the stages of a run that they stand for. The first evaluation of a run,
`evaluate-untuned`, opens both models as well and is left out."""

UNITS = {
    "grounder tuning": "examples",
    "SFT": "examples",
    "sampling": "prompts",
    "rewards": "prompts",
    "reference scoring": "pairs",
    "DPO": "pairs",
    "evaluation": "queries",
}

TOLERANCE = 0.2
"""How far a plan may lie from what was measured (the project's own requirement)."""

ROOM_GIB = 78
"""What the run must fit into: an 80 GB card after its driver's share."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stage of a plan. `parts` in bytes by name; `measured` is the widest of its stages of the
    run; `many` units of work were done in `seconds`; `planned_s` and `projected_s` are for the
    whole recipe, all rounds."""

    name: str
    parts: dict[str, int]
    measured: Measured | None
    many: int
    seconds: float | None
    planned_s: float | None
    projected_s: float | None

    @property
    def planned(self) -> int:
        """The planned peak in bytes, its reserve included."""
        return sum(self.parts.values())

    @property
    def ratio(self) -> float | None:
        """The planned peak over what the device had to hold; None where that is not known."""
        one = self.measured
        if one is None or one.held is None or one.stopped:
            return None
        return self.planned / one.held

    @property
    def off(self) -> bool:
        """Whether plan and measurement lie further apart than TOLERANCE."""
        return self.ratio is not None and abs(self.ratio - 1) > TOLERANCE


def rows(
    plan: Sequence[Stage],
    durations: Mapping[str, float],
    recipe: IsrConfig,
    made: Made,
    measured: Mapping[str, Measured],
    pairs: int | None = None,
) -> list[Row]:
    """A row for every planned stage; `pairs` is how many the prompts gave, where that is known."""
    full = counts_of(recipe, None)
    found = []
    for stage in plan:
        name = stage.name
        done = [measured[part] for part in STAGES[name] if part in measured]
        whole = len(done) == len(STAGES[name]) and not any(one.stopped for one in done)
        seconds = sum(one.seconds for one in done) if whole else None
        many, wanted = _work(name, recipe, made, full, pairs or made.prompts)
        found.append(
            Row(
                name,
                stage.parts,
                max(done, key=_weight, default=None),
                many,
                seconds,
                durations.get(name),
                None if seconds is None else seconds * wanted / many,
            )
        )
    return found


def _weight(one: Measured) -> tuple[bool, int]:
    """By which one of several measurements stands for all: a stop, then the most that was held."""
    return one.stopped is not None, one.held or 0


def _work(name: str, recipe: IsrConfig, made: Made, full: Counts, pairs: int) -> tuple[int, int]:
    """Units of a stage's work: how many were measured, and how many the whole recipe has.

    As in a plan, every prompt of the recipe is taken to become a pair.
    """
    rounds = recipe.rounds
    if name == "grounder tuning":
        return made.grounded, full.grounded * recipe.grounder_tuning.epochs
    if name == "SFT":
        return made.sft, full.sft * recipe.sft.epochs
    if name == "DPO":
        return pairs, rounds * full.prompts * recipe.dpo.epochs
    if name == "reference scoring":
        return pairs, rounds * full.prompts
    if name == "evaluation":
        return 2 * 2 * made.graded, (rounds + 2) * full.evaluated
    return made.prompts, rounds * full.prompts


def summary(found: Sequence[Row], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The rows for other programs; sizes in GiB, times in seconds."""
    most = [one.held for one in measured.values() if one.held is not None]
    return {
        "complete": all(row.seconds is not None for row in found),
        "peak_gib": _gib(max(most)) if most else None,
        "off": [row.name for row in found if row.off],
        "stopped": {name: one.stopped for name, one in measured.items() if one.stopped},
        "stages": [
            {
                "name": row.name,
                "planned_gib": _gib(row.planned),
                "allocated_gib": _gib(row.measured.allocated) if row.measured else None,
                "held_gib": _gib(row.measured.held) if row.measured else None,
                "planned_to_held": None if row.ratio is None else round(row.ratio, 3),
                "seconds": None if row.seconds is None else round(row.seconds, 2),
                "units": row.many,
                "planned_s": row.planned_s,
                "projected_s": row.projected_s,
            }
            for row in found
        ],
    }


def page(
    found: Sequence[Row],
    measured: Mapping[str, Measured],
    about: Mapping[str, Any],
    drawn: tuple[int, int] | None = None,
) -> str:
    """The whole page; `drawn` are the answers that were drawn, and those of them that were cut."""
    lines = [
        "# The paper's main run at full size, with random weights",
        "",
        f"Made by `{about['command']}`; no figure on this page is typed.",
        "",
        *_setting(about),
        "",
        "## Memory",
        "",
        *_memory(found),
        "",
        *_verdict(found, measured),
        "",
        "## Time",
        "",
        *_time(found, about),
        *([] if drawn is None else _told_drawn(*drawn, about, found)),
        "",
    ]
    return "\n".join(lines)


def _setting(about: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(
        f"{name} {about['versions'][name]}" for name in ("python", "torch", "transformers", "peft")
    )
    made, recipe = about["made"], about["config"]
    lines = [
        f"- Device: {about['device']}; {versions}.",
        f"- Models: {about['models']}, random weights. They answer nonsense, and do not end before "
        f"{recipe['max_new_tokens']} tokens: the worst case. Rewards are 0 but by chance, so pairs "
        "hold the expert's expression.",
        f"- Data: pictures of random colours in the sizes of {about['sizes']}, the largest in "
        f"D_SFT and in D_PL; {made['sft']} queries of D_SFT, {made['prompts']} of D_PL, "
        f"{made['graded']} of each evaluated split; expert expressions of {EXPERT_WORDS[0]} to "
        f"{EXPERT_WORDS[1]} words; a prompt is {about['prompt_tokens']} tokens beside its picture.",
        f"- `{about['recipe']}` but for one round, one epoch of every fit, and these numbers of "
        "queries: batches, micro-batches, precision, checkpointing and K are the recipe's own.",
    ]
    if about["dry_run"]:
        lines.insert(0, "- **A dry run: tiny models and pictures on a CPU. It measures nothing.**")
    return lines


def _memory(found: Sequence[Row]) -> list[str]:
    lines = [
        "GiB. Held is what the device must have: the most that torch reserved, and what lies "
        "outside it (context, kernels). Ratio is the planned peak, reserve included, over what "
        "was held.",
        "",
        "| stage | planned parts | planned | allocated | reserved | held | ratio |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        parts = ", ".join(f"{name} {gib(size)}" for name, size in row.parts.items())
        one = row.measured
        cells = ["", "", ""]
        if one is not None:
            cells = [_cell(one.allocated), _cell(one.reserved), _cell(one.held)]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}" + (" **off**" if row.off else "")
        mark = "†" if one is not None and one.resumed else ""
        lines.append(
            f"| {row.name}{mark} | {parts} | {gib(row.planned)} | {' | '.join(cells)} | {ratio} |"
        )
    if any(row.measured is not None and row.measured.resumed for row in found):
        lines += [
            "",
            "† By a process that went on where another had stopped: until both models are needed "
            "again, the other one was not beside.",
        ]
    return lines


def _verdict(found: Sequence[Row], measured: Mapping[str, Measured]) -> list[str]:
    stopped = {name: one.stopped for name, one in measured.items() if one.stopped}
    lines = [f"- Stage {name} stopped: {reason}." for name, reason in stopped.items()]
    held = {name: one.held for name, one in measured.items() if one.held is not None}
    if not held:
        return [*lines, "- No memory was measured: there was no GPU."]
    name = max(held, key=lambda stage: held[stage])
    fits = "within" if held[name] <= ROOM_GIB * GIB and not stopped else "not within"
    lines.append(f"- Highest: {gib(held[name])} GiB in {name}, {fits} {ROOM_GIB} GiB.")
    known = [row for row in found if row.ratio is not None]
    off = [row.name for row in known if row.off]
    lines.append(
        f"- Planned within {TOLERANCE:.0%} of what was held: {len(known) - len(off)} of "
        f"{len(known)} stages" + (f"; off: {', '.join(off)}." if off else ".")
    )
    return lines


def _time(found: Sequence[Row], about: Mapping[str, Any]) -> list[str]:
    lines = [
        "Projected: the measured time for the recipe's own numbers, epochs and "
        f"{about['config']['rounds']} rounds, all rounds together. What a stage takes once (a "
        "checkpoint, opening the grounder, a warm-up) is scaled along, and answers are as long as "
        "they may be, so projections err on the long side. Planned times take an answer to have "
        f"{MEAN_ANSWER} tokens.",
        "",
        "| stage | measured | rate | projected | planned |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in found:
        rate = "" if not row.seconds else f"{row.many / row.seconds:.3g} {UNITS[row.name]}/s"
        cells = [
            "" if row.seconds is None else f"{row.seconds:.1f} s, {row.many} {UNITS[row.name]}",
            rate,
            "" if row.projected_s is None else hours(row.projected_s),
            "" if row.planned_s is None else hours(row.planned_s),
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    totals = [[row.projected_s for row in found], [row.planned_s for row in found]]
    cells = ["" if None in column else hours(sum(filter(None, column))) for column in totals]
    lines.append(f"| all | | | {' | '.join(cells)} |")
    return lines


def _told_drawn(
    answers: int, cut: int, about: Mapping[str, Any], found: Sequence[Row]
) -> list[str]:
    most = about["config"]["max_new_tokens"]
    told = f"Sampling: {cut} of {answers} answers ran on to {most} tokens"
    seconds = next(row.seconds for row in found if row.name == "sampling")
    speed = (
        f": {answers * most / seconds:.0f} tokens a second" if seconds and cut == answers else ""
    )
    return ["", f"{told}{speed}."]


def _cell(size: int | None) -> str:
    return "" if size is None else gib(size)


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 3)
