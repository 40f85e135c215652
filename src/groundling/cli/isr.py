"""`groundling isr`: iterative self-refinement by a recipe, from the data to a report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundling.cli.json_output import json_text
from groundling.cli.recipe import (
    STOPPED,
    add_recipe_options,
    add_retry_option,
    check_numbers,
    hush_libraries,
    tell_failures,
    unless_stopped,
)

if TYPE_CHECKING:
    from groundling.config import IsrConfig
    from groundling.report.verdict import Verdict

_EXAMPLES = """\
examples:
  groundling isr --config recipes/toy.yaml
  groundling isr --config recipes/toy.yaml --seed 1 --rounds 2 --out runs/short
  groundling isr --config recipes/toy.yaml --set dpo.lr=2e-4 --set samples=8 --out runs/k8

The same command continues a stopped run. What failed in finished stages (a call, a picture) is
recorded there, and --retry tries it again.

configuration (YAML keys, and what --set takes):
"""

_HEADS = ("validation", "test", "in picture", "not in it")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `isr`; its `func` takes the parsed arguments and returns an exit code."""
    from groundling.config import IsrConfig
    from groundling.settings import describe

    parser = subparsers.add_parser(
        "isr",
        help="train a writer by iterative self-refinement and write a report",
        description="Run iterative self-refinement (ISR, Algorithm 1) and write report.html.",
        epilog=_EXAMPLES + describe(IsrConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, YAML")
    add_isr_options(parser)
    add_recipe_options(parser)
    add_retry_option(parser)
    parser.set_defaults(func=run)


def add_isr_options(parser: argparse.ArgumentParser) -> None:
    """Where an ISR run goes, its seed and its rounds."""
    parser.add_argument(
        "--out", metavar="DIR", help="run directory (default: runs/isr-RECIPE-seedN)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="override the recipe's seed")
    parser.add_argument("--rounds", type=int, metavar="N", help="override the number of rounds")


def run(args: argparse.Namespace) -> int:
    """Run or continue, print, return 0; 130 where the user stopped it."""
    from groundling.settings import read_overrides

    recipe, overrides = Path(args.config), read_overrides(args.set)
    page = run_recipe(
        recipe, overrides, args, quiet=args.quiet, as_json=args.json, retry=args.retry
    )
    return STOPPED if page is None else 0


def run_recipe(
    recipe: Path,
    overrides: Mapping[str, object],
    args: argparse.Namespace,
    *,
    quiet: bool = False,
    as_json: bool = False,
    retry: bool = False,
) -> Path | None:
    """Run the recipe with `overrides`, `args.seed` and `args.rounds` on top, into `args.out`.

    Prints what came out and returns the report's path, None where the user stopped the run.
    Raises ConfigError for a wrong configuration, InputError for what it names and is not here, and
    RunError for a directory of another run.
    """
    from groundling.config import IsrConfig
    from groundling.inputs import check_inputs
    from groundling.settings import load_config

    check_numbers(args)
    given = {"seed": args.seed, "rounds": args.rounds}
    asked = {key: value for key, value in given.items() if value is not None}
    config = load_config(IsrConfig, recipe, {**overrides, **asked})
    check_inputs(config)  # before heavy imports
    out = Path(args.out or f"runs/isr-{recipe.stem}-seed{config.seed}")
    return unless_stopped(out, lambda: _run(config, out, quiet, as_json, retry))


def _run(config: IsrConfig, out: Path, quiet: bool, as_json: bool, retry: bool) -> Path:
    hush_libraries()
    from groundling.isr import run_isr
    from groundling.report.page import write_page
    from groundling.report.record import read_record
    from groundling.report.verdict import judge_run
    from groundling.team import leads

    metrics = run_isr(config, out, quiet=quiet, retry=retry)
    if not leads():
        return out / "report.html"
    record = read_record(out)
    verdict = judge_run(record)
    page = write_page(record, verdict)
    if as_json:
        told = {**metrics, "run": str(out), "report": str(page)}
        print(json_text(told))
    else:
        print(metrics_table(metrics) + f"\n\n{_sentences(verdict)}\n\nreport: {page}")
    tell_failures(out)
    return page


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Stages as rows, accuracies in percent as columns, and the floor below them."""
    lines = [_line("", *_HEADS)]
    for stage in metrics["stages"]:
        test = stage["test"]
        figures = [
            stage["validation"]["accuracy"]["all"],
            test["accuracy"]["all"],
            test["groundable"]["all"],
            test["ungroundable"]["all"],
        ]
        chosen = "  selected on validation" if stage["name"] == metrics["selected"] else ""
        lines.append(_line(stage["name"], *map(_percent, figures)) + chosen)
    floors = [_percent(metrics["floors"][split]["none"]["all"]) for split in _HEADS[:2]]
    lines.append(_line("always absent", *floors, "0.00", "100.00"))
    return "\n".join(lines)


def _line(name: str, *cells: str) -> str:
    return f"{name:14}" + "".join(f"{cell:>12}" for cell in cells)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _sentences(verdict: Verdict) -> str:
    """The verdict as plain text; no-break spaces are for the page only."""
    parts = (f"{verdict.title}.", *verdict.sentences, *verdict.warnings)
    return "\n".join(parts).replace("\u00a0", " ")
