"""`groundling ground`: where named entities are in a picture, and in what words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.cli.json_output import json_text
from groundling.errors import InputError

if TYPE_CHECKING:
    from groundling.ground import EntityAnswer, EntityFailure

_EXAMPLES = """\
NAME may hold colons: the last one comes before TYPE (PER, LOC, ORG, MISC or OTHER). Boxes are
x1, y1, x2, y2 in pixels of the upright picture. Exit code 1 where an entity could not be answered.
Without --run the packaged models answer. They know the embedded world alone, and about any name
that they were not trained on they give no answer; docs/models.md lists the names.

examples:
  groundling ground photo.jpg --entity "Mara Quill:PER"
  groundling ground photo.jpg --entity "Mara Quill:PER" --entity Novalis:ORG --draw boxes.png
  groundling ground photo.jpg --entity Novalis:ORG --run runs/demo --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `ground`; its `func` takes the parsed arguments and returns an exit code."""
    parser = subparsers.add_parser(
        "ground",
        help="say where named entities are in a picture",
        description="Say where named entities are in a picture, and in what words.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", metavar="IMAGE", help="a picture: JPEG, PNG, WebP, BMP or GIF")
    parser.add_argument(
        "--entity",
        action="append",
        default=[],
        metavar="NAME:TYPE",
        dest="entities",
        help="whom or what to find (may be repeated)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="a run directory whose models answer (default: those that come with the package)",
    )
    parser.add_argument(
        "--draw",
        type=Path,
        metavar="OUT",
        help="also save the picture with boxes (.png, .jpg …)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Ask, print, draw; 1 where an entity failed.

    Raises InputError or RunError for a bad call: for a place that cannot be drawn to, once the
    answers are printed.
    """
    entities = [_entity(word) for word in args.entities]
    if not entities:
        raise InputError("no entity given; name at least one with --entity NAME:TYPE")
    from groundling.drawing import check_name
    from groundling.ground import EntityFailure, EntityGrounder, make_queries
    from groundling.images import load_image

    # What the call itself gets wrong is told before any model is opened.
    make_queries(args.image, entities)
    load_image(args.image)
    if args.draw is not None:
        check_name(args.draw, Path(args.image))
    grounder = EntityGrounder.load(args.run)
    if not grounder.tuned:
        _warn("these models were never tuned for this task; name a trained run with --run DIR")
    answers = grounder.ground(args.image, entities)
    for answer in answers:
        if not isinstance(answer, EntityFailure) and answer.known is False:
            _warn(f"the writer was never trained on {answer.entity} ({answer.type}); it may guess")
    values = {"image": args.image, "answers": [answer.to_json() for answer in answers]}
    print(json_text(values) if args.json else _told(args, answers))
    if args.draw is not None:
        sys.stdout.flush()  # the answers come first, whatever the disk says
        _draw(args.image, args.draw, answers)
        if not args.json:
            print(f"\ndrawn: {args.draw}")
    return int(any(isinstance(answer, EntityFailure) for answer in answers))


def _entity(word: str) -> tuple[str, str]:
    """`NAME:TYPE`, split at the last colon."""
    name, colon, type_ = word.rpartition(":")
    if not colon or not name.strip():
        raise InputError(f"--entity {word!r}: wanted NAME:TYPE, such as 'Mara Quill:PER'")
    return name.strip(), type_


def _told(args: argparse.Namespace, answers: Sequence[EntityAnswer | EntityFailure]) -> str:
    """The answers for people: one block an entity."""
    lines = [args.image]
    for answer in answers:
        lines += ["", f"{answer.entity} ({answer.type})", *_told_one(answer)]
    return "\n".join(lines)


def _told_one(answer: EntityAnswer | EntityFailure) -> list[str]:
    from groundling.ground import EntityFailure

    if isinstance(answer, EntityFailure):
        return [f"  no answer: {answer.failure.reason} (at stage {answer.failure.stage})"]
    sure = "" if answer.logprob is None else f"  (log-probability {answer.logprob:.2f})"
    words = " ".join(answer.expression.split())
    if answer.box is None:
        return [f"  not in the picture{sure}"]
    x1, y1, x2, y2 = (f"{value:.0f}" for value in answer.box.xyxy)
    if x1 == x2 or y1 == y2:  # thinner than a pixel or two: whole pixels would hide its area
        x1, y1, x2, y2 = (f"{value:.2f}" for value in answer.box.xyxy)
    corners = f"{x1}, {y1}, {x2}, {y2}"
    return [f"  words  {words}{sure}", f"  box    {corners}"]


def _draw(image: str, target: Path, answers: Sequence[EntityAnswer | EntityFailure]) -> None:
    from groundling.drawing import Mark, draw_marks, save_drawing
    from groundling.ground import EntityAnswer
    from groundling.images import load_image

    marks = [
        Mark(answer.box, f"{answer.entity} ({answer.type}): {answer.expression}")
        for answer in answers
        if isinstance(answer, EntityAnswer) and answer.box is not None
    ]
    save_drawing(draw_marks(load_image(image), marks), target, Path(image))


def _warn(message: str) -> None:
    print(f"groundling ground: warning: {message}", file=sys.stderr)
