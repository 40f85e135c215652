"""`groundling direct`: boxes straight from a model behind an endpoint, for comparison."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.cli.endpoint import (
    add_command,
    open_endpoint,
    read_config,
    read_posts_of,
    told_cost,
    told_failures,
    warn,
)
from groundling.cli.json_output import json_text
from groundling.errors import InputError

if TYPE_CHECKING:
    from groundling.direct import Answered

_EXAMPLES = """\
The model is asked for the box of each entity with the paper's prompt (ISR A.3, Table 1). What it
says must be in the form --set answer=… and the coordinates of --set convention=…; anything else is
an error of that entity, which scores as wrong and is asked again by the next run of the same
command. Exit code 1 where there are any.

examples:
  groundling direct twitter-gmner --images images --out gpt-4o.jsonl \\
      --endpoint https://api.openai.com/v1 --model gpt-4o --set convention=pixels \\
      --budget 10 --price-in 2.5 --price-out 10
  groundling direct posts.jsonl --out qwen.jsonl --api-key-env '' --server vllm \\
      --endpoint http://localhost:8000/v1 --model qwen2-vl --set answer=qwen2-vl
  groundling score gpt-4o.jsonl --gold twitter-gmner --split test --rule isr

keys for --set:
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `direct`; its `func` takes the parsed arguments and returns an exit code."""
    add_command(
        subparsers,
        "direct",
        run,
        help="have a model behind an endpoint answer with boxes directly",
        description="Ask an OpenAI-compatible endpoint for boxes and write predictions.",
        examples=_EXAMPLES,
        split="test",
        out=("PRED.jsonl", "predictions, a post a line"),
        limit_of="posts, with all their entities,",
    )


def run(args: argparse.Namespace) -> int:
    """Ask, write, print; 0, or 1 where an entity failed. Raises InputError for a bad call."""
    config = read_config(args)
    posts = read_posts_of(args)
    from groundling.direct import answer_posts
    from groundling.progress import Progress

    total = sum(len(post.entities) for post in posts)
    if not total:
        raise InputError(
            f"{args.src}: none of its {len(posts)} posts has entities, so there is nothing to ask "
            "about; `groundling gmner` finds them in the texts, or name them in each post's "
            "`entities`"
        )
    with open_endpoint(args, config) as endpoint:
        if endpoint.own_temperature():
            warn(args, endpoint.own_temperature())
        with Progress("direct", total, "entities", quiet=args.quiet) as progress:
            done = answer_posts(
                posts,
                endpoint.direct_grounder(),
                args.out,
                config.deciding(),
                limit=args.limit,
                progress=progress,
            )
        bill = endpoint.bill()
        cost = told_cost(endpoint)
    if args.json:
        print(json_text({"out": str(args.out), **done.as_json(), **bill.as_json()}))
    else:
        print("\n".join([*_told(args.out, done), cost]))
    return int(bool(done.failed_posts))


def _told(out: Path, done: Answered) -> list[str]:
    lines = [
        f"{out}: {done.posts} posts answered ({done.boxes} boxes, {done.absent} absent), "
        f"{done.kept} kept, {done.left} left for another run"
    ]
    if done.failed_posts:
        met = "; this run met:" if done.failed else ""
        lines += [f"{done.failed_posts} posts with failed entities{met}"]
        lines += told_failures(dict(done.failed.most_common()))
    return lines
