"""`groundling plan`: what a recipe would need, before anything is loaded."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.cli.json_output import json_text

if TYPE_CHECKING:
    from groundling.config import DirectConfig, IsrConfig

_EXAMPLES = """\
Builds the recipe's models without weights and adds up what each stage would hold. Nothing is
downloaded: a model's configuration is its folder's config.json, that of a published checkpoint
that comes with the package, or one in the hub's local cache. Every figure is an estimate; the
formulas are in docs/planning.md.

Exit code 0 where the run fits, 1 where it does not, 2 where the call is wrong or where the recipe
names folders, files, packages or keys that are not here: all of them are told. Figures are then
printed all the same, those of images by assumption.

--json prints: verdict ("fits" or "does not fit"), told, changes (dotted keys, as --set takes
them), changes_suffice, device {name, memory_gib, devices, speed}, models {writer, grounder: {name,
parameters, trainable}}, stages [{name, peak_gib, parts_gib, planned, seconds}], decides, peak_gib,
disk_gib, seconds, notes, missing.

examples:
  groundling plan recipes/paper/table1-isr.yaml
  groundling plan recipes/paper/table1-isr.yaml --device A800 --device-memory 79
  groundling plan recipes/paper/table1-isr.yaml --device-memory 24 --set writer.load_in_4bit=true
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `plan`; its `func` takes the parsed arguments and returns an exit code."""
    parser = subparsers.add_parser(
        "plan",
        help="say what a recipe needs in memory, disk and time, and whether it fits",
        description="Say what a recipe needs in memory, disk and time, and whether it fits.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a recipe of `groundling isr` or `groundling baseline`, YAML",
    )
    parser.add_argument(
        "--device-memory",
        type=float,
        metavar="GIB",
        help="free memory of each device (default: what is free here)",
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="how many devices")
    parser.add_argument(
        "--device", metavar="NAME", help="a known accelerator, for its speed: A100, H100, L4 …"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe; may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Plan and print; 0 where it fits, 1 where it does not.

    Raises InputError for a bad call, and for what the recipe names and is not here.
    """
    from groundling.errors import InputError

    if args.devices < 1:
        raise InputError(f"--devices: got {args.devices}; wanted at least 1")
    if args.device_memory is not None and not 0 < args.device_memory < 1e6:
        raise InputError(f"--device-memory: got {args.device_memory:g}; wanted GiB above 0")
    config = read_recipe(Path(args.recipe), args.set)
    from groundling.config import DirectConfig
    from groundling.inputs import missing_inputs

    missing = missing_inputs(config)
    if any(_is_weights(told) for told in missing):  # there is nothing to add up
        raise InputError("; ".join(missing))
    from groundling.plan import find_device, plan_run
    from groundling.plan_page import as_json, told

    first = config.model if isinstance(config, DirectConfig) else config.writer

    room = None if args.device_memory is None else round(args.device_memory * (1 << 30))
    device = find_device(
        first.device,
        room=room,
        devices=args.devices,
        name=args.device,
        timed_dtype=first.dtype,
    )
    plan = plan_run(config, device)
    print(json_text(as_json(plan, missing)) if args.json else told(plan, missing))
    if missing:
        sys.stdout.flush()
        raise InputError("; ".join(missing))
    return int(not plan.fits)


def _is_weights(told: str) -> bool:
    return told.startswith(("writer.path", "grounder.path", "model.path"))


def read_recipe(path: Path, assignments: Sequence[str]) -> IsrConfig | DirectConfig:
    """The recipe of an ISR run or, where it has a top-level key `model`, of a direct baseline.

    Raises ConfigError with every problem found.
    """
    from groundling.config import DirectConfig, IsrConfig
    from groundling.settings import load_config, read_overrides

    overrides = read_overrides(assignments)
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if re.search(r"^model:", text, re.MULTILINE):
        return load_config(DirectConfig, path, overrides)
    return load_config(IsrConfig, path, overrides)
