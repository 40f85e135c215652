"""Questions and answers about a scene: what the tiny writer learns before it meets the task.

They stand in for the general training of a foundation model: who is here, where, what does it look
like, which one is meant. None is put in the words of prompts A.1–A.3 of the paper, and no answer
is chosen for singling anything out: a description is true, and may be true of others as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from groundling.records import ENTITY_TYPES
from groundling.toyworld import identities as who
from groundling.toyworld.annotator import write_any, write_expert
from groundling.toyworld.language import LOOSE_NOUN, ORDINALS
from groundling.toyworld.scene import SIZE_PX, TYPE_OF_REFERENT, Figure, Referent, Scene

NOT_HERE = "not here"
STRANGER = "a stranger"


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question about a picture and its true answer."""

    question: str
    answer: str


def draw_lesson(
    scene: Scene, rng: np.random.Generator, shares: Mapping[str, float]
) -> tuple[str, Lesson]:
    """A random lesson about a scene, after its kind."""
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    return kind, _WRITERS[kind](scene, rng)


def _pick(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _name(scene: Scene, rng: np.random.Generator, present: float) -> tuple[str, list[Referent]]:
    """A name, here with the given chance, and its referents in the scene."""
    here = [r for r in scene.referents() if r.name is not None]
    if here and rng.random() < present:
        name = here[int(rng.integers(len(here)))].name
        assert name is not None
    else:
        kinds = {TYPE_OF_REFERENT[r.kind] for r in scene.referents()}
        hard = [t for t in ENTITY_TYPES if t in kinds] if rng.random() < 0.65 else ENTITY_TYPES
        name = _pick(rng, who.names_of(hard[int(rng.integers(len(hard)))]))
    found = [r for r in here if r.name == name]
    found.sort(key=lambda r: -r.box.area)
    return name, found


def _labelled(name: str, rng: np.random.Generator) -> str:
    return f"{name} ({who.NAMES[name][0]})" if rng.random() < 0.6 else name


def place_of(referent: Referent) -> str:
    """Left, middle or right third of the picture."""
    x = (referent.box.x1 + referent.box.x2) / 2 / SIZE_PX
    return "left" if x < 0.36 else "right" if x > 0.64 else "middle"


def _is_here(scene: Scene, rng: np.random.Generator) -> Lesson:
    name, found = _name(scene, rng, present=0.5)
    question = _pick(rng, ("Is {} here?", "Can you see {}?", "Do you see {} anywhere?"))
    return Lesson(question.format(_labelled(name, rng)), "yes" if found else "no")


def _call(scene: Scene, rng: np.random.Generator) -> Lesson:
    """A name alone, as in a list: is it here?"""
    name, found = _name(scene, rng, present=0.5)
    return Lesson(f" {name}:", " yes" if found else " no")


def _fact(scene: Scene, rng: np.random.Generator) -> Lesson:
    """One short fact about somebody or something, asked for by name or in words."""
    if rng.random() < 0.3:
        referents = scene.referents()
        target = referents[int(rng.integers(len(referents)))]
        asked, facts = write_expert(scene, target, rng), facts_of(target, scene)
        facts["name"] = target.name or STRANGER
    else:
        asked, found = _name(scene, rng, present=0.9)
        if not found:
            return Lesson(f" {asked}, place:", f" {NOT_HERE}")
        facts = facts_of(found[0], scene)
    aspect = "place" if rng.random() < 0.3 else _pick(rng, list(facts))
    return Lesson(f" {asked}, {aspect}:", f" {facts[aspect]}")


def facts_of(referent: Referent, scene: Scene) -> dict[str, str]:
    """What there is to say of a referent, by aspect."""
    look, figure = referent.look, scene.figures[referent.figure]
    row = [r for r in scene.referents() if r.kind == referent.kind]
    facts = {"place": place_of(referent), "count": ORDINALS[row.index(referent)]}
    if isinstance(look, who.Face):
        facts["hair"] = " ".join(_face_words(look)[:1])
        facts["head"] = " ".join(_face_words(look)[1:]) or "plain"
        facts["shirt"] = figure.cloth or "plain"
        facts["logo"] = figure.emblem.shape if figure.emblem is not None else "none"
    elif isinstance(look, who.Emblem):
        facts["logo"] = f"{look.colour} {look.shape}"
        facts["on"] = "sign" if figure.kind == "sign" else f"{figure.cloth} shirt"
    else:
        facts["looks"] = f"{look.colour} {look.kind}"
    return facts


def _where(scene: Scene, rng: np.random.Generator) -> Lesson:
    name, found = _name(scene, rng, present=0.75)
    question = _pick(rng, ("Where is {}?", "On which side is {}?"))
    answer = place_of(found[0]) if found else NOT_HERE
    return Lesson(question.format(_labelled(name, rng)), answer)


def _looks_like(scene: Scene, rng: np.random.Generator) -> Lesson:
    name, found = _name(scene, rng, present=0.75)
    question = _pick(rng, ("What does {} look like here?", "List what you can see of {}."))
    answer = features_of(found[0], scene) if found else NOT_HERE
    return Lesson(question.format(_labelled(name, rng)), answer)


def features_of(referent: Referent, scene: Scene) -> str:
    """Everything about a referent as a list: kind, looks, clothes, place."""
    look, figure = referent.look, scene.figures[referent.figure]
    words = [LOOSE_NOUN[referent.kind]]
    if isinstance(look, who.Face):
        words += _face_words(look) + _cloth_words(figure)
    elif isinstance(look, who.Emblem):
        worn = "sign" if figure.kind == "sign" else f"{figure.cloth} shirt"
        words += [f"{look.colour} {look.shape}", worn]
    else:
        words += [f"{look.colour} {look.kind}"]
    return ", ".join([*words, place_of(referent)])


def _face_words(face: who.Face) -> list[str]:
    hair = [f"{face.hair_colour} {face.hair_style}"]
    return hair + ["beard"] * face.beard + ["glasses"] * face.glasses


def _cloth_words(figure: Figure) -> list[str]:
    words = [f"{figure.cloth} shirt"]
    return [*words, figure.emblem.shape] if figure.emblem is not None else words


def _who_is(scene: Scene, rng: np.random.Generator) -> Lesson:
    referents = scene.referents()
    target = referents[int(rng.integers(len(referents)))]
    phrase = write_expert(scene, target, rng)
    question = _pick(rng, ("What is the name of {}?", "Name {}."))
    return Lesson(question.format(phrase), target.name or STRANGER)


def _describe(scene: Scene, rng: np.random.Generator) -> Lesson:
    """Any true words about somebody or something; whether they single it out is left to luck."""
    referents = scene.referents()
    target = referents[int(rng.integers(len(referents)))]
    row = [r for r in referents if r.kind == target.kind]
    asked = f"the {ORDINALS[row.index(target)]} {LOOSE_NOUN[target.kind]} from the left"
    if rng.random() < 0.7:
        asked, found = _name(scene, rng, present=0.85)
        if not found:
            return Lesson(f"Describe {asked}.", NOT_HERE)
        target = found[0]
    return Lesson(f"Describe {asked}.", write_any(scene, target, rng))


def _true_or_false(scene: Scene, rng: np.random.Generator) -> Lesson:
    """A name and a description: do they belong together?"""
    name, found = _name(scene, rng, present=0.9)
    referents = list(scene.referents())
    if found and rng.random() < 0.5:
        return Lesson(f"{name} is {write_any(scene, found[0], rng)}, true?", "true")
    other = referents[int(rng.integers(len(referents)))]
    phrase = write_expert(scene, other, rng)
    return Lesson(f"{name} is {phrase}, true?", "true" if other.name == name else "false")


def _nth(scene: Scene, rng: np.random.Generator) -> Lesson:
    index = int(rng.integers(len(scene.figures)))
    inside = [r for r in scene.referents() if r.figure == index]
    said = " and ".join(features_of(r, scene) for r in inside)
    return Lesson(f"What stands {ORDINALS[index]} from the left?", said)


def _roll_call(scene: Scene, rng: np.random.Generator) -> Lesson:
    side = _pick(rng, ("left", "right"))
    names = [r.name or STRANGER for r in scene.referents()]
    return Lesson(
        f"Who and what is here, from the {side}?",
        ", ".join(names if side == "left" else names[::-1]),
    )


CALLED: dict[str, float] = {"call": 1.0}
"""Shares while names are drilled: the shortest question there is, so the most names a second."""

BROAD: dict[str, float] = {
    "call": 0.14,
    "fact": 0.3,
    "is_here": 0.14,
    "where": 0.06,
    "looks_like": 0.08,
    "describe": 0.14,
    "who_is": 0.05,
    "true_or_false": 0.04,
    "nth": 0.03,
    "roll_call": 0.02,
}
"""Shares later on: mostly short questions, so that one step asks many, and some that need many
words."""

_WRITERS: dict[str, Callable[[Scene, np.random.Generator], Lesson]] = {
    "call": _call,
    "fact": _fact,
    "is_here": _is_here,
    "where": _where,
    "looks_like": _looks_like,
    "describe": _describe,
    "who_is": _who_is,
    "true_or_false": _true_or_false,
    "nth": _nth,
    "roll_call": _roll_call,
}
