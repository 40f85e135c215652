"""`groundling gmner`: from posts to (entity, type, box) triples."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundling.cli.json_output import json_text
from groundling.cli.recipe import STOPPED, add_recipe_options, check_there, hush_libraries
from groundling.cli.refineg import asked_words, left_out_words
from groundling.errors import InputError

if TYPE_CHECKING:
    from groundling.config_gmner import GmnerConfig
    from groundling.gmner import Told
    from groundling.records import Post, Scheme

_EXAMPLES = """\
examples:
  groundling gmner posts.jsonl --tagger runs/crf --grounding isr --run runs/isr --out said.jsonl
  groundling gmner twitter-gmner --split test --images images --tagger runs/crf \\
      --grounding none --out none.jsonl
  groundling gmner posts.jsonl --tagger runs/crf --grounding icl --config icl.yaml --out said.jsonl
  groundling score said.jsonl --gold posts.jsonl --rule span

--grounding none says that nothing is in the pictures; isr takes the writer and grounder of --run,
or those that come with the package; direct takes a run of `groundling baseline direct`, or asks the
endpoint; icl asks the endpoint, after solved examples; agreement is isr and icl together. The
entity types are those that the tagger was fitted to. What was found out is kept in NAME.work/
beside --out: the same command goes on, and asks again for what failed. Exit code 1 where a post is
an error record or a question failed.

configuration (YAML keys, and what --set takes):
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `gmner`; its `func` takes the parsed arguments and returns an exit code."""
    from groundling.config_gmner import GmnerConfig
    from groundling.settings import describe

    parser = subparsers.add_parser(
        "gmner",
        help="find the entities of posts and where they are in the pictures",
        description="Find the entities of posts and where they are in their pictures.",
        epilog=_EXAMPLES + describe(GmnerConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "src", type=Path, metavar="POSTS", help="a posts .jsonl, or a folder with --split in it"
    )
    parser.add_argument("--split", default="test", help="split of a folder (default: test)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--tagger",
        type=Path,
        required=True,
        metavar="RUN",
        help="what `groundling tagger fit` made",
    )
    parser.add_argument(
        "--grounding",
        choices=("none", "isr", "icl", "direct", "agreement"),
        help="how mentions are grounded (default: isr)",
    )
    parser.add_argument("--run", metavar="DIR", help="run whose models ground (isr, direct)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="other settings, YAML")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PRED.jsonl", help="predictions, a post a line"
    )
    add_recipe_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Find, write, print; 1 where something failed that the same command would try again."""
    from groundling.cli.endpoint import check_out
    from groundling.config_gmner import GmnerConfig
    from groundling.settings import load_config, read_overrides

    check_out(args)
    given: dict[str, Any] = {"grounding.way": args.grounding, "grounding.run": args.run}
    overrides = {key: value for key, value in given.items() if value is not None}
    config = load_config(GmnerConfig, args.config, overrides | read_overrides(args.set))
    check_there(args.tagger, args.src)
    hush_libraries()
    try:
        told = _run(config, args)
    except KeyboardInterrupt:
        print("groundling: stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    summary = told.to_json()
    out = {**summary, "predictions": str(args.out)}
    print(json_text(out) if args.json else _words(summary))
    return int(not told.complete)


def _run(config: GmnerConfig, args: argparse.Namespace) -> Told:
    from groundling.assistants import Assistants
    from groundling.corpus import read_labelled
    from groundling.fitted import fitted_scheme, open_fitted
    from groundling.gmner import Refining, find_triples, work_folder
    from groundling.grounding_ways import Ways
    from groundling.refine import Refinery
    from groundling.routing import Routing

    scheme, work = fitted_scheme(args.tagger), work_folder(args.out)
    posts = _posts(args, scheme)
    tagger, name = open_fitted(args.tagger)
    labelled: tuple[Post, ...] = ()
    if config.pool is not None and config.grounding.way in ("icl", "agreement"):
        labelled = read_labelled(config.pool, ["train"], scheme)["train"]
    with Assistants(config.endpoint, config.simulator, work) as assistants:
        refining, settings = None, config.refinement
        if settings is not None and settings.threshold is not None:
            assistant = assistants.open("refinement", settings.endpoint)
            refinery = Refinery(assistant, scheme, settings, work / "refinement.journal")
            refining = Refining(refinery, Routing(settings.threshold, settings.budget))
        ways = Ways(config.grounding, config.in_context, scheme, assistants, labelled)
        return find_triples(
            posts,
            tagger,
            ways.open(),
            args.out,
            name,
            refining=refining,
            scheme=scheme,
            quiet=args.quiet,
        )


def _posts(args: argparse.Namespace, scheme: Scheme) -> tuple[Post, ...]:
    from groundling.data.formats import guess_format, read_splits
    from groundling.errors import DataError

    if not args.src.exists():
        raise DataError(args.src, "no such file or folder; check the path")
    only = [] if args.src.is_file() else [args.split]
    form = guess_format(args.src)
    posts = read_splits(args.src, form, args.images, only=only, scheme=scheme)[0].posts
    if not posts:
        raise InputError(f"{args.src}: holds no posts")
    return posts


def _words(told: dict[str, Any]) -> str:
    lines = [
        f"posts {told['posts']}, boxes {told['boxes']}, absent {told['absent']}, "
        f"posts that failed {told['failed_posts']}"
    ]
    lines += [f"  {count} × {kind}" for kind, count in told["failed"].items()]
    if told["one_way_alone"]:
        lines.append("mentions that one of two ways grounded alone, by what the other met")
        lines += [f"  {count} × {kind}" for kind, count in told["one_way_alone"].items()]
    lines += left_out_words(told)
    if told["refinement"] is not None:
        lines.append(asked_words(told["refinement"]))
    return "\n".join(lines)
