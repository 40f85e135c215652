"""Writes expressions for a referent: the stand-in for a human or GPT-4o annotator (ISR §3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from groundling.toyworld import identities as who
from groundling.toyworld.language import (
    LOOSE_NOUN,
    ORDINALS,
    SUPERLATIVES,
    Phrase,
    Place,
    denotation,
    say,
)
from groundling.toyworld.scene import Referent, Scene

FAMILIES: dict[str, float] = {
    "looks": 0.36,
    "clothes": 0.2,
    "place": 0.16,
    "relation": 0.12,
    "ordinal": 0.08,
    "size": 0.08,
}
"""How often the annotator reaches for each way of telling things apart."""

TRIES = 40


def write_expert(scene: Scene, target: Referent, rng: np.random.Generator) -> str:
    """An expression that means `target` and nothing else in `scene`.

    Families are tried at random; a thing that none of the tries singles out is counted off from
    the left, which always works.
    """
    for _ in range(TRIES):
        phrase = draw_phrase(scene, target, rng)
        if denotation(phrase, scene) == (target,):
            return say(phrase)
    return say(_counted(scene, target))


def write_any(scene: Scene, target: Referent, rng: np.random.Generator) -> str:
    """An expression that is true of `target` but may be true of others too."""
    while True:
        phrase = draw_phrase(scene, target, rng)
        if target in denotation(phrase, scene):
            return say(phrase)


def draw_phrase(
    scene: Scene,
    target: Referent,
    rng: np.random.Generator,
    shares: Mapping[str, float] = FAMILIES,
) -> Phrase:
    """A random phrase that an observer of `target` might come up with; it may be ambiguous."""
    family = str(rng.choice(list(shares), p=list(shares.values())))
    return _FAMILY_WRITERS[family](scene, target, rng)


def _flip(rng: np.random.Generator, chance: float) -> bool:
    return bool(rng.random() < chance)


def _noun(target: Referent, rng: np.random.Generator, loose: float) -> Phrase:
    look = target.look
    if isinstance(look, who.Face) or _flip(rng, loose):
        return Phrase(LOOSE_NOUN[target.kind])
    noun = look.shape if isinstance(look, who.Emblem) else look.kind
    return Phrase(noun, colour=look.colour if _flip(rng, 0.6) else None)


def _looks(scene: Scene, target: Referent, rng: np.random.Generator) -> Phrase:
    phrase = _noun(target, rng, loose=0.0)
    look = target.look
    if not isinstance(look, who.Face):
        if isinstance(look, who.Emblem) and _flip(rng, 0.15):
            return replace(phrase, noun="logo", colour=look.colour)
        return replace(phrase, colour=look.colour if _flip(rng, 0.85) else None)
    tell_colour, tell_style = _flip(rng, 0.7), _flip(rng, 0.55) or look.hair_style == "bun"
    phrase = replace(
        phrase,
        hair_colour=look.hair_colour if tell_colour else None,
        hair_style=look.hair_style if tell_style else None,
        beard=look.beard and _flip(rng, 0.6),
        glasses=look.glasses and _flip(rng, 0.6),
    )
    return _dressed(scene, target, phrase) if _flip(rng, 0.2) else phrase


def _dressed(scene: Scene, target: Referent, phrase: Phrase) -> Phrase:
    figure = scene.figures[target.figure]
    if figure.kind == "sign":
        return replace(phrase, on_sign=phrase.noun != "sign")
    return replace(phrase, cloth=figure.cloth) if figure.kind == "person" else phrase


def _clothes(scene: Scene, target: Referent, rng: np.random.Generator) -> Phrase:
    figure = scene.figures[target.figure]
    if target.kind in ("building", "object"):
        return _looks(scene, target, rng)
    phrase = _noun(target, rng, loose=0.7)
    if figure.kind == "sign" and isinstance(target.look, who.Emblem) and _flip(rng, 0.4):
        return Phrase("sign", wears=target.look.shape)
    if target.kind == "person" and figure.emblem is not None and _flip(rng, 0.35):
        return replace(phrase, wears=figure.emblem.shape)
    return _dressed(scene, target, phrase)


def _place(scene: Scene, target: Referent, rng: np.random.Generator) -> Phrase:
    places: tuple[Place, ...] = ("left", "right", "middle")
    phrase = _noun(target, rng, loose=0.6)
    if target.kind == "person" and _flip(rng, 0.3):
        phrase = _dressed(scene, target, phrase)
    fitting = [p for p in places if target in denotation(replace(phrase, place=p), scene)]
    return replace(phrase, place=fitting[int(rng.integers(len(fitting)))]) if fitting else phrase


def _relation(scene: Scene, target: Referent, rng: np.random.Generator) -> Phrase:
    others = [r for r in scene.referents() if r.figure != target.figure]
    other = others[int(rng.integers(len(others)))] if others else None
    phrase = _noun(target, rng, loose=0.5)
    if other is None:
        return phrase
    write: Callable[[Scene, Referent, np.random.Generator], Phrase]
    write = _clothes if _flip(rng, 0.5) else _looks
    anchor = write(scene, other, rng)
    if abs(other.figure - target.figure) == 1 and _flip(rng, 0.5):
        return replace(phrase, relation=("next to", anchor))
    if target.figure < other.figure:
        return replace(phrase, relation=("to the left of", anchor))
    return replace(phrase, relation=("to the right of", anchor))


def _ordinal(scene: Scene, target: Referent, rng: np.random.Generator) -> Phrase:
    phrase = _noun(target, rng, loose=0.8)
    row = denotation(phrase, scene)
    if target not in row or len(row) < 2:
        return _looks(scene, target, rng)
    if _flip(rng, 0.7):
        return replace(phrase, ordinal=(row.index(target), "left"))
    return replace(phrase, ordinal=(row[::-1].index(target), "right"))


def _size(scene: Scene, target: Referent, rng: np.random.Generator) -> Phrase:
    phrase = _noun(target, rng, loose=0.7)
    ranks = SUPERLATIVES if len(denotation(phrase, scene)) > 1 else ()
    for rank in ranks:
        if denotation(replace(phrase, rank=rank), scene) == (target,):
            return replace(phrase, rank=rank)
    return _looks(scene, target, rng)


def _counted(scene: Scene, target: Referent) -> Phrase:
    phrase = Phrase(LOOSE_NOUN[target.kind])
    index = denotation(phrase, scene).index(target)
    assert index < len(ORDINALS)
    return replace(phrase, ordinal=(index, "left"))


_FAMILY_WRITERS: dict[str, Callable[[Scene, Referent, np.random.Generator], Phrase]] = {
    "looks": _looks,
    "clothes": _clothes,
    "place": _place,
    "relation": _relation,
    "ordinal": _ordinal,
    "size": _size,
}


def family_of(phrase: Phrase) -> str:
    """Which family a phrase belongs to, for tables of what works."""
    if phrase.relation is not None:
        return "relation"
    if phrase.ordinal is not None:
        return "ordinal"
    if phrase.rank is not None:
        return "size"
    if phrase.place is not None:
        return "place"
    if phrase.cloth is not None or phrase.wears is not None or phrase.on_sign:
        return "clothes"
    return "looks"
