"""`groundling refineg`: grounded multimodal NER from few labelled posts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from groundling.cli.json_output import json_text
from groundling.cli.recipe import (
    STOPPED,
    add_run_options,
    configured,
    hush_libraries,
    tell_failures,
    unless_stopped,
)

_EXAMPLES = """\
stages, each with all before it:
  synth    labelled sentences near the labelled posts, by a language model
  fit      the tagger, trained on both and calibrated
  refine   uncertain mentions, put to the multimodal LLM
  ground   boxes, by solved examples or by ISR
  run      all of them

examples:
  groundling refineg run --config recipes/refineg-toy.yaml
  groundling refineg synth --config recipes/refineg-toy.yaml --out runs/refineg
  groundling refineg run --config recipes/refineg-toy.yaml --out runs/refineg --seed 1

The same command continues a stopped run. Where more calls of a stage fail than `tolerate` says, the
run stops there, and the same command asks for those again. Fewer, answers that cannot be read, and
questions that are refused for good are recorded, and --retry asks for them again.

configuration (YAML keys, and what --set takes):
"""

_STAGES = {
    "synth": "write labelled sentences",
    "fit": "train the tagger",
    "refine": "ask about uncertain mentions",
    "ground": "ground the mentions",
    "run": "all stages",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `refineg` and its stages; `func` takes the parsed arguments."""
    from groundling.config_gmner import RefinegConfig
    from groundling.settings import describe

    parser = subparsers.add_parser(
        "refineg", help="grounded multimodal NER from few labelled posts (ReFineG)"
    )
    commands = parser.add_subparsers(dest="refineg_command", required=True, metavar="STAGE")
    for name, words in _STAGES.items():
        stage = commands.add_parser(
            name,
            help=words,
            description=f"ReFineG up to this stage: {words}.",
            epilog=_EXAMPLES + describe(RefinegConfig),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_run_options(stage)
        stage.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run or continue up to the stage, print, return 0; 130 where the user stopped it."""
    from groundling.config_gmner import RefinegConfig

    until = "ground" if args.refineg_command == "run" else args.refineg_command
    config, out = configured(args, RefinegConfig, until)
    hush_libraries()
    from groundling.refineg import run_refineg

    told = unless_stopped(
        out,
        lambda: run_refineg(config, out, until=until, quiet=args.quiet, retry=args.retry),
    )
    if told is None:
        return STOPPED
    whole = "test" in told and not args.json
    text = metrics_table(told) if whole else json_text({**told, "run": str(out)})
    print(f"{text}\n\nrun: {out}" if whole else text)
    tell_failures(out)
    return 0


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """F1 in percent on test after each stage, and what the stages did."""
    made, boxes = metrics["synthesis"], metrics["grounding"]
    lines = [
        f"labelled posts {metrics['labelled_posts']}, sentences made {made['kept']}",
        asked_words(metrics["refinement"]),
        f"boxes {boxes['boxes']}, absent {boxes['absent']}, posts that failed "
        f"{boxes['failed_posts']}",
        *left_out_words(boxes),
        "",
        f"{'test':10}{'rule':9}{'MNER F1':>9}{'EEG F1':>9}{'GMNER F1':>10}",
    ]
    for stage, scores in metrics["test"].items():
        for rule, score in scores.items():
            figures = "".join(f"{score[task]['f1']:>9.2f}" for task in ("mner", "eeg"))
            lines.append(f"{stage:10}{rule:9}{figures}{score['gmner']['f1']:>10.2f}")
    return "\n".join(lines)


def left_out_words(grounding: Mapping[str, Any]) -> list[str]:
    """A line where examples were not shown because their pictures cannot be read."""
    count = grounding["unreadable_example_pictures"]
    return [f"pictures of examples that cannot be read {count} (left-out.json)"] if count else []


def asked_words(refinement: Mapping[str, Any]) -> str:
    """How many mentions were asked about, and what that came to."""
    changes = ", ".join(f"{n} {what}" for what, n in refinement.get("changes", {}).items())
    words = f"mentions asked about {refinement['asked']} of {refinement['mentions']}"
    return f"{words}: {changes}" if changes else words
