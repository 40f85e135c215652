"""`groundling ablate`: the paper's Table 3 and Figures 3 and 4 in one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  groundling ablate --config recipes/ablate-toy.yaml
  groundling ablate --config recipes/ablate-toy.yaml --page docs/results/toy.md
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "ablate",
        help="compare SFT, full SFT, ISR and its variants over several seeds",
        description="Compares ways to train over several seeds and writes a page of tables. "
        "Rates and rounds are chosen on validation. The same command continues a stopped one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, type=Path, help="YAML of what to compare")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablate"), help="folder of the runs (%(default)s)"
    )
    parser.add_argument("--page", type=Path, help="Markdown page to write (OUT/results.md)")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        default=1,
        help="runs side by side, each with its share of the threads (%(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> int:
    from groundling.atomic import write_bytes
    from groundling.cli.recipe import check_there
    from groundling.config import AblateConfig, load_config
    from groundling.errors import InputError

    if args.jobs < 1:
        raise InputError(f"--jobs: got {args.jobs}; wanted 1 or more")
    config = load_config(AblateConfig, args.config)
    check_there(args.config.parent / config.recipe)
    from groundling.ablate import run_ablation
    from groundling.ablation_report import ablation_page

    ablation = run_ablation(config, args.out, args.config.parent, quiet=args.quiet, jobs=args.jobs)
    page = args.page or args.out / "results.md"
    command = f"groundling ablate --config {args.config} --page {page}"
    write_bytes(page, ablation_page(ablation, command).encode())
    print(page)
    return 0
