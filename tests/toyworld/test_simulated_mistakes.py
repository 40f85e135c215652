"""The simulated annotator: when it errs, and what it looks at."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from groundling.models.base import Case, LocatedCase, Solved
from groundling.models.in_context import in_context_question
from groundling.prompts import as_text
from groundling.records import TWITTER, Box, Frame, Mention, Post
from groundling.refinement import refinement_messages
from groundling.toyworld.posts import WorldPost, draw_posts
from groundling.toyworld.render import render
from groundling.toyworld.scene import SIZE_PX
from groundling.toyworld.simulator import Annotator

POSTS = draw_posts("train", 400, 3, vague=1.0)
SCENES = {drawn.post.id: drawn.scene for drawn in POSTS}


def question(post: Post, mention: Mention) -> str:
    return as_text(refinement_messages(post, mention, TWITTER, 2, picture=False))


def errs(annotator: Annotator, post: Post, mention: Mention, gold: Mention) -> bool:
    said = json.loads(annotator.answer(question(post, mention), []))
    name = " ".join(post.tokens[gold.start : gold.end])
    return (said["entity"], said["type"]) != (name, gold.type)


def gold_mentions(confidence: float | None = None) -> list[tuple[Post, Mention]]:
    return [
        (drawn.post, Mention(e.start, e.end, e.type, confidence))
        for drawn in POSTS
        for e in drawn.post.entities
    ]


def test_a_taggers_confidence_changes_no_question() -> None:
    for (post, sure), (_, unsure) in zip(gold_mentions(1.0), gold_mentions(0.01), strict=True):
        assert question(post, sure) == question(post, unsure)


def test_it_errs_at_its_rate_whether_or_not_the_tagger_was_right() -> None:
    annotator = Annotator(0.8)
    right = [errs(annotator, post, gold, gold) for post, gold in gold_mentions()]
    wrong = []
    for post, gold in gold_mentions():
        other = next(kind for kind in TWITTER.types if kind != gold.type)
        wrong.append(errs(annotator, post, Mention(gold.start, gold.end, other), gold))
    for found in (right, wrong):
        assert sum(found) / len(found) == pytest.approx(0.2, abs=0.06)  # three deviations
    able = [errs(Annotator(1.0), post, gold, gold) for post, gold in gold_mentions()]
    assert sum(able) / len(able) < 0.02  # two names of a post may share a word


def test_the_same_question_has_the_same_answer_and_another_seed_others() -> None:
    asked = [question(post, gold) for post, gold in gold_mentions()[:60]]

    def answers(seed: int) -> list[str]:
        return [Annotator(0.5, seed).answer(text, []) for text in asked]

    assert answers(0) == answers(0)
    assert answers(0) != answers(1)


def ask(annotator: Annotator, case: Case, shown: Sequence[Solved]) -> LocatedCase:
    """Asks where a case is after solved examples, in the words of the flow."""
    one = in_context_question(case, shown, "relative-1000")
    frames = [Frame((SIZE_PX, SIZE_PX), (SIZE_PX, SIZE_PX))] * len(one.pictures)
    pictures = [render(SCENES[name]) for name in one.pictures]
    return one.read(annotator.answer(as_text(one.messages(frames)), pictures), frames)


def pair_of_posts() -> tuple[WorldPost, WorldPost, str]:
    """Two posts that show the same thing, named in both."""
    seen: dict[str, WorldPost] = {}
    for drawn in POSTS:
        for one in drawn.post.entities:
            if one.type == "MISC" and one.groundable and len(drawn.scene.figures) > 1:
                if one.name in seen:
                    return seen[one.name], drawn, one.name
                seen[one.name] = drawn
    raise AssertionError("no thing is shown twice")


def case_of(drawn: WorldPost, name: str) -> Case:
    entity = next(one for one in drawn.post.entities if one.name == name)
    return Case(drawn.post.id, drawn.post.text, entity.name, entity.type)


def box_of(drawn: WorldPost, name: str) -> Box:
    box = next(one for one in drawn.post.entities if one.name == name).largest_box
    assert box is not None
    return box


def test_it_finds_a_thing_by_the_example_that_it_is_shown() -> None:
    first, second, name = pair_of_posts()
    case, able = case_of(second, name), Annotator(1.0)
    example = case_of(first, name)
    found, reasons = ask(able, case, [Solved(example, box_of(first, name))])
    assert found is not None
    assert found.iou(box_of(second, name)) > 0.5
    assert reasons == "1 of 1 examples show it."
    nothing: list[list[Solved]] = [
        [],
        [Solved(example, None)],
        [Solved(Case(example.image, example.text, "Nobody", "MISC"), box_of(first, name))],
    ]
    for shown in nothing:
        assert ask(able, case, shown)[0] is None


def test_it_believes_the_box_of_an_example() -> None:
    """Where the example's box is round another figure, the annotator looks for that one."""
    _, second, name = pair_of_posts()
    others = [r.box for r in second.scene.referents() if not r.box.iou(box_of(second, name))]
    example = Solved(case_of(second, name), others[0])
    found, _ = ask(Annotator(1.0), case_of(second, name), [example])
    assert found is not None
    assert found.iou(others[0]) > 0.9
    assert not found.iou(box_of(second, name))


def test_its_mistakes_about_boxes_do_not_depend_on_the_examples() -> None:
    first, second, name = pair_of_posts()
    case, poor = case_of(second, name), Annotator(0.0)
    shown = [Solved(case_of(first, name), box_of(first, name))]
    assert ask(poor, case, shown)[0] is None
    whole, _ = ask(poor, case, [])
    assert whole == Box(0, 0, SIZE_PX, SIZE_PX)
