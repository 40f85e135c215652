"""A small language of referring expressions with an exact meaning in a scene.

`Phrase` is the tree of one expression. `say` turns it into words, `parse` turns words back into
a tree, and `denotation` gives the referents it means in a scene. An expression is unambiguous
for a referent iff its denotation is that referent alone.

    the person in the yellow shirt next to the car
    the second logo from the left
    the biggest windmill
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from groundling.toyworld import identities as who
from groundling.toyworld.scene import SIZE_PX, Referent, ReferentKind, Scene

Place = Literal["left", "right", "middle"]
Relation = Literal["next to", "to the left of", "to the right of"]
ORDINALS = ("first", "second", "third", "fourth")
SUPERLATIVES = ("biggest", "smallest")
LOOSE_NOUN: dict[ReferentKind, str] = {
    "person": "person",
    "logo": "logo",
    "building": "building",
    "object": "object",
}
NOUN_KIND: dict[str, ReferentKind] = (
    {noun: kind for kind, noun in LOOSE_NOUN.items()}
    | {"sign": "logo"}
    | dict.fromkeys(who.SHAPES, "logo")
    | dict.fromkeys(who.LANDMARKS, "building")
    | dict.fromkeys(who.ITEMS, "object")
)
COLOURS = frozenset(
    who.SHIRTS + who.HAIR_COLOURS + who.EMBLEM_COLOURS + who.LANDMARK_COLOURS + who.ITEM_COLOURS
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """The tree of "the [rank] [colour] noun [hair] [face] [cloth] [ordinal] [place] [relation]"."""

    noun: str
    colour: str | None = None
    rank: str | None = None
    hair_style: str | None = None
    hair_colour: str | None = None
    beard: bool = False
    glasses: bool = False
    cloth: str | None = None
    on_sign: bool = False
    wears: str | None = None
    ordinal: tuple[int, Literal["left", "right"]] | None = None
    place: Place | None = None
    relation: tuple[Relation, Phrase] | None = None


# ---------------------------------------------------------------------------------------- words


def say(phrase: Phrase) -> str:
    """Put a phrase into words, all lower case, without a final stop."""
    words = ["the"]
    if phrase.ordinal is not None:
        words.append(ORDINALS[phrase.ordinal[0]])
    if phrase.rank is not None:
        words.append(phrase.rank)
    if phrase.colour is not None:
        words.append(phrase.colour)
    words.append(phrase.noun)
    words += _say_head(phrase)
    if phrase.wears is not None:
        words += ["with", "a", phrase.wears]
    if phrase.cloth is not None:
        words += ["on" if NOUN_KIND[phrase.noun] == "logo" else "in", "the", phrase.cloth, "shirt"]
    if phrase.on_sign:
        words += ["on", "the", "sign"]
    if phrase.ordinal is not None:
        words += ["from", "the", phrase.ordinal[1]]
    if phrase.place is not None:
        words += ["in" if phrase.place == "middle" else "on", "the", phrase.place]
    if phrase.relation is not None:
        words += [*phrase.relation[0].split(), say(phrase.relation[1])]
    return " ".join(words)


def _say_head(phrase: Phrase) -> list[str]:
    parts: list[list[str]] = []
    if phrase.hair_style == "bun":
        parts.append(["a", phrase.hair_colour or "", "bun"])
    elif phrase.hair_style is not None or phrase.hair_colour is not None:
        parts.append([phrase.hair_style or "", phrase.hair_colour or "", "hair"])
    if phrase.beard:
        parts.append(["a", "beard"])
    if phrase.glasses:
        parts.append(["glasses"])
    words: list[str] = []
    for i, part in enumerate(parts):
        words += ["with" if i == 0 else "and", *[word for word in part if word]]
    return words


# -------------------------------------------------------------------------------------- parsing


class _Reader:
    """A cursor over words."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        """The word `ahead` places on, or "" past the end."""
        return self.words[self.at + ahead] if self.at + ahead < len(self.words) else ""

    def take(self, *expected: str) -> bool:
        """Consume these words if they come next."""
        if tuple(self.words[self.at : self.at + len(expected)]) == expected:
            self.at += len(expected)
            return True
        return False

    def take_any(self, options: Sequence[str] | frozenset[str]) -> str | None:
        """Consume and return the next word if it is one of the options."""
        if self.peek() in options:
            self.at += 1
            return self.words[self.at - 1]
        return None


def parse(expression: str) -> Phrase | None:
    """Understand an expression, or None if it is not in the language.

    Letter case and a final full stop do not matter.
    """
    reader = _Reader(expression.strip().removesuffix(".").lower().split())
    phrase = _parse_phrase(reader)
    return phrase if phrase is not None and reader.at == len(reader.words) else None


def _parse_phrase(reader: _Reader) -> Phrase | None:
    if not reader.take("the"):
        return None
    ordinal = reader.take_any(ORDINALS)
    rank = reader.take_any(SUPERLATIVES)
    colour = reader.take_any(COLOURS)
    noun = reader.take_any(frozenset(NOUN_KIND))
    if noun is None:
        return None
    phrase: Phrase | None = Phrase(noun, colour, rank)
    pending = ORDINALS.index(ordinal) if ordinal else None
    while phrase is not None and reader.peek():
        before = reader.at
        if pending is not None and reader.take("from", "the"):
            side = reader.take_any(("left", "right"))
            if side is None:
                return None
            phrase = replace(phrase, ordinal=(pending, "left" if side == "left" else "right"))
            pending = None
        else:
            phrase = _parse_modifier(reader, phrase)
        if reader.at == before:
            break
    return phrase if pending is None else None


def _parse_modifier(reader: _Reader, phrase: Phrase) -> Phrase | None:
    if reader.take("with"):
        return _parse_with(reader, phrase)
    for relation in ("next to", "to the left of", "to the right of"):
        if reader.take(*relation.split()):
            other = _parse_phrase(reader)
            return None if other is None else _said(phrase, relation=(relation, other))
    if reader.take("on", "the", "sign"):
        return _said(phrase, on_sign=True)
    if reader.take("in", "the", "middle"):
        return _said(phrase, place="middle")
    preposition = "on" if NOUN_KIND[phrase.noun] == "logo" else "in"
    if reader.peek() == "on" and reader.peek(1) == "the" and reader.peek(2) in ("left", "right"):
        place: Place = "left" if reader.peek(2) == "left" else "right"
        reader.at += 3
        return _said(phrase, place=place)
    if reader.peek() == preposition and reader.peek(1) == "the" and reader.peek(3) == "shirt":
        cloth = reader.peek(2)
        reader.at += 4
        return _said(phrase, cloth=cloth) if cloth in who.SHIRTS else None
    return phrase


def _parse_with(reader: _Reader, phrase: Phrase) -> Phrase | None:
    current: Phrase | None = phrase
    while current is not None:
        article = reader.take("a")
        if article and reader.take("beard"):
            current = _said(current, beard=True)
        elif not article and reader.take("glasses"):
            current = _said(current, glasses=True)
        elif article and reader.peek() in who.SHAPES:
            return _said(current, wears=reader.take_any(who.SHAPES))
        else:
            current = _parse_hair(reader, current, article)
        if not reader.take("and"):
            break
    return current


def _parse_hair(reader: _Reader, phrase: Phrase, article: bool) -> Phrase | None:
    style = None if article else reader.take_any(("short", "long", "curly"))
    colour = reader.take_any(who.HAIR_COLOURS)
    if article:
        bun = reader.take("bun")
        return _said(phrase, hair_style="bun", hair_colour=colour) if bun else None
    if (style or colour) and reader.take("hair"):
        return _said(phrase, hair_style=style, hair_colour=colour)
    return None


def _said(phrase: Phrase, **more: Any) -> Phrase | None:
    """The phrase with more said of it; None where something else was said before."""
    for name, value in more.items():
        before = getattr(phrase, name)
        if before and value and before != value:
            return None
    return replace(phrase, **{name: value for name, value in more.items() if value})


# -------------------------------------------------------------------------------------- meaning


def denotation(phrase: Phrase, scene: Scene) -> tuple[Referent, ...]:
    """The referents of `scene` that the phrase means, in order from the left."""
    found = [r for r in scene.referents() if _fits(phrase, r, scene)]
    if phrase.relation is not None:
        found = _related(found, phrase.relation, scene)
    found.sort(key=_centre)
    if phrase.rank is not None and found:
        pick = max if phrase.rank == "biggest" else min
        found = [pick(found, key=lambda r: r.box.area)]
    if phrase.ordinal is not None:
        index, side = phrase.ordinal
        row = found if side == "left" else found[::-1]
        found = row[index : index + 1]
    if phrase.place is not None:
        found = _placed(found, phrase.place)
    return tuple(found)


def means(expression: str, scene: Scene) -> tuple[Referent, ...] | None:
    """The denotation of an expression in words; None if it is not in the language."""
    phrase = parse(expression)
    return None if phrase is None else denotation(phrase, scene)


def _centre(referent: Referent) -> float:
    return (referent.box.x1 + referent.box.x2) / 2


def _fits(phrase: Phrase, referent: Referent, scene: Scene) -> bool:
    if NOUN_KIND[phrase.noun] != referent.kind:
        return False
    figure, look = scene.figures[referent.figure], referent.look
    if isinstance(look, who.Face):
        return _face_fits(phrase, look) and (
            (phrase.cloth is None or phrase.cloth == figure.cloth)
            and (
                phrase.wears is None
                or (figure.emblem is not None and figure.emblem.shape == phrase.wears)
            )
        )
    if phrase.colour not in (None, look.colour) or _speaks_of_a_head(phrase):
        return False
    if isinstance(look, who.Emblem):
        sign = figure.kind == "sign"
        return (
            (phrase.noun in ("logo", look.shape) or (phrase.noun == "sign" and sign))
            and (not phrase.on_sign or sign)
            and (phrase.cloth is None or (not sign and figure.cloth == phrase.cloth))
            and (phrase.wears is None or look.shape == phrase.wears)
        )
    undressed = phrase.cloth is None and phrase.wears is None and not phrase.on_sign
    return undressed and phrase.noun in (LOOSE_NOUN[referent.kind], look.kind)


def _speaks_of_a_head(phrase: Phrase) -> bool:
    """Whether it names hair, a beard or glasses, which only people have."""
    hair = phrase.hair_style is not None or phrase.hair_colour is not None
    return hair or phrase.beard or phrase.glasses


def _face_fits(phrase: Phrase, face: who.Face) -> bool:
    return (
        phrase.colour is None
        and not phrase.on_sign
        and phrase.hair_style in (None, face.hair_style)
        and phrase.hair_colour in (None, face.hair_colour)
        and (not phrase.beard or face.beard)
        and (not phrase.glasses or face.glasses)
    )


def _related(
    found: list[Referent], relation: tuple[Relation, Phrase], scene: Scene
) -> list[Referent]:
    word, other = relation
    anchors = [r for r in denotation(other, scene)]
    if word == "next to":
        return [r for r in found if any(abs(r.figure - a.figure) == 1 for a in anchors)]
    sign = -1 if word == "to the left of" else 1
    return [r for r in found if any((r.figure - a.figure) * sign > 0 for a in anchors)]


def _placed(found: list[Referent], place: Place) -> list[Referent]:
    """The outermost (or middle) of several; one alone must stand on that side of the picture."""
    if len(found) > 1:
        if place == "middle":
            return [found[len(found) // 2]] if len(found) == 3 else []
        return [found[0] if place == "left" else found[-1]]
    return [r for r in found if place == _third(r)]


def _third(referent: Referent) -> Place:
    x = _centre(referent) / SIZE_PX
    return "left" if x < 0.4 else "right" if x > 0.6 else "middle"
