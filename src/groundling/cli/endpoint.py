"""What the commands that ask an endpoint have in common: options, data, account."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.cli.sources import add_boxes
from groundling.errors import InputError

if TYPE_CHECKING:
    from groundling.models.api.settings import EndpointConfig
    from groundling.models.endpoints import Endpoint
    from groundling.records import Post

FORMATS = ("twitter-gmner", "jsonl")

_FLAGS = {
    "endpoint": "endpoint",
    "model": "model",
    "server": "server",
    "api_key_env": "api_key_env",
    "concurrency": "concurrency",
    "budget": "budget",
    "price_in": "price_input",
    "price_out": "price_output",
}
"""Options that stand for a key of the endpoint's configuration."""


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    func: Callable[[argparse.Namespace], int],
    *,
    help: str,
    description: str,
    examples: str,
    split: str,
    out: tuple[str, str],
    limit_of: str,
) -> argparse.ArgumentParser:
    """Register a command that asks an endpoint about the posts of a data set.

    `split` is asked about by default; `out` is the metavar of `--out` and its help; `limit_of` are
    what `--limit` counts.
    """
    from groundling.models.endpoints import endpoint_keys

    parser = subparsers.add_parser(
        name,
        help=help,
        description=description,
        epilog=examples + endpoint_keys(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data_options(parser, split, limit_of)
    parser.add_argument("--out", required=True, type=Path, metavar=out[0], help=out[1])
    _add_endpoint_options(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(func=func, command_name=name)
    return parser


def _add_data_options(parser: argparse.ArgumentParser, split: str, limit_of: str) -> None:
    """The data set to ask about."""
    parser.add_argument(
        "src",
        metavar="SRC",
        type=Path,
        help="a folder with txt/ and xml/, a posts .jsonl, or a folder of SPLIT.jsonl",
    )
    parser.add_argument("--format", choices=FORMATS, help="default: by what SRC is")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures")
    add_boxes(parser)
    parser.add_argument(
        "--split", default=split, metavar="NAME", help="split of a folder (default: %(default)s)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"ask about N {limit_of} at most in this run: first what was never asked, then what "
        "failed, longest ago first",
    )


def _add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """The endpoint, its limits and its account."""
    group = parser.add_argument_group("endpoint")
    group.add_argument(
        "--endpoint", required=True, metavar="URL", help="base URL, such as http://HOST:PORT/v1"
    )
    group.add_argument(
        "--model", required=True, metavar="NAME", help="model, as the server knows it"
    )
    group.add_argument(
        "--server", metavar="KIND", help="openai (default), vllm or transformers: extra fields"
    )
    group.add_argument(
        "--api-key-env",
        metavar="VAR",
        help="environment variable with the key (default: OPENAI_API_KEY; '' for no key)",
    )
    group.add_argument("--concurrency", type=int, metavar="N", help="calls at once (default: 8)")
    group.add_argument(
        "--budget", type=float, metavar="USD", help="most to spend, all runs together"
    )
    group.add_argument(
        "--price-in", type=float, metavar="USD", help="price of a million prompt tokens"
    )
    group.add_argument(
        "--price-out", type=float, metavar="USD", help="price of a million answer tokens"
    )
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder of answers (default: beside --out)"
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key (see below)"
    )


def read_config(args: argparse.Namespace, idle: Collection[str] = ()) -> EndpointConfig:
    """The endpoint's configuration from the options, which are checked first.

    `idle` are keys that the command does not act on. Raises ConfigError or InputError.
    """
    from groundling.models.endpoints import endpoint_config
    from groundling.settings import read_overrides

    check_out(args)
    if args.limit is not None and args.limit < 0:
        raise InputError(f"--limit: got {args.limit}; wanted 0 or more")
    given = {key: getattr(args, flag) for flag, key in _FLAGS.items()}
    overrides: dict[str, object] = {k: value for k, value in given.items() if value is not None}
    if overrides.get("api_key_env") == "":
        overrides["api_key_env"] = None
    more = read_overrides(args.set)
    for key in more.keys() & set(idle):
        raise InputError(f"--set {key}: {args.command_name} does not act on it; leave it out")
    return endpoint_config(overrides | more)


def open_endpoint(args: argparse.Namespace, config: EndpointConfig) -> Endpoint:
    """The endpoint, its answers and its account kept beside `--out`."""
    from groundling.models.endpoints import Endpoint

    out: Path = args.out
    cache = args.cache or out.with_name(f"{out.stem}.cache")
    return Endpoint(config, cache=cache, ledger=out.with_name(f"{out.stem}.ledger.jsonl"))


def read_posts_of(args: argparse.Namespace) -> tuple[Post, ...]:
    """The posts of the split, with their pictures. Raises DataError or InputError."""
    from groundling.data.formats import guess_format, read_splits
    from groundling.errors import DataError

    src: Path = args.src
    if not src.exists():
        raise DataError(src, "no such file or folder; check the path")
    if src.is_file():
        if args.format == "twitter-gmner":
            raise DataError(src, "a file; twitter-gmner is a folder with txt/ and xml/")
        posts = read_splits(src, "jsonl", args.images, boxes=args.boxes)[0].posts
    else:
        form = args.format or guess_format(src)
        posts = read_splits(src, form, args.images, only=[args.split], boxes=args.boxes)[0].posts
    if not posts:
        raise DataError(src, "holds no posts; is it the right file?")
    missing = sum(post.image is None for post in posts)
    if missing == len(posts):
        raise DataError(args.images or src, "no picture of any post found; name their folder")
    if missing:
        warn(args, f"{missing} of {len(posts)} posts have no picture; they will fail")
    return posts


def check_out(args: argparse.Namespace) -> None:
    """Raise InputError for a file that the results cannot go to."""
    out: Path = args.out
    if out.suffix != ".jsonl":
        raise InputError(f"--out {out}: wanted a name that ends in .jsonl")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: wanted a file in a folder that is there")
    for data in (args.src, args.src / f"{args.split}.jsonl"):
        if out.is_file() and data.is_file() and out.samefile(data):
            raise InputError(f"--out {out}: this is the data to ask about; name another file")


def told_cost(endpoint: Endpoint) -> str:
    """What was used, in one line."""
    bill = endpoint.bill()
    words = (
        f"{bill.calls} calls, {bill.cache_hits} answers from the cache, "
        f"{bill.input_tokens} + {bill.output_tokens} tokens"
    )
    if bill.usd is None or bill.total_usd is None:
        return words
    unsure = f", {bill.unsure_usd:.4f} of it unconfirmed" if bill.unsure_usd else ""
    return f"{words}, {bill.usd:.4f} USD{unsure} ({bill.total_usd:.4f} USD in all runs)"


def told_failures(failed: dict[str, int]) -> list[str]:
    """A line for each kind of failure, with what it means and what may help."""
    from groundling.replies import told_kind

    return [f"  {count} × {told_kind(kind)}" for kind, count in failed.items()]


def warn(args: argparse.Namespace, message: str) -> None:
    """Say something on stderr."""
    print(f"groundling {args.command_name}: warning: {message}", file=sys.stderr)
