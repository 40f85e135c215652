"""What `groundling score` warns of: what silently costs points, and what files may hold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from groundling.errors import ImageError

if TYPE_CHECKING:
    from groundling.data.gmner import Split
    from groundling.records import Post, PostPrediction, Scheme
    from groundling.scoring.align import Alignment

_FOREIGN_FATE = {
    "isr": "answer no query",
    "refineg": "count as wrong in MNER; the rule drops posts without gold elsewhere",
}


def warn_unsound(args: argparse.Namespace, path: str, aligned: Alignment, split: str) -> None:
    """Say on stderr, a line each, what will silently cost points."""
    posts = len(aligned.posts)
    if aligned.absent or aligned.failed:
        warn(
            args,
            f"{path}: of {posts} gold posts {aligned.absent} absent, {aligned.failed} error "
            "records; their entities count as wrong",
        )
    if aligned.foreign:
        fate = _FOREIGN_FATE.get(args.rule, "count as wrong")
        warn(
            args,
            f"{path}: posts that are not in split {split}: {len(aligned.foreign)} "
            f"(first: {aligned.foreign[0].id}); their predictions {fate}",
        )
    if args.rule == "span" and aligned.spanless:
        warn(
            args,
            f"{path}: predictions without start and end: {aligned.spanless}; "
            "rule span counts them as wrong in GMNER",
        )


def warn_of_predictions(
    args: argparse.Namespace, path: str, system: Sequence[PostPrediction], scheme: Scheme
) -> None:
    """Say what a converted file may hold: types that the rule ignores, boxes nobody told."""
    from groundling.records import UNPLACED

    said = [item for post in system for item in post.predictions]
    if failed := sum(len(post.failed) for post in system):
        warn(args, f"{path}: {failed} entities of answered posts are errors; they count as wrong")
    unknown = [item.type for item in said if item.type not in scheme.types]
    if unknown:
        named = ", ".join(dict.fromkeys(unknown))
        warn(
            args,
            f"{path}: {len(unknown)} predictions of types outside {scheme.name} ignored: {named}",
        )
    if unplaced := sum(item.box == UNPLACED for item in said):
        warn(
            args,
            f"{path}: {unplaced} predictions with the box [0, 0, 0, 0], not told: wrong but in "
            "MNER",
        )


def warn_of_gold(args: argparse.Namespace, gold: Split, split: str) -> None:
    """Say what gold lacks: entities, or boxes."""
    entities = [entity for post in gold.posts for entity in post.entities]
    if gold.posts and not entities:
        warn(args, f"{args.gold}: split {split} has no entity at all; is it tagged?")
    if unknown := sum(not entity.boxes_known for entity in entities):
        warn(
            args,
            f"{args.gold}: {unknown} of {len(entities)} entities come without gold boxes; nothing "
            "answers them in GMNER and EEG, only MNER means something",
        )


def warn_of_convention(
    args: argparse.Namespace, path: str, gold: Split, system: Sequence[PostPrediction]
) -> None:
    """Say that boxes look like shares of their images, which no rule counts as pixels."""
    from groundling.images import stored_frame
    from groundling.scoring.convention import foreign_convention

    def size_of(post: Post) -> tuple[int, int] | None:
        if post.id in gold.xml_sizes or post.image is None:
            return gold.xml_sizes.get(post.id)
        try:
            return stored_frame(post.image).upright_wh_px
        except ImageError:
            return None

    if convention := foreign_convention(gold.posts, system, size_of):
        warn(
            args,
            f"{path}: its boxes look like {convention}; wanted pixels of the original image: "
            "multiply them by its width and height",
        )


def warn(args: argparse.Namespace, message: str) -> None:
    """Say it on stderr, and keep it for --json."""
    args.warnings.append(message)
    print(f"groundling score: warning: {message}", file=sys.stderr)
