"""Whether predicted boxes look like another convention than pixels, which explains a score of 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groundling.data.conventions import WORDS, Scale, in_pixels, looks_relative, share_within
from groundling.records import UNPLACED, Box, Entity, Post, PostPrediction, Size
from groundling.scoring.match import overlaps

SizeOf = Callable[[Post], Size | None]
"""The size in pixels of a post's image, None where it is not known."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A predicted box, the entities of its post with the same name, and the image's size."""

    box: Box
    same: Sequence[Entity]
    size_wh_px: Size | None


def foreign_convention(
    posts: Sequence[Post], predictions: Sequence[PostPrediction], size_of: SizeOf
) -> str | None:
    """The convention that predicted boxes look like, in words; None where pixels are likely.

    Fractions: all boxes lie within 0 to 1. Thousandths: all lie within 0 to 1000, and either boxes
    in pixels would do so by chance alone with p < 0.05 (by the sizes of the images; where these are
    not known, by the share of the gold boxes that do), or more boxes overlap gold, and at least
    half of those that can, if they are read as thousandths. Sizes are asked for only if needed.
    """
    boxes = [
        item.box for post in predictions for item in post.predictions if item.box not in _NO_BOX
    ]
    sound = [box for box in boxes if box is not None and box.area > 0]
    if not sound or min(min(b.x1, b.y1) for b in sound) < 0:
        return None
    top = max(max(b.x2, b.y2) for b in sound)
    if top > 1000:
        return None
    if top <= 1:
        return WORDS[1]
    answers = _answers(posts, predictions, size_of)
    usual = _usual_share(posts)
    placed = [(a.box, share_within(a.size_wh_px) if a.size_wh_px else usual) for a in answers]
    scale: Scale = 1000
    return WORDS[scale] if looks_relative(placed) == scale or _overlap(answers, scale) else None


_NO_BOX = (None, UNPLACED)


def _answers(
    posts: Sequence[Post], predictions: Sequence[PostPrediction], size_of: SizeOf
) -> list[_Answer]:
    by_id = {post.id: post for post in posts}
    answers = []
    for said in predictions:
        post = by_id.get(said.id)
        boxes = [(item.name, item.box) for item in said.predictions]
        if post is None or all(box in _NO_BOX for _, box in boxes):
            continue
        size = size_of(post)
        for name, box in boxes:
            if box is not None and box != UNPLACED:
                same = [entity for entity in post.entities if entity.name == name]
                answers.append(_Answer(box, same, size))
    return answers


def _usual_share(posts: Sequence[Post]) -> float:
    """The share of gold boxes within 0 to 1000, drawn a little to the middle (Laplace's rule)."""
    boxes = [box for post in posts for entity in post.entities for box in entity.boxes]
    within = sum(max(box.x2, box.y2) <= 1000 for box in boxes)
    return (within + 1) / (len(boxes) + 2) if within < len(boxes) else 1.0


def _overlap(answers: Sequence[_Answer], scale: Scale) -> bool:
    """Whether boxes meet gold more often on a scale than in pixels, and then at least by half."""
    tried = plain = scaled = 0
    for answer in answers:
        gold = [box for entity in answer.same for box in entity.boxes]
        if not gold or answer.size_wh_px is None:
            continue
        tried += 1
        moved = in_pixels(answer.box, scale, answer.size_wh_px)
        plain += any(overlaps(answer.box, box, strict=False) for box in gold)
        scaled += any(overlaps(moved, box, strict=False) for box in gold)
    return scaled > plain and 2 * scaled >= tried
