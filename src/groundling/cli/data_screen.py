"""`groundling data screen`: labelled sentences of others, screened to train a tagger on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundling.cli.json_output import json_text
from groundling.cli.sources import (
    SOURCE,
    add_source,
    chosen_format,
    chosen_scheme,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from groundling.data.formats import Format
    from groundling.records import Post, Scheme

_EXAMPLES = """\
examples:
  groundling data screen made.jsonl posts --seeds few.jsonl --scheme ccks
  groundling data screen made.conll posts --seeds honest/train.jsonl --held-out honest/dev.jsonl
  groundling data screen made.jsonl posts --seeds few.jsonl --held-out dev.jsonl --group 20
  groundling tagger fit --config recipes/gmner/bilstm-crf.yaml --set data.source=posts \\
      --set scheme=ccks --set evaluate=[dev]

what --set takes, of `groundling refineg synth --help`, section synthesis: low, high, alike,
per_name, check_style, ratio, seed
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `screen`."""
    screen = commands.add_parser(
        "screen",
        help="screen labelled sentences of others, to train a tagger on them",
        description="Screen sentences that somebody else has made and labelled, as `groundling\n"
        "refineg synth` screens its own, and against held-out posts. Writes OUT/train.jsonl (the\n"
        "seeds, and sentences up to the ratio), OUT/dev.jsonl (the held-out posts), and to\n"
        "OUT/screening every sentence and its fate.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(screen)
    screen.add_argument("out", metavar="OUT", type=Path, help="the folder to write to")
    screen.add_argument(
        "--seeds",
        metavar="SRC",
        type=Path,
        required=True,
        help=f"labelled posts, which show how entities are annotated: {SOURCE}",
    )
    screen.add_argument(
        "--held-out",
        metavar="SRC",
        type=Path,
        help="posts of which nothing may be learnt: a sentence like one of them is refused",
    )
    screen.add_argument(
        "--group",
        type=int,
        metavar="N",
        help="every N sentences in a row were written near one post; those that held-out posts "
        "explain better than seeds do, by their names, are refused",
    )
    screen.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help="only sentences of this split of SRC (may be repeated)",
    )
    screen.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; see below"
    )
    screen.add_argument("--json", action="store_true", help="print one JSON object")
    screen.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Screen, write, print; returns 0."""
    from groundling.config_gmner import SynthesisConfig
    from groundling.data.jsonl import write_posts
    from groundling.screening import Sides, screen_posts, training_posts
    from groundling.settings import load_config, read_overrides

    settings = load_config(SynthesisConfig, None, read_overrides(args.set))
    scheme = chosen_scheme(args.scheme, chosen_format(args.format, args.src))
    offered = _posts(args.src, args.format, scheme, args.split)
    seeds, held_out = (
        _posts(source, None, scheme) if source is not None else []
        for source in (args.seeds, args.held_out)
    )
    work = args.out / "screening"
    done = screen_posts(offered, Sides(seeds, held_out), scheme, settings, work, args.group)
    train = training_posts(seeds, done.posts, settings)
    write_posts(args.out / "train.jsonl", train, scheme)
    if held_out:
        write_posts(args.out / "dev.jsonl", held_out, scheme)
    told = done.to_json() | {"seeds": len(seeds), "held_out": len(held_out), "train": len(train)}
    print(json_text(told) if args.json else _listing(told, args.out))
    return 0


def _posts(
    source: Path, form: Format | None, scheme: Scheme, only: Sequence[str] = ()
) -> list[Post]:
    """All posts of a data set, or those of the splits named."""
    from groundling.data.formats import read_splits

    splits = read_splits(source, chosen_format(form, source), only=only, scheme=scheme)
    return [post for split in splits for post in split.posts]


def _listing(told: dict[str, Any], out: Path) -> str:
    """The summary for people."""
    lines = [f"{told['kept']} of {told['offered']} sentences stay"]
    lines += [f"{count:>6}  {reason}" for reason, count in told["refused"].items()]
    if told["held_out"]:
        lines.append(f"texts of held-out posts among them: {told['held_out_texts']}, all refused")
    if told["groups"]:
        lines.append(f"groups near held-out posts: {told['held_out_groups']} of {told['groups']}")
    lines.append(
        f"{told['train']} posts in {out / 'train.jsonl'}, {told['seeds']} of them the seeds"
    )
    return "\n".join(lines)
