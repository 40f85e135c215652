"""`groundling experts`: expert expressions from an endpoint, for training."""

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

if TYPE_CHECKING:
    from groundling.collect import Collected

_EXAMPLES = """\
The largest gold box of each groundable entity is drawn in green and the model describes it (ISR
§3.2, A.1); what is not in the picture gets its fixed sentence without a call. The same command goes
on where it stopped and asks again for what failed. The key is read from the environment. Exit code
1 where something failed: OUT.failures.jsonl beside OUT says what and why. Refusals, thoughts, JSON
and the like are failures, counted by kind; so are expressions that name the entity or run to more
than 80 words, unless --keep-odd. A fence, quotes or a label around an expression are taken off.
`groundling data check EXPERTS.jsonl` holds a stored file to the same rules.

examples:
  groundling experts twitter-gmner --images images --out experts.jsonl \\
      --endpoint https://api.openai.com/v1 --model gpt-4o \\
      --budget 20 --price-in 2.5 --price-out 10
  groundling experts posts.jsonl --out experts.jsonl --limit 20 --api-key-env '' \\
      --endpoint http://localhost:8000/v1 --model qwen --server vllm

keys for --set:
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `experts`; its `func` takes the parsed arguments and returns an exit code."""
    parser = add_command(
        subparsers,
        "experts",
        run,
        help="have a model behind an endpoint write expert expressions",
        description="Collect expert expressions from an OpenAI-compatible endpoint.",
        examples=_EXAMPLES,
        split="train",
        out=("EXPERTS.jsonl", "expressions, one a line"),
        limit_of="groundable entities",
    )
    parser.add_argument(
        "--keep-odd",
        action="store_true",
        help="keep expressions that name their entity or have more than 80 words",
    )


def run(args: argparse.Namespace) -> int:
    """Collect, print, return 0, or 1 where something failed; raises InputError for a bad call."""
    config = read_config(args, idle=("answer", "convention"))
    posts = read_posts_of(args)
    from groundling.collect import collect_expressions, failures_path, wanted_expressions
    from groundling.progress import Progress

    total = sum(want.box is not None for want in wanted_expressions(posts))
    with open_endpoint(args, config) as endpoint:
        if endpoint.own_temperature():
            warn(args, endpoint.own_temperature())
        with Progress("experts", total, "expressions", quiet=args.quiet) as progress:
            done = collect_expressions(
                posts,
                endpoint.expert(),
                args.out,
                limit=args.limit,
                keep_odd=args.keep_odd,
                progress=progress,
            )
        failures = str(failures_path(args.out)) if done.failed else None
        bill = endpoint.bill()
        cost = told_cost(endpoint)
    if args.json:
        files = {"out": str(args.out), "failures": failures}
        print(json_text({**files, **done.as_json(), **bill.as_json()}))
    else:
        print("\n".join([*_told(args.out, done, failures), cost]))
    if done.odd:
        odd = ", ".join(f"{count} {kind}" for kind, count in done.odd.most_common())
        warn(args, f"odd expressions in OUT: {odd}; `groundling data check {args.out}` lists them")
    if done.speaks_of_box:
        warn(args, f"{done.speaks_of_box} expressions speak of the drawn box; mend them in OUT")
    return int(bool(done.failed))


def _told(out: Path, done: Collected, failures: str | None) -> list[str]:
    lines = [
        f"{out}: {done.written} expressions written, {done.absent} absent, {done.kept} kept, "
        f"{done.left} left for another run"
    ]
    if failures is not None:
        lines += [f"{sum(done.failed.values())} failed (see {failures}):"]
        lines += told_failures(dict(done.failed.most_common()))
    return lines
