"""`groundling data convert-predictions`: what other systems said, made ready to score."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.cli.sources import (
    SOURCE,
    add_format,
    add_images,
    add_scheme,
    chosen_format,
    chosen_scheme,
)

if TYPE_CHECKING:
    from groundling.data.problems import Problem
    from groundling.records import PostPrediction

SOURCES = ("jsonl", "ccks", "conll", "riveg")
TARGETS = ("jsonl", "ccks")
"""The names of `groundling.data.systems`, without its imports."""

SHOWN = 10
"""How many names without tokens are told one by one."""

_DESCRIPTION = """\
Write predictions of another system as ours, or ours as the CCKS task's.

from     PRED holds
  jsonl  our predictions
  ccks   {"ID": [{"name", "label", "bnd": {"xmin", "ymin", "xmax", "ymax"} | null}]}
  conll  tokens and tags in columns, BIO or BIOES: token, gold tag where there is one, predicted tag
  riveg  RiVEG's table: imgid, entity, type, groundable (0 or 2)

conll and riveg tell no boxes. An entity that may be in the picture gets the box [0, 0, 0, 0], which
is wrong under every rule: only MNER means something then.
"""

_EXAMPLES = """\
examples:
  groundling data convert-predictions pred.txt pred.jsonl --from conll --posts twitter-gmner
  groundling data convert-predictions riveg.tsv.gz bound.jsonl --from riveg --posts twitter-gmner \
--perfect-boxes
  groundling data convert-predictions pred.jsonl result.json --from jsonl --to ccks \
--posts ccks --split Evaluation
"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `convert-predictions`."""
    parser = commands.add_parser(
        "convert-predictions",
        help="write predictions of another system as ours",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pred", metavar="PRED", type=Path, help="the predictions to read")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write")
    parser.add_argument("--from", dest="source", choices=SOURCES, required=True)
    parser.add_argument("--to", dest="target", choices=TARGETS, default="jsonl")
    parser.add_argument(
        "--posts", metavar="SRC", type=Path, required=True, help=f"what was predicted for: {SOURCE}"
    )
    add_format(parser, "--posts")
    add_scheme(parser)
    add_images(parser)
    parser.add_argument(
        "--split", default="test", metavar="NAME", help="split of --posts (default: test)"
    )
    parser.add_argument(
        "--column", type=int, metavar="N", help="conll: the column of tags, from 1 (default: last)"
    )
    parser.add_argument(
        "--perfect-boxes",
        action="store_true",
        help="riveg: gold boxes wherever it says groundable, the upper bound of its grounding",
    )
    parser.add_argument(
        "--keep-unknown-types",
        action="store_true",
        help="jsonl, ccks: keep types outside the scheme (rule refineg ignores them)",
    )
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> int:
    from groundling.data.formats import read_splits
    from groundling.data.systems import Reading, read_system, write_system

    form = chosen_format(args.format, args.posts)
    scheme = chosen_scheme(args.scheme, form)
    only = () if args.posts.is_file() else (args.split,)
    gold = read_splits(args.posts, form, args.images, only=only, scheme=scheme, boxes=args.boxes)[0]
    how = Reading(args.source, scheme, args.column, args.perfect_boxes, args.keep_unknown_types)
    found: list[Problem] = []
    said = read_system(args.pred, gold, how, found.append)
    lost = write_system(args.out, args.target, said, gold, how)
    _warn_of_names(found)
    if lost:
        _warn(f"{lost} error records are left out: the format has no word for them")
    print(f"{_counts(said)}; written to {args.out}")
    return 0


def _counts(said: Sequence[PostPrediction]) -> str:
    from groundling.records import UNPLACED

    answers = [answer for post in said for answer in post.predictions]
    failed = sum(len(post.failed) if post.failure is None else 1 for post in said)
    unplaced = sum(answer.box == UNPLACED for answer in answers)
    words = f"{len(said)} posts, {len(answers)} entities"
    words += f", {failed} error records" if failed else ""
    return words + (f", {unplaced} of them with no box told" if unplaced else "")


def _warn_of_names(found: Sequence[Problem]) -> None:
    for problem in found[:SHOWN]:
        where = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        _warn(f"{where}: {problem.message}; kept without them")
    if len(found) > SHOWN:
        _warn(f"{len(found) - SHOWN} more names without tokens")


def _warn(message: str) -> None:
    print(f"groundling data convert-predictions: warning: {message}", file=sys.stderr)
