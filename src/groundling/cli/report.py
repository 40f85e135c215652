"""`groundling report`: the report of a run, finished or not."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  groundling report runs/isr-toy-seed0
  groundling report runs/isr-toy-seed0 --open
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `report`; its `func` takes the parsed arguments and returns an exit code."""
    parser = subparsers.add_parser(
        "report",
        help="write the report of a run, finished or not",
        description="Write RUN/report.html and RUN/figures/*.svg from what RUN holds so far.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Write the page, print its path, return 0."""
    from groundling.report import write_report

    page = write_report(args.run)
    print(page)
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0
