from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pytest

from groundling import prompts
from groundling.records import ABSENT
from groundling.toyworld import identities as who
from groundling.toyworld.language import denotation, parse
from groundling.toyworld.lessons import (
    BROAD,
    CALLED,
    NOT_HERE,
    STRANGER,
    Lesson,
    draw_lesson,
    facts_of,
    features_of,
    place_of,
)
from groundling.toyworld.scene import Referent, Scene, draw_scene

Taught = list[tuple[Scene, str, Lesson]]


@pytest.fixture(scope="module")
def lessons() -> Taught:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng, "pretraining") for _ in range(150)]
    drawn = [(s, draw_lesson(s, rng, BROAD)) for s in scenes for _ in range(14)]
    return [(scene, kind, lesson) for scene, (kind, lesson) in drawn]


def of_kind(lessons: Taught, kind: str) -> list[tuple[Scene, str, str]]:
    found = [(s, lesson.question, lesson.answer) for s, drawn, lesson in lessons if drawn == kind]
    assert len(found) > 20
    return found


def named(question: str, scene: Scene) -> Referent | None:
    """The largest figure or logo that a question asks about by name."""
    (name,) = [name for name in who.NAMES if name in question]
    here = [r for r in scene.referents() if r.name == name]
    return max(here, key=lambda r: r.box.area, default=None)


def meant(words: str, scene: Scene) -> tuple[Referent, ...]:
    phrase = parse(words)
    assert phrase is not None, words
    return denotation(phrase, scene)


def test_shares_are_shares() -> None:
    for shares in (BROAD, CALLED):
        assert sum(shares.values()) == pytest.approx(1)


def test_no_lesson_teaches_the_task(lessons: Taught) -> None:
    for _, kind, lesson in lessons:
        assert kind == "describe" or parse(lesson.answer) is None
        assert ABSENT not in lesson.question + lesson.answer
        for prompt in (prompts.EXPERT, prompts.WRITE, prompts.GROUND_DIRECTLY):
            assert prompt.partition("\n")[0] not in lesson.question


def test_who_is_here(lessons: Taught) -> None:
    answers = defaultdict(int)
    for scene, question, answer in of_kind(lessons, "is_here"):
        assert answer == ("yes" if named(question, scene) else "no")
        answers[answer] += 1
    assert 0.4 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.6


def test_where_and_how_a_name_is(lessons: Taught) -> None:
    for kind in ("where", "looks_like"):
        seen = set()
        for scene, question, answer in of_kind(lessons, kind):
            target = named(question, scene)
            told = place_of if kind == "where" else lambda r, s=scene: features_of(r, s)
            assert answer == (NOT_HERE if target is None else told(target))
            seen.add(answer)
        assert NOT_HERE in seen
        assert len(seen) > 3


def test_a_description_is_true_and_may_be_true_of_others(lessons: Taught) -> None:
    seen = set()
    for scene, question, answer in of_kind(lessons, "describe"):
        asked = question.removeprefix("Describe ").removesuffix(".")
        if asked in who.NAMES:
            target = named(question, scene)
        else:
            (target,) = meant(asked, scene)
        assert (answer == NOT_HERE) == (target is None)
        if target is not None:
            assert target in meant(answer, scene)
            seen.add(len(meant(answer, scene)) == 1)
    assert seen == {True, False}


def test_facts_are_those_of_the_one_asked_about(lessons: Taught) -> None:
    seen = set()
    for scene, question, answer in of_kind(lessons, "fact"):
        asked, _, aspect = question.strip().removesuffix(":").rpartition(", ")
        if asked in who.NAMES:
            target = named(question, scene)
        else:
            (target,) = meant(asked, scene)
        told = {} if target is None else facts_of(target, scene) | {"name": target.name or STRANGER}
        assert answer.strip() == (told[aspect] if told else NOT_HERE)
        seen.add(aspect)
    assert seen >= {"place", "count", "hair", "head", "shirt", "logo", "on", "looks", "name"}


def test_what_a_description_is_called(lessons: Taught) -> None:
    seen = set()
    for scene, question, answer in of_kind(lessons, "who_is"):
        words = re.sub(r"^(What is the name of|Name) |[?.]$", "", question)
        (target,) = meant(words, scene)
        assert answer == (target.name or STRANGER)
        seen.add(answer)
    assert {STRANGER} < seen


def test_whether_a_name_and_a_description_belong_together(lessons: Taught) -> None:
    seen = set()
    for scene, question, answer in of_kind(lessons, "true_or_false"):
        name, _, words = question.partition(" is ")
        found = {r.name for r in meant(words.removesuffix(", true?"), scene)}
        assert answer == ("true" if name in found else "false")
        seen.add(answer)
    assert seen == {"true", "false"}


def test_the_roll_call_goes_from_side_to_side(lessons: Taught) -> None:
    for scene, question, answer in of_kind(lessons, "roll_call"):
        names = [r.name or STRANGER for r in scene.referents()]
        assert answer.split(", ") == (names[::-1] if "right" in question else names)
