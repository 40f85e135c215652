"""`groundling data`: counts, checks and conversions of data sets."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundling.cli import data_predictions, data_screen, data_texts
from groundling.cli.json_output import json_text
from groundling.cli.sources import (
    FORMATS,
    add_images,
    add_scheme,
    add_skip_bad,
    add_source,
    chosen_format,
    chosen_scheme,
)

if TYPE_CHECKING:
    from groundling.data.problems import Problem

__all__ = ["FORMATS", "add_parser"]

SHOWN_OF_A_KIND = 10

_STATS_EXAMPLES = """\
examples:
  groundling data stats twitter-gmner-v2
  groundling data stats twitter-gmner-v2 --format twitter-gmner --images images --json
  groundling data stats posts.jsonl --format jsonl
  groundling data stats ccks-aug --format conll --scheme ccks
"""

_CHECK_EXAMPLES = """\
examples:
  groundling data check twitter-gmner-v2
  groundling data check twitter-gmner-v2 --images images --all
  groundling data check posts.jsonl --format jsonl --json
  groundling data check experts.jsonl
  groundling data check ccks --images ccks/sample_image
"""

_CONVERT_EXAMPLES = """\
examples:
  groundling data convert twitter-gmner-v2 posts --from twitter-gmner --to jsonl
  groundling data convert twitter-gmner-v2 test.jsonl --to jsonl --split test --images images
  groundling data convert test.jsonl mine --from jsonl --to twitter-gmner --split test
  groundling data convert ccks posts --from ccks --to jsonl --split sample
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register `data` and its commands; each sets `func`, a callable (args) -> exit code."""
    parser = subparsers.add_parser("data", help="count, check and convert data sets")
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    stats = _command(commands, "stats", "count posts, entities, boxes and pictures")
    stats.epilog = _STATS_EXAMPLES
    add_skip_bad(stats)
    stats.set_defaults(func=_stats)

    check = _command(commands, "check", "list every quirk with file and line; changes nothing")
    check.epilog = _CHECK_EXAMPLES
    check.add_argument(
        "--all", action="store_true", help=f"show all, not {SHOWN_OF_A_KIND} of each kind"
    )
    check.set_defaults(func=_check)

    convert = commands.add_parser(
        "convert",
        help="write a data set in another layout",
        description="Write a data set in another layout. Picture sizes that XML files state are\n"
        "not carried into JSONL: they would tell a model which posts have boxes.\n"
        "conll keeps texts and tags alone; ccks names entities without their positions.",
        epilog=_CONVERT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("src", metavar="SRC", type=Path, help="the data set to read")
    convert.add_argument(
        "out", metavar="OUT", type=Path, help="a folder, or a .jsonl file for one split"
    )
    convert.add_argument("--from", dest="source", choices=FORMATS, help="default: by what SRC is")
    convert.add_argument("--to", dest="target", choices=FORMATS, required=True)
    add_scheme(convert)
    convert.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help="only this split (may be repeated); for a single file, the name to give",
    )
    add_images(convert)
    add_skip_bad(convert)
    convert.set_defaults(func=_convert)
    data_texts.add_parsers(commands)
    data_screen.add_parser(commands)
    data_predictions.add_parsers(commands)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    """A command that reads one data set and can print JSON."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
    add_images(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _stats(args: argparse.Namespace) -> int:
    from groundling.data.formats import read_splits
    from groundling.data.stats import format_stats, split_stats

    form = chosen_format(args.format, args.src)
    scheme = chosen_scheme(args.scheme, form)
    splits = read_splits(
        args.src,
        form,
        args.images,
        skip_bad=args.skip_bad,
        scheme=scheme,
        boxes=args.boxes,
    )
    stats = [(split.name, split_stats(split, scheme)) for split in splits]
    for split in splits:
        _warn_of_skipped(split.skipped)
    if args.json:
        print(json_text({"splits": {name: found.as_json() for name, found in stats}}))
    else:
        print(format_stats(stats))
    return 0


def _check(args: argparse.Namespace) -> int:
    from groundling.data.check import check_data
    from groundling.data.expressions_check import check_expressions, holds_expressions

    if args.format is None and holds_expressions(args.src):
        problems = check_expressions(args.src, chosen_scheme(args.scheme, "jsonl"))
    else:
        form = chosen_format(args.format, args.src)
        scheme = chosen_scheme(args.scheme, form)
        problems = check_data(args.src, form, args.images, scheme, args.boxes)
    if args.json:
        found = [problem.as_json() for problem in problems]
        print(json_text({"problems": found}))
    else:
        print(_listing(problems, None if args.all else SHOWN_OF_A_KIND))
    return 1 if problems else 0


def _convert(args: argparse.Namespace) -> int:
    from groundling.data.convert import Conversion, convert

    form = chosen_format(args.source, args.src)
    job = Conversion(
        src=args.src,
        out=args.out,
        source_format=form,
        target_format=args.target,
        splits=tuple(args.split),
        images=args.images,
        skip_bad=args.skip_bad,
        scheme=chosen_scheme(args.scheme, form),
        boxes=args.boxes,
    )
    for done in convert(job):
        _warn_of_skipped(done.split.skipped)
        name, missing = done.split.name, len(done.split.missing_images)
        if missing:
            print(f"{name}: {missing} posts have no picture there", file=sys.stderr)
        if done.unsized:
            print(
                f"{name}: {done.unsized} XML files state no picture size; --images would tell it",
                file=sys.stderr,
            )
        if done.boxless:
            print(f"{name}: {done.boxless} boxes have no place in {args.target}", file=sys.stderr)
        print(f"{name}: {len(done.split.posts)} posts in {done.path}")
        if args.boxes == "stored":
            print(
                f"{name}: boxes are upright now (those of {done.split.turned} posts were turned): "
                "read the result without --boxes"
            )
    return 0


def _listing(problems: Sequence[Problem], limit: int | None) -> str:
    """One line a problem, at most `limit` of a kind, and a count of each kind below."""
    from groundling.data.problems import KINDS

    if not problems:
        return "no problems found"
    counts: Counter[str] = Counter()
    lines = []
    for problem in problems:
        counts[problem.kind] += 1
        if limit is None or counts[problem.kind] <= limit:
            lines.append(_line(problem))
    lines.append("")
    for kind, count in counts.most_common():
        hidden = 0 if limit is None else max(0, count - limit)
        note = f" ({hidden} not shown; --all shows them)" if hidden else ""
        lines.append(f"{count:>6}  {kind}: {KINDS[kind][1]}{note}")
    return "\n".join(lines)


def _line(problem: Problem) -> str:
    where = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return f"{where}: {problem.severity}: {problem.message} [{problem.kind}]"


def _warn_of_skipped(skipped: Sequence[Problem]) -> None:
    for problem in skipped:
        print(f"left out: {_line(problem)}", file=sys.stderr)
