"""`groundling baseline`: the published alternatives that ISR is measured against."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_EXAMPLES = """\
examples:
  groundling baseline direct --config recipes/paper/table1-direct.yaml --out runs/direct
  groundling score runs/direct/predictions/direct/test.jsonl --gold twitter-gmner --rule isr

The same command continues a stopped run; --retry answers again where queries failed. Full
supervised fine-tuning is `groundling isr` with `rounds: 0` and all training queries in D_SFT.

configuration (YAML keys, and what --set takes):
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `baseline`; its `func` takes the parsed arguments and returns an exit code."""
    from groundling.cli.isr import add_recipe_options, add_retry_option
    from groundling.config import DirectConfig
    from groundling.settings import describe

    parser = subparsers.add_parser(
        "baseline",
        help="fine-tune a model to answer with boxes directly (prompt A.3) and grade it",
        description="Run a baseline of the paper's Table 1 into a run directory.",
        epilog=_EXAMPLES + describe(DirectConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=["direct"], help="direct: entity in, box out")
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, YAML")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/RECIPE-seedN)")
    parser.add_argument("--seed", type=int, metavar="N", help="override the recipe's seed")
    add_recipe_options(parser)
    add_retry_option(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run or continue, print, return 0; 130 where the user stopped it."""
    from groundling.baselines import run_direct
    from groundling.cli.isr import hush_libraries, metrics_table, tell_failures
    from groundling.config import DirectConfig
    from groundling.settings import load_config, read_overrides
    from groundling.team import leads

    recipe, overrides = Path(args.config), read_overrides(args.set)
    if args.seed is not None:
        overrides = {**overrides, "seed": args.seed}
    config = load_config(DirectConfig, recipe, overrides)
    out = Path(args.out or f"runs/{recipe.stem}-seed{config.seed}")
    hush_libraries()
    try:
        metrics: dict[str, Any] = run_direct(config, out, quiet=args.quiet, retry=args.retry)
    except KeyboardInterrupt:
        print(f"groundling: stopped; the same command continues the run in {out}", file=sys.stderr)
        return 130
    if not leads():
        return 0
    if args.json:
        print(json.dumps({**metrics, "run": str(out)}, indent=2, ensure_ascii=False))
    else:
        print(f"{metrics_table(metrics)}\n\nrun: {out}")
    tell_failures(out)
    return 0
