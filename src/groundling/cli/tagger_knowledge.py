"""`groundling tagger knowledge`: have a multimodal LLM write what a tagger reads behind posts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundling.cli.json_output import json_text
from groundling.cli.recipe import STOPPED, add_recipe_options, hush_libraries
from groundling.errors import DataError, InputError

if TYPE_CHECKING:
    from groundling.config_knowledge import KnowledgeConfig
    from groundling.data.gmner import Split
    from groundling.records import Post

_EXAMPLES = """\
examples:
  groundling tagger knowledge twitter-gmner --images images --examples twitter-gmner \\
      --config recipes/gmner/knowledge.yaml --out words
  groundling tagger knowledge posts --split test --examples labelled.jsonl \\
      --set endpoint.endpoint=http://127.0.0.1:8000/v1 --set endpoint.model=NAME --out words
  groundling tagger fit --config recipes/gmner/minilm-crf-knowledge.yaml --set data.knowledge=words

Examples for a post are never the post itself, by id or by text. What was answered is kept in
FOLDER/answers: the same command goes on, and asks again for what failed. Exit code 1 where a post
has no knowledge; FOLDER/SPLIT.failures.jsonl says why.

configuration (YAML keys, and what --set takes):
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `knowledge`."""
    from groundling.config_knowledge import KnowledgeConfig
    from groundling.settings import describe

    parser = commands.add_parser(
        "knowledge",
        help="have an LLM write words about posts that a tagger reads behind them",
        description="Ask a multimodal LLM about posts, after similar annotated ones (PGIM).",
        epilog=_EXAMPLES + describe(KnowledgeConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "src",
        type=Path,
        metavar="POSTS",
        help="a twitter-gmner folder (txt/, xml/), a posts .jsonl or a folder of SPLIT.jsonl",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help="only this split of POSTS (may be repeated)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of all pictures")
    parser.add_argument(
        "--examples", type=Path, metavar="POSTS", help="annotated posts to show beside others"
    )
    parser.add_argument(
        "--examples-split",
        default="train",
        metavar="NAME",
        help="the split of the examples' folder (default: train)",
    )
    parser.add_argument(
        "--reasons",
        type=Path,
        metavar="FILE",
        help="why examples are annotated so: words about them, in a form that --out has or PGIM's",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the settings, YAML")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the words")
    add_recipe_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Ask, write, print; 1 where a post has no knowledge, 130 where the user stopped it."""
    from groundling.config_knowledge import KnowledgeConfig
    from groundling.settings import load_config, read_overrides

    config = load_config(KnowledgeConfig, args.config, read_overrides(args.set))
    _check_out(args)
    splits = _splits(args.src, args.split, args.images, config)
    examples = _read_examples(args, config)
    hush_libraries()
    try:
        told, cost = _run(config, splits, examples, args)
    except KeyboardInterrupt:
        print("groundling: stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    print(json_text(told) if args.json else "\n".join([*_lines(told), cost]))
    return int(any(split["told"] < split["posts"] for split in told["splits"].values()))


def _run(
    config: KnowledgeConfig,
    splits: tuple[Split, ...],
    examples: tuple[Post, ...],
    args: argparse.Namespace,
) -> tuple[dict[str, Any], str]:
    """The summary, and what it cost in a line."""
    from groundling.assistants import Assistants
    from groundling.cli.endpoint import told_cost
    from groundling.examples import open_search
    from groundling.knowledge import ANSWERS, Pool, Teller, tell_split
    from groundling.models.registry import open_embedders

    folder = args.out / ANSWERS
    with Assistants(config.endpoint, config.simulator, folder, config.seed) as assistants:
        endpoint = assistants.endpoint("knowledge", {})
        pool = Pool(examples, lambda: open_embedders(config), config, open_search(config))
        teller = Teller(endpoint.assistant(), pool, config, folder / "asked.jsonl")
        tallies = {
            split.name: tell_split(split.name, teller, split.posts, args.out, args.quiet)
            for split in splits
        }
        told = {name: tally.to_json() for name, tally in tallies.items()}
        summary = {"out": str(args.out), "splits": told, **endpoint.bill().as_json()}
        return summary, told_cost(endpoint)


def _read_examples(args: argparse.Namespace, config: KnowledgeConfig) -> tuple[Post, ...]:
    """The annotated posts, with their reasons where there are some."""
    from groundling.data.knowledge import read_knowledge, with_knowledge

    if not config.examples:
        return ()
    if args.examples is None:
        raise InputError(
            "--examples: missing; name annotated posts, or ask without any: --set examples=0"
        )
    posts = _splits(args.examples, [args.examples_split], args.images, config)[0].posts
    if not any(post.entities for post in posts):
        raise DataError(args.examples, "no post has an entity; wanted annotated posts")
    return posts if args.reasons is None else with_knowledge(posts, read_knowledge(args.reasons))


def _splits(
    src: Path, only: list[str], images: Path | None, config: KnowledgeConfig
) -> tuple[Split, ...]:
    from groundling.data.formats import guess_format, read_splits
    from groundling.records import SCHEMES

    if not src.exists():
        raise DataError(src, "no such file or folder; check the path")
    wanted = [] if src.is_file() else only
    scheme = SCHEMES[config.scheme]
    return read_splits(src, guess_format(src), images, only=wanted, scheme=scheme)


def _check_out(args: argparse.Namespace) -> None:
    """Raise InputError for a folder in which the words would take the place of what is read."""
    out: Path = args.out
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: a file; wanted a folder")
    for data in (args.src, args.examples, args.reasons):
        if data is not None and out.resolve() == (data if data.is_dir() else data.parent).resolve():
            raise InputError(f"--out {out}: {data} lies there; name another folder")


def _lines(told: dict[str, Any]) -> list[str]:
    """A line a split, and one for each kind of failure."""
    from groundling.cli.endpoint import told_failures

    lines = []
    for name, split in told["splits"].items():
        told_of = f"words about {split['told']} of {split['posts']} posts"
        lines += [f"{told['out']}/{name}.jsonl: {told_of}", *told_failures(split["failed"])]
        if split["without_picture"]:
            lines.append(f"  {split['without_picture']} were asked about without a picture")
        if split["unreadable_example_pictures"]:
            count = split["unreadable_example_pictures"]
            lines.append(f"  pictures of examples that cannot be read, and were not shown: {count}")
    return lines
