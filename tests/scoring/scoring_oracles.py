"""The four rules stated a second time, slowly and independently, and random posts to try them on.

Nothing here is shared with the code under test but the records: overlap is an exact fraction, and
pairings are found by trying them all.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

from hypothesis import strategies as st

from groundling.records import (
    ENTITY_TYPES,
    Box,
    Entity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
)

HALF = Fraction(1, 2)
Triple = tuple[int, int, int]


def overlap(one: Box, two: Box) -> Fraction:
    """Exact IoU of boxes with whole coordinates and some area."""

    def cells(box: Box) -> set[tuple[int, int]]:
        return set(
            itertools.product(range(int(box.x1), int(box.x2)), range(int(box.y1), int(box.y2)))
        )

    return Fraction(len(cells(one) & cells(two)), len(cells(one) | cells(two)))


def is_right(box: Box | None, gold: tuple[Box, ...], *, strict: bool) -> bool:
    if box is None or not gold:
        return box is None and not gold
    best = max(overlap(box, other) for other in gold)
    return best > HALF or (best == HALF and not strict)


def biggest(entity: Entity) -> Box | None:
    sized = sorted(entity.boxes, key=lambda b: -(b.x2 - b.x1) * (b.y2 - b.y1))
    return sized[0] if sized else None


def same_mention(gold: Entity, answer: Prediction, task: str, unit: str) -> bool:
    if unit == "span":
        same = (gold.start, gold.end) == (answer.start, answer.end)
    else:
        same = gold.name == answer.name
    return same and (task == "eeg" or gold.type == answer.type)


def answers_of(predictions: list[PostPrediction], post_id: str) -> tuple[Prediction, ...] | None:
    for post in predictions:
        if post.id == post_id:
            return None if post.failure else post.predictions
    return None


def isr_verdicts(posts: list[Post], predictions: list[PostPrediction]) -> dict[str, bool]:
    """The k-th answer to a name is for its k-th mention that no answer with tokens is for."""
    verdicts = {}
    for post in posts:
        left = list(answers_of(predictions, post.id) or ())
        taken: dict[int, Prediction] = {}
        for spans in (True, False):
            for index, entity in enumerate(post.entities):
                if index in taken:
                    continue
                for answer in left:
                    if answer.name != entity.name or (answer.start is not None) != spans:
                        continue
                    if spans and (answer.start, answer.end) != (entity.start, entity.end):
                        continue
                    taken[index] = answer
                    left.remove(answer)
                    break
        for index, entity in enumerate(post.entities):
            verdicts[f"{post.id}#{index}"] = index in taken and is_right(
                taken[index].box, entity.boxes, strict=True
            )
    return verdicts


def riveg_counts(
    posts: list[Post], predictions: list[PostPrediction], task: str, unit: str
) -> Triple:
    right = predicted = 0
    label = [(post.id, entity) for post in posts for entity in post.entities]
    total = len(label)
    for said in predictions:
        for answer in () if said.failure else said.predictions:
            predicted += 1
            for pair in label:
                if pair[0] != said.id or not same_mention(pair[1], answer, task, unit):
                    continue
                if task == "mner" or is_right(answer.box, pair[1].boxes, strict=False):
                    label.remove(pair)
                    right += 1
                    break
    return right, predicted, total


def refineg_counts(
    posts: list[Post], predictions: list[PostPrediction], task: str, unit: str
) -> Triple:
    right = predicted = total = 0
    for post in posts:
        answers = answers_of(predictions, post.id)
        gold_set = set()
        for index, entity in enumerate(post.entities):
            who: object = entity.name if unit == "name" else (entity.start, entity.end)
            link = (index + 1 if entity.boxes else 0) if task != "mner" else None
            gold_set.add((who, None if task == "eeg" else entity.type, link))
        said_set = set()
        for answer in answers or ():
            who = answer.name if unit == "name" else (answer.start, answer.end)
            link = None
            if task != "mner":
                link = 0 if answer.box is None else -100
                for index, entity in reversed(list(enumerate(post.entities))):
                    largest = biggest(entity)
                    there = entity.name if unit == "name" else (entity.start, entity.end)
                    if answer.box and largest and who == there:
                        link = index + 1 if overlap(answer.box, largest) >= HALF else link
            said_set.add((who, None if task == "eeg" else answer.type, link))
        if task != "mner" and answers is not None and not (gold_set and said_set):
            continue
        right += len(gold_set & said_set)
        predicted += len(said_set)
        total += len(gold_set)
    if task == "mner":
        known = {post.id for post in posts}
        for said in predictions:
            if said.id not in known and not said.failure:
                keys = {
                    (a.name if unit == "name" else (a.start, a.end), a.type)
                    for a in said.predictions
                }
                predicted += len(keys)
    return right, predicted, total


def span_counts(
    posts: list[Post], predictions: list[PostPrediction], task: str, unit: str
) -> Triple:
    """Every one-to-one pairing is tried; keep posts small."""
    right = total = 0
    predicted = sum(len(said.predictions) for said in predictions if not said.failure)
    for post in posts:
        total += len(post.entities)
        answers = answers_of(predictions, post.id) or ()
        places: list[int | None] = [*range(len(post.entities)), *[None] * len(answers)]
        best = 0
        for chosen in set(itertools.permutations(places, len(answers))):
            hits = 0
            for answer, place in zip(answers, chosen, strict=True):
                if place is None or (unit == "span" and answer.start is None):
                    continue
                gold = post.entities[place]
                hits += same_mention(gold, answer, task, unit) and (
                    task == "mner" or is_right(answer.box, gold.boxes, strict=True)
                )
            best = max(best, hits)
        right += best
    return right, predicted, total


# --- random posts: few names, small whole boxes, so that repeats and exact halves are common ------

BOXES = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    *[st.integers(0, 2)] * 2,
    *[st.sampled_from([1, 2, 4])] * 2,
)
NAMES = ("Ann", "Bo", "Cy")


@st.composite
def cases(draw: st.DrawFn, *, most: int = 4) -> tuple[list[Post], list[PostPrediction]]:
    """Gold posts and predictions; some posts unanswered, failed, empty or foreign."""
    spans = draw(st.sampled_from(["all", "none", "some"]))
    posts, predictions = [], []
    for number in range(draw(st.integers(1, 3))):
        names = draw(st.lists(st.sampled_from(NAMES), max_size=most))
        boxes = {name: tuple(draw(st.lists(BOXES, max_size=2))) for name in NAMES}
        entities = tuple(
            Entity(
                name,
                draw(st.sampled_from(ENTITY_TYPES[:2])),
                index,
                index + 1,
                boxes[name],
            )
            for index, name in enumerate(names)
        )
        posts.append(Post(str(number), tuple(names) or ("…",), entities))
        said = tuple(draw(answers(entities, spans)) for _ in range(draw(st.integers(0, most))))
        failure = draw(st.sampled_from([None, None, None, Failure("timeout", "sample")]))
        predictions.append(PostPrediction(str(number), said, failure))
    predictions += draw(st.sampled_from([[], [PostPrediction("elsewhere", (_LOST,))]]))
    predictions = predictions[draw(st.sampled_from([0, 0, 1])) :]
    return posts, predictions


_LOST = Prediction("Ann", "PER", None)


@st.composite
def answers(draw: st.DrawFn, entities: tuple[Entity, ...], spans: str) -> Prediction:
    near = draw(st.integers(0, 4)) > 0
    if entities and near:
        gold = entities[draw(st.integers(0, len(entities) - 1))]
        name, kind, start = gold.name, gold.type, gold.start
        boxes = st.one_of(st.none(), BOXES, st.sampled_from([None, *gold.boxes]))
    else:
        name, kind = draw(st.sampled_from(NAMES)), draw(st.sampled_from(ENTITY_TYPES))
        start, boxes = draw(st.integers(0, 3)), st.one_of(st.none(), BOXES)
    if spans == "all" or (spans == "some" and draw(st.booleans())):
        return Prediction(name, kind, draw(boxes), start, start + 1)
    return Prediction(name, kind, draw(boxes))
