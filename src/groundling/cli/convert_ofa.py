"""`groundling convert-ofa`: a published fairseq checkpoint as a folder of safetensors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from groundling.cli.json_output import json_text
from groundling.cli.recipe import check_there
from groundling.errors import InputError

SIZE_NAMES = ("tiny", "medium", "base", "large", "huge")
"""The same as `models.ofa.config.SIZES`, spelt out so that `--help` need not import torch."""

_EXAMPLES = """\
OUT is written whole or not at all. Code in the file is never run: of objects other than tensors
and plain values only argparse.Namespace is read. --tokenizer names any folder with OFA's (or
BART's) vocab.json and merges.txt; without it OUT cannot ground yet.

examples:
  groundling convert-ofa refcoco_large_best.pt models/ofa-large --tokenizer ofa-large
  groundling convert-ofa ofa_base.pt models/ofa-base --size base --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `convert-ofa`; its `func` takes the parsed arguments and returns an exit code."""
    parser = subparsers.add_parser(
        "convert-ofa",
        help="turn a fairseq OFA checkpoint into a folder that Groundling opens",
        description="Turn a fairseq OFA checkpoint (.pt) into config.json and model.safetensors.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC.pt", help="the fairseq checkpoint")
    parser.add_argument("out", metavar="OUT", help="a folder that is not there yet")
    parser.add_argument(
        "--size", choices=SIZE_NAMES, help="published size (default: found from the tensors)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="config.json of a model of no published size"
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="folder with vocab.json and merges.txt, to be included"
    )
    parser.add_argument(
        "--patch-image-size",
        type=int,
        metavar="PX",
        help="side of the square that pictures are squeezed to "
        "(default: as the checkpoint records, else the size's own)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Convert, print, return 0. Raises InputError for a file that is not what it should be."""
    given = (args.source, args.config, args.tokenizer)
    check_there(*(Path(path) for path in given if path is not None))  # before heavy imports
    if args.patch_image_size is not None and args.patch_image_size < 1:
        raise InputError("--patch-image-size must be 1 or more")
    from groundling.models.ofa.convert import convert_fairseq

    done = convert_fairseq(
        Path(args.source),
        Path(args.out),
        size=args.size,
        config_file=None if args.config is None else Path(args.config),
        patch_image_size=args.patch_image_size,
        tokenizer=None if args.tokenizer is None else Path(args.tokenizer),
    )
    if args.json:
        values = {
            "out": str(done.out),
            "size": done.size,
            "patch_image_size": done.patch_image_size,
            "tensors": done.tensors,
            "parameters": done.parameters,
            "left_out": done.left_out,
            "tokenizer": done.tokenizer,
        }
        print(json_text(values))
    else:
        print(
            f"{done.out}: OFA {done.size or 'of its own shape'}, {done.tensors} tensors, "
            f"{done.parameters / 1e6:.1f} M parameters, pictures squeezed to "
            f"{done.patch_image_size} px"
        )
    if not done.tokenizer:
        print(
            "groundling convert-ofa: warning: no vocabulary; put vocab.json and merges.txt of an "
            f"OFA or BART model into {done.out}",
            file=sys.stderr,
        )
    return 0
