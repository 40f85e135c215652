"""What commands that run a recipe share: their options, the configuration, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from groundling.config import DirectConfig, IsrConfig
from groundling.config_gmner import RefinegConfig, TaggingConfig
from groundling.errors import InputError
from groundling.settings import load_config, read_overrides

C = TypeVar("C", IsrConfig, DirectConfig, RefinegConfig, TaggingConfig)
T = TypeVar("T")

STOPPED = 130
"""The exit code where the user stopped a command."""


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that is given a recipe of the user's own."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration; may be given again",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def add_retry_option(parser: argparse.ArgumentParser) -> None:
    """`--retry`, of the commands whose runs have stages."""
    parser.add_argument(
        "--retry",
        action="store_true",
        help="try again what failed in finished stages; what builds on it follows if that changes",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """All options of a command that runs a recipe into a run directory; see `configured`."""
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, YAML")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/RECIPE-seedN)")
    parser.add_argument("--seed", type=int, metavar="N", help="override the recipe's seed")
    add_recipe_options(parser)
    add_retry_option(parser)


def configured(args: argparse.Namespace, kind: type[C], until: str = "ground") -> tuple[C, Path]:
    """The configuration and the run directory that `add_run_options` speaks of.

    Raises ConfigError for what the configuration cannot be, InputError for what it names and is
    not here: before heavy imports.
    """
    from groundling.inputs import check_inputs

    check_numbers(args)
    overrides = read_overrides(args.set)
    if args.seed is not None:
        overrides = {**overrides, "seed": args.seed}
    config = load_config(kind, Path(args.config), overrides)
    check_inputs(config, until)
    seed = dict(config)["seed"]
    return config, Path(args.out or f"runs/{Path(args.config).stem}-seed{seed}")


def check_numbers(args: argparse.Namespace) -> None:
    """Raise InputError for --seed and --rounds that no recipe takes, by the option's own name."""
    for name, most in (("seed", 2**31 - 1), ("rounds", None)):
        value = getattr(args, name, None)
        if value is not None and not 0 <= value <= (value if most is None else most):
            wanted = "0 or more" if most is None else f"a whole number from 0 to {most}"
            raise InputError(f"--{name}: got {value}; wanted {wanted}")


def check_there(*paths: Path) -> None:
    """Raise InputError for the first of these that is not there: before heavy imports."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")


def unless_stopped(out: Path, work: Callable[[], T]) -> T | None:
    """What `work` returns; None, and a line that says so, where the user stopped it."""
    try:
        return work()
    except KeyboardInterrupt:
        print(f"groundling: stopped; the same command continues the run in {out}", file=sys.stderr)
        return None


def tell_failures(out: Path) -> None:
    """Lines on stderr where something failed within the finished stages of the run at `out`."""
    from groundling.stage import failures_by_stage

    for key, what in (
        ("failures", "--retry tries these again"),
        ("lasting_failures", "to try these again would not help; their records say why"),
    ):
        counts = failures_by_stage(out, key).items()
        if counts:
            told = ", ".join(f"{count} in {stage}" for stage, count in counts)
            print(f"groundling: recorded failures: {told}; {what}", file=sys.stderr)


def hush_libraries() -> None:
    """No loading bars of transformers between our own lines; must come before its import."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
