"""The rule of ReFineG's evaluator.py: sets of (name, type, link) for each post.

The link of a gold entity is its own place in the post, 0 when it has no box: grounded repeats of
one name stay apart, ungrounded repeats collapse. The link of a prediction is the place of the
first gold entity of the same name whose *largest* box it overlaps with IoU ≥ 0.5, 0 when it has
no box, and a value that no gold entity has when its box fits nothing.

A post whose gold or predictions are empty is left out of GMNER and EEG, but not of MNER. A post of
which nothing was said (absent or failed) is not an empty answer: its gold stays in the count.
Predictions of types outside the scheme are ignored, before anything is counted.
"""

from __future__ import annotations

from groundling.metrics import Counts
from groundling.records import Box, Entity, Prediction
from groundling.scoring.align import AnsweredPost
from groundling.scoring.match import overlaps
from groundling.scoring.rule import EEG, Task, TripleRule, Unit, mention_key

NO_BOX = 0
FITS_NOTHING = -100


def count_post(post: AnsweredPost, task: Task, unit: Unit) -> Counts:
    """Sizes of one post's sets: their intersection, the predicted one, the gold one."""
    gold = _gold_set(post.gold, task, unit)
    if post.predictions is None:
        return Counts(0, 0, len(gold))
    if task.boxed and not (gold and post.predictions):
        return Counts()
    predicted = {
        (mention_key(answer, task, unit), _link(answer, post.gold, unit) if task.boxed else None)
        for answer in post.predictions
    }
    return Counts(len(gold & predicted), len(predicted), len(gold))


def _gold_set(entities: tuple[Entity, ...], task: Task, unit: Unit) -> set[tuple[object, ...]]:
    return {
        (
            mention_key(entity, task, unit),
            (place if entity.boxes or not entity.boxes_known else NO_BOX) if task.boxed else None,
        )
        for place, entity in enumerate(entities, start=1)
    }


def _link(answer: Prediction, entities: tuple[Entity, ...], unit: Unit) -> int:
    """Which gold entity a prediction's box means. Types do not matter here."""
    if answer.box is None:
        return NO_BOX
    mention = mention_key(answer, EEG, unit)
    for place, entity in enumerate(entities, start=1):
        known = entity.boxes_known and mention_key(entity, EEG, unit) == mention
        if known and _fits(answer.box, entity.largest_box):
            return place
    return FITS_NOTHING


def _fits(box: Box, gold: Box | None) -> bool:
    return gold is not None and overlaps(box, gold, strict=False)


RULE = TripleRule(
    "refineg",
    "name",
    "IoU >= 0.5 with the largest gold box; per-post sets of (name, type, link); posts with an "
    "empty side left out of GMNER and EEG",
    count_post,
    ignores_unknown=True,
)
