"""`groundling demo`: the whole of ISR on the embedded world, with nothing to fetch."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

from groundling.cli.isr import add_isr_options, run_recipe
from groundling.cli.recipe import STOPPED

RECIPE = "toy.yaml"
"""The packaged recipe; `recipes/` at the root of a checkout names the same file."""

_EXAMPLES = """\
examples:
  groundling demo --open
  groundling demo --seed 1 --rounds 2 --out runs/demo

It is `groundling isr` with the packaged recipe; the same command continues a stopped run.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `demo`; its `func` takes the parsed arguments and returns an exit code."""
    parser = subparsers.add_parser(
        "demo",
        help="run everything on the embedded world: a few minutes on two cores",
        description="Run iterative self-refinement on the embedded world and write report.html.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_isr_options(parser)
    parser.add_argument("--open", action="store_true", help="show the report in a browser")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run or continue the demo, show its report where asked, return 0; 130 where stopped."""
    recipe = Path(str(resources.files("groundling"))) / "recipes" / RECIPE
    page = run_recipe(recipe, {}, args)
    if page is None:
        return STOPPED
    if args.open:
        _show(page)
    return 0


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(f"groundling demo: no browser found; open {page} yourself", file=sys.stderr)
