"""`groundling baseline`: the published alternatives that ISR is measured against."""

from __future__ import annotations

import argparse

from groundling.cli.json_output import json_text
from groundling.cli.recipe import (
    STOPPED,
    add_run_options,
    configured,
    hush_libraries,
    tell_failures,
    unless_stopped,
)

_EXAMPLES = """\
examples:
  groundling baseline direct --config recipes/paper/table1-direct.yaml --out runs/direct
  groundling score runs/direct/predictions/direct/test.jsonl --gold twitter-gmner --rule isr

The same command continues a stopped run. Pictures that cannot be read are on record, and --retry
looks again. Full supervised fine-tuning is `groundling isr` with `rounds: 0` and all training
queries in D_SFT.

configuration (YAML keys, and what --set takes):
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `baseline`; its `func` takes the parsed arguments and returns an exit code."""
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
    add_run_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run or continue, print, return 0; 130 where the user stopped it."""
    from groundling.config import DirectConfig

    config, out = configured(args, DirectConfig)
    hush_libraries()
    from groundling.baselines import run_direct
    from groundling.cli.isr import metrics_table
    from groundling.team import leads

    metrics = unless_stopped(
        out, lambda: run_direct(config, out, quiet=args.quiet, retry=args.retry)
    )
    if metrics is None:
        return STOPPED
    if not leads():
        return 0
    if args.json:
        print(json_text({**metrics, "run": str(out)}))
    else:
        print(f"{metrics_table(metrics)}\n\nrun: {out}")
    tell_failures(out)
    return 0
