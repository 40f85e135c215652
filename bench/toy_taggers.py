"""What pictures, dropout and ensembles bring a tagger: docs/results/toy-taggers.md.

    python bench/toy_taggers.py [--out runs/toy-taggers] [--page PAGE] [--seeds 0 1 2]

Draws the embedded world and fits a small BiLSTM-CRF on few posts of it in several ways. Every run
is a run directory below --out, so a stopped comparison goes on with the same command. Prints a
Markdown page, or writes it. A few minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from groundling.atomic import make_folder
from groundling.config import ToyworldData
from groundling.config_gmner import TaggingConfig
from groundling.corpus import draw_world
from groundling.errors import GroundlingError
from groundling.fitted import open_fitted
from groundling.settings import load_config
from groundling.tagging import mner_f1, read_split, run_tagging

WORLD = ToyworldData(train_queries=120, validation_queries=300, test_queries=900)
"""Entities in each split."""

BASE: Mapping[str, object] = {
    "tagger.backend": "bilstm",
    "tagger.word_size": 32,
    "tagger.hidden_size": 48,
    "tagger.dropout": 0.3,
    "tagger.device": "cpu",
    "tuning.lr": 5e-3,
    "tuning.crf_lr": 2e-2,
    "tuning.batch_size": 8,
    "tuning.epochs": 30,
    "patience": 8,
    "evaluate": ["test"],
}


@dataclass(frozen=True, slots=True)
class Row:
    """A way to fit and to be sure: what it changes of BASE."""

    name: str
    changes: Mapping[str, object] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of its run directories."""
        return self.name.replace(",", "").replace(" ", "-").lower()


SEEING = Row("text and picture, marginal", {"tagger.vision.encoder": "cnn"})
ROWS = (
    Row("text, marginal"),
    Row(
        "text, MC dropout",
        {"tagger.uncertainty.kind": "mc-dropout", "tagger.uncertainty.count": 20},
    ),
    Row("text, ensemble", {"tagger.uncertainty.kind": "ensemble", "tagger.uncertainty.count": 5}),
    SEEING,
)


def world(out: Path, size: ToyworldData = WORLD, seed: int = 0) -> Path:
    """The embedded world, drawn once."""
    folder = out / "world"
    if not (folder / "txt" / "test.txt").exists():
        draft = out / "draft"
        make_folder(draft)
        draw_world(draft, size, seed)
        draft.rename(folder)
    return folder


def outcome(row: Row, source: Path, out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The metrics of a row's runs, one a seed; what is there is not run again."""
    made = []
    for seed in seeds:
        told = {"data.source": str(source), "data.images": str(source / "images"), "seed": seed}
        config = load_config(TaggingConfig, None, {**BASE, **row.changes, **told})
        made.append(run_tagging(config, run_folder(row, out, seed)))
    return made


def run_folder(row: Row, out: Path, seed: int) -> Path:
    """Where a row's run of a seed lies."""
    return out / row.folder / f"seed-{seed}"


def with_other_pictures(source: Path, out: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """F1 on test, a seed each, of the taggers that look, shown something else: the control."""
    posts = read_split(source, "test", images=source / "images")
    neighbours = [*posts[1:], posts[0]]
    shown = {
        "its own": posts,
        "none": [replace(post, image=None) for post in posts],
        "another post's": [
            replace(post, image=other.image) for post, other in zip(posts, neighbours, strict=True)
        ],
    }
    taggers = [open_fitted(run_folder(SEEING, out, seed))[0] for seed in seeds]
    return {
        name: [100 * mner_f1(tagger, rows) for tagger in taggers] for name, rows in shown.items()
    }


def page(
    outcomes: Mapping[str, list[dict[str, Any]]],
    shown: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
) -> Iterator[str]:
    """The lines of the page."""
    yield "# Pictures, dropout and ensembles on the embedded world"
    yield ""
    yield (
        "Made by `python bench/toy_taggers.py --page docs/results/toy-taggers.md`; no figure is "
        "typed."
    )
    yield ""
    yield (
        f"A BiLSTM-CRF fitted on posts with {WORLD.train_queries} entities of the embedded world, "
        f"tested on {WORLD.test_queries}; mean ± standard deviation of seeds "
        f"{', '.join(map(str, seeds))}. F1 of words and type, in percent. Calibration error (15 "
        "bins), Brier score and negative log likelihood before → after the temperature that was "
        "chosen on dev; area under the curve of risk and coverage, lower is better, beside the "
        "share of mentions that are wrong, which a random order has."
    )
    yield ""
    yield "| | F1 | calibration error | Brier | −log likelihood | area | share wrong |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, runs in outcomes.items():
        yield f"| {name} | " + " | ".join(_cells(runs)) + " |"
    first, *others = outcomes
    yield ""
    yield f"Points of F1 over *{first}*, seed by seed:"
    yield ""
    for name in others:
        pairs = zip(outcomes[name], outcomes[first], strict=True)
        gains = ", ".join(f"{_f1(run) - _f1(base):+.2f}" for run, base in pairs)
        yield f"- {name}: {gains}"
    yield ""
    yield (
        f"F1 of *{SEEING.name}* by the picture that test posts are shown with, training as above:"
    )
    yield ""
    for name, f1 in shown.items():
        yield f"- {name}: {_spread(f1, 2)}"


def _cells(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _spread([_f1(run) for run in runs], 2)
    figures = [run["scores"]["test"]["confidence"] for run in runs]
    if any(one["calibrated"]["answers"] == 0 for one in figures):
        yield from ["–"] * 5
        return
    for name in ("ece", "brier", "nll"):
        sides = ([one[side][name] for one in figures] for side in ("as_fitted", "calibrated"))
        yield " → ".join(_spread(side, 3) for side in sides)
    yield _spread([one["calibrated"]["aurc"] for one in figures], 4)
    yield _spread([1 - one["calibrated"]["accuracy"] for one in figures], 3)


def _f1(run: Mapping[str, Any]) -> float:
    return float(run["scores"]["test"]["rules"]["span"]["mner"]["f1"])


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def main() -> None:
    """Run what is missing, then print the page or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/toy-taggers"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    try:
        source = world(options.out)
        outcomes = {row.name: outcome(row, source, options.out, options.seeds) for row in ROWS}
        shown = with_other_pictures(source, options.out, options.seeds)
    except GroundlingError as fault:
        parser.error(str(fault))
    text = "\n".join(page(outcomes, shown, options.seeds)) + "\n"
    if options.page is None:
        print(text, end="")
    else:
        options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
