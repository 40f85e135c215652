"""ReFineG and what each of its stages is worth on the embedded world: docs/results/refineg-toy.md.

    python bench/refineg_toy.py [--out runs/refineg-toy] [--page docs/results/refineg-toy.md]

Every run is a run directory below --out, so a stopped comparison goes on with the same command.
Prints a Markdown page, or writes it, with its plots in a folder of the page's name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refineg_toy_page import page, plots
from refineg_toy_runs import RECIPE, Runs, measure

from groundling.errors import GroundlingError


def main() -> None:
    """Run what is missing, then print the page or write it with its plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/refineg-toy"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--search-seed", type=int, default=9, help="seed of the search on validation"
    )
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    try:
        runs = Runs(options.out, options.recipe, options.quiet)
        measured = measure(runs, options.seeds, options.search_seed)
    except GroundlingError as fault:
        parser.error(str(fault))
    text = "\n".join(page(measured)) + "\n"
    if options.page is None:
        print(text, end="")
        return
    options.page.write_text(text, encoding="utf-8")
    folder = options.page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, drawn in plots(measured).items():
        (folder / name).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
