"""The paper's main run at full size on a GPU, with random weights: memory and time by stage.

    python bench/paper_shapes.py --out runs/shapes --page docs/results/paper-shapes.md
    python bench/paper_shapes.py --out runs/shapes-dry --dry-run

Builds a release with pictures of the data's own sizes, a Qwen2-VL and an OFA of the recipe's
shapes with random weights, and runs `run_isr` on them: the recipe's batches, micro-batches,
precision, checkpointing and K; one round, one epoch, fewer queries. Compares every stage with
`groundling plan`, projects times to the recipe's full numbers, writes a page and prints JSON.
Nothing is downloaded. OUT grows to 26 GiB.

No stage begins after --minutes; the same command goes on from there, and what was measured is not
measured again. Exit code 0 where everything is measured, 1 where a stage ran out of memory, 2 where
the call is wrong, 3 where the time was up. --dry-run does all this with tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from paper_shapes_data import Counts, Size, read_sizes, write_release
from paper_shapes_meter import Meter, Record, TimeIsUp
from paper_shapes_models import (
    grounder_facts,
    prompt_tokens,
    write_grounder,
    write_writer,
    writer_facts,
    writer_processor,
)
from paper_shapes_page import page, rows, summary

from groundling.config import IsrConfig, load_config, read_overrides
from groundling.data.pairs_parquet import read_pairs
from groundling.errors import GroundlingError, InputError
from groundling.isr import run_isr
from groundling.plan import find_device, open_models
from groundling.planning.counts import counts_of
from groundling.planning.durations import plan_durations
from groundling.planning.stages import plan_stages
from groundling.provenance import provenance
from groundling.rounds import read_drawn

RECIPE = Path(__file__).parents[1] / "recipes" / "paper" / "table1-isr.yaml"
SMALLER = 10
"""How many times smaller each side of a picture is in a dry run."""

SMALL_ANSWER = 6
"""Longest answer of a dry run, in tokens."""


def main(words: Sequence[str] | None = None, clock: Callable[[], float] = time.perf_counter) -> int:
    """Measure, write the page, print the summary; the exit code."""
    parser = _parser()
    options = parser.parse_args(words)
    try:
        return measure(options, clock)
    except GroundlingError as fault:
        parser.error(str(fault))


def measure(options: argparse.Namespace, clock: Callable[[], float]) -> int:
    """One call: as many stages as the time allows, then the page and the summary."""
    began_s = clock()
    recipe = _recipe(options)
    device = _device(options.dry_run)
    counts = Counts(max(1, options.queries // 2), options.queries, max(2, options.queries // 8))
    sizes, told = read_sizes(options.xml)
    if options.dry_run:
        sizes = [_smaller(size) for size in sizes]
    record = Record(options.out / "measured.json", _about(options, recipe, counts, device, told))
    recipe = _prepare(options.out, recipe, counts, sizes, device, options.dry_run)
    run = options.out / "run"
    _forget_unmeasured(run, record)
    meter = Meter(record, device, began_s + 60 * options.minutes, clock)
    code = 0
    try:
        run_isr(_reduced(recipe, counts), run, quiet=options.quiet, watch=meter)
    except TimeIsUp as stage:
        _say(f"the time is up before {stage}: the same command goes on from there")
        code = 3
    except torch.OutOfMemoryError as fault:
        _say(str(fault))
        code = 1
    _report(options, recipe, counts, sizes, record)
    return code


def _forget_unmeasured(run: Path, record: Record) -> None:
    """What was done only in part, or without being measured, is done again as a whole."""
    shutil.rmtree(run / "scratch", ignore_errors=True)
    for marker in (run / "stages").glob("*.json"):
        if marker.stem not in record.stages:
            marker.unlink()


def _recipe(options: argparse.Namespace) -> IsrConfig:
    """The recipe as it is planned; a dry run's has shorter answers and runs on the CPU."""
    if options.queries < 1:
        raise InputError(f"--queries: got {options.queries}; wanted at least 1")
    if options.dry_run and options.page is not None:
        raise InputError("--page: a dry run has no figures to publish; its page is in --out")
    small: dict[str, object] = {}
    if options.dry_run:
        small = {"writer.device": "cpu", "grounder.device": "cpu", "max_new_tokens": SMALL_ANSWER}
    recipe = load_config(IsrConfig, options.config, small | read_overrides(options.set))
    if recipe.writer.path is None or recipe.grounder.path is None or not recipe.rounds:
        raise InputError(f"{options.config}: wanted published models by name, and rounds")
    return recipe


def _device(dry_run: bool) -> torch.device | None:
    """The GPU; None in a dry run. Raises InputError where there is none."""
    if dry_run:
        return None
    if not torch.cuda.is_available():
        raise InputError("no GPU here; --dry-run goes the same way with tiny models on the CPU")
    return torch.device("cuda", torch.cuda.current_device())


def _about(
    options: argparse.Namespace,
    recipe: IsrConfig,
    counts: Counts,
    device: torch.device | None,
    sizes: str,
) -> dict[str, Any]:
    """What the figures depend on, and the page tells."""
    assert recipe.writer.path is not None
    processor = writer_processor(writer_facts(recipe.writer.path, options.dry_run))
    name = "a CPU"
    if device is not None:
        whole = torch.cuda.mem_get_info(device)[1]
        name = f"{torch.cuda.get_device_name(device)}, {whole / (1 << 30):.1f} GiB"
    return {
        "command": _command(options),
        "recipe": options.config.name,
        "config": recipe.model_dump(mode="json"),
        "made": asdict(counts),
        "dry_run": options.dry_run,
        "device": name,
        "versions": provenance()["versions"],
        "models": f"{recipe.writer.path} and {recipe.grounder.path}",
        "sizes": sizes,
        "prompt_tokens": prompt_tokens(processor),
    }


def _command(options: argparse.Namespace) -> str:
    """The call as others can make it: what decides the figures, without folders of this machine."""
    words = [f"python bench/paper_shapes.py --out OUT --queries {options.queries}"]
    if options.config != RECIPE:
        words.append(f"--config {options.config.name}")
    words += [f"--set {one}" for one in options.set]
    words += ["--xml XML"] if options.xml is not None else []
    words += ["--dry-run"] if options.dry_run else []
    return " ".join(words)


def _prepare(
    out: Path,
    recipe: IsrConfig,
    counts: Counts,
    sizes: Sequence[Size],
    device: torch.device | None,
    small: bool,
) -> IsrConfig:
    """Make release and models where they are missing; the recipe that names them."""
    assert recipe.writer.path is not None
    assert recipe.grounder.path is not None
    writer, grounder, release = out / "writer", out / "grounder", out / "release"
    if not writer.exists():
        _say("drawing the writer's weights")
        facts = writer_facts(recipe.writer.path, small)
        write_writer(writer, facts, recipe.writer.dtype, str(device or "cpu"))
        gc.collect()
        if device is not None:
            torch.cuda.empty_cache()
    if not grounder.exists():
        _say("drawing the grounder's weights")
        write_grounder(grounder, grounder_facts(recipe.grounder.path, small))
    if not (release / "experts.jsonl").exists():
        _say("drawing posts and pictures")
        shutil.rmtree(release, ignore_errors=True)
        write_release(release, sizes, counts, recipe.seed)
    return _changed(
        recipe,
        {
            "writer": {"path": str(writer)},
            "grounder": {"path": str(grounder)},
            "experts": {"path": str(release / "experts.jsonl")},
            "data": {"gmner": {"source": str(release), "images": str(release / "images")}},
        },
    )


def _reduced(recipe: IsrConfig, counts: Counts) -> IsrConfig:
    """One round, one epoch of every fit, the queries that were made; nothing else."""
    once = {"epochs": 1}
    return _changed(
        recipe,
        {
            "rounds": 1,
            "prompts_per_round": None,
            "sft_queries": counts.sft,
            "grounder_tuning": once,
            "sft": once,
            "dpo": once,
            "check_memory": False,
        },
    )


def _changed(recipe: IsrConfig, changes: dict[str, Any]) -> IsrConfig:
    values = recipe.model_dump()
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return IsrConfig.model_validate(values)


def _report(
    options: argparse.Namespace,
    recipe: IsrConfig,
    counts: Counts,
    sizes: Sequence[Size],
    record: Record,
) -> None:
    """Write the page and print the summary."""
    models = open_models(recipe, sizes)
    speed = find_device(recipe.writer.device).speed
    durations = {}
    if speed is not None:
        durations = plan_durations(recipe, *models, counts_of(recipe, None), speed, 1)
    drawn, pairs = _drawn(options.out / "run" / "rounds" / "1")
    plan = plan_stages(recipe, *models, 1)
    found = rows(plan, durations, recipe, counts, record.stages, pairs)
    target = options.page or options.out / "paper-shapes.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(found, record.stages, record.about, drawn), encoding="utf-8")
    print(json.dumps({**summary(found, record.stages), "page": str(target)}, indent=2))


def _drawn(folder: Path) -> tuple[tuple[int, int] | None, int | None]:
    """Answers that were drawn and how many of them were cut, and pairs; None before there are."""
    drawn, pairs = folder / "expressions.parquet", folder / "pairs.parquet"
    counted = None
    if drawn.exists():
        said = [one for row in read_drawn(drawn).values() for one in row]
        counted = len(said), sum(one.logprob is None for one in said)
    return counted, len(read_pairs(pairs)) if pairs.exists() else None


def _smaller(size: Size) -> Size:
    return max(28, size[0] // SMALLER), max(28, size[1] // SMALLER)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for models, run, record")
    parser.add_argument("--config", type=Path, default=RECIPE, help="a recipe of groundling isr")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of it"
    )
    parser.add_argument("--queries", type=int, default=256, help="prompts of the round")
    parser.add_argument("--xml", type=Path, help="annotations to take picture sizes from")
    parser.add_argument("--minutes", type=float, default=6.0, help="no stage begins after these")
    parser.add_argument("--page", type=Path, help="default: OUT/paper-shapes.md")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


if __name__ == "__main__":
    sys.exit(main())
