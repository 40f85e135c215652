"""`groundling data leaks` and `split`: what two splits share, and two splits that share none."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.cli.json_output import json_text
from groundling.cli.sources import (
    SOURCE,
    add_format,
    add_images,
    add_scheme,
    add_source,
    chosen_format,
    chosen_scheme,
)

if TYPE_CHECKING:
    from groundling.records import Post

_LEAKS_EXAMPLES = """\
examples:
  groundling data leaks ccks-aug --scheme ccks
  groundling data leaks ccks-aug --scheme ccks --folded --json
  groundling data leaks synthetic.conll ccks/Evaluation_text.json --scheme ccks
"""

_SPLIT_EXAMPLES = """\
examples:
  groundling data split ccks-aug honest --split train --scheme ccks --held-out 0.1
  groundling data split ccks-aug honest --split train --scheme ccks --held-out 0.1 --by name
  groundling data split posts.jsonl honest --held-out 0.2 --seed 7
"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `leaks` and `split`."""
    leaks = commands.add_parser(
        "leaks",
        help="find texts that come twice, within a split and across splits",
        description="Find texts that come twice, within a split and across splits, and whether\n"
        "their entities agree. Exit code 1 where there are any.",
        epilog=_LEAKS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    leaks.add_argument("src", metavar="SRC", type=Path, nargs="+", help=SOURCE)
    add_format(leaks)
    add_scheme(leaks)
    leaks.add_argument("--folded", action="store_true", help="letter case makes no difference")
    leaks.add_argument("--json", action="store_true", help="print one JSON object, with all ids")
    leaks.set_defaults(func=_leaks)

    split = commands.add_parser(
        "split",
        help="hold posts out so that no text is on both sides",
        description="Write train.jsonl and dev.jsonl without a text in common. The first post of\n"
        "each text is kept, letter case folded.",
        epilog=_SPLIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(split)
    add_images(split)
    split.add_argument("out", metavar="OUT", type=Path, help="the folder to write to")
    split.add_argument(
        "--held-out", type=float, required=True, metavar="SHARE", help="how much, from 0 to 1"
    )
    split.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    split.add_argument(
        "--by",
        choices=("text", "name"),
        default="text",
        help="hold out texts, or entity names, which then are on one side only (default: text)",
    )
    split.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help="only posts of this split of SRC (may be repeated)",
    )
    split.set_defaults(func=_split)


def _leaks(args: argparse.Namespace) -> int:
    from groundling.data.leaks import exact_text, find_leaks, folded_text, format_leaks

    found = find_leaks(_splits(args), folded_text if args.folded else exact_text)
    print(json_text(found.as_json()) if args.json else format_leaks(found))
    return 1 if found.found else 0


def _splits(args: argparse.Namespace) -> dict[str, tuple[Post, ...]]:
    """The posts of all sources by split; a name that comes twice gets its source in front."""
    from groundling.data.formats import read_splits

    splits: dict[str, tuple[Post, ...]] = {}
    for src in args.src:
        form = chosen_format(args.format, src)
        for split in read_splits(src, form, scheme=chosen_scheme(args.scheme, form)):
            name = split.name if split.name not in splits else f"{src}:{split.name}"
            splits[name] = split.posts
    return splits


def _split(args: argparse.Namespace) -> int:
    from groundling.data.formats import read_splits
    from groundling.data.jsonl import write_posts
    from groundling.data.leaks import honest_split

    form = chosen_format(args.format, args.src)
    scheme = chosen_scheme(args.scheme, form)
    splits = read_splits(
        args.src, form, args.images, only=args.split, scheme=scheme, boxes=args.boxes
    )
    posts = [post for split in splits for post in split.posts]
    honest = honest_split(posts, args.held_out, args.seed, args.by)
    for name, part in (("train", honest.train), ("dev", honest.held_out)):
        write_posts(args.out / f"{name}.jsonl", part, scheme)
        print(f"{name}: {len(part)} posts in {args.out / name}.jsonl")
    print(f"left out: {len(honest.repeated)} posts whose text came before")
    if args.by == "name":
        print(f"left out: {len(honest.mixed)} posts with names of both sides")
    return 0
