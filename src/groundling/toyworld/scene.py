"""What stands in a picture: two to four figures side by side, and what each can be called.

A scene is drawn at random from a generator; its composition (who stands where, in what) decides
by hash to which pool it belongs, so that no composition of the pre-training pool can ever occur
among the training, validation or test posts, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from groundling.records import Box, EntityType
from groundling.toyworld import identities as who

SIZE_PX = 224
"""Width and height of every picture."""

Pool = Literal["pretraining", "train", "validation", "test"]
POOL_OF_BUCKET: tuple[Pool, ...] = (
    ("pretraining",) * 8 + ("train",) * 5 + ("validation",) + ("test",) * 2
)

FigureKind = Literal["person", "sign", "landmark", "item"]
ReferentKind = Literal["person", "logo", "building", "object"]
TYPE_OF_REFERENT: dict[ReferentKind, EntityType] = {
    "person": "PER",
    "logo": "ORG",
    "building": "LOC",
    "object": "MISC",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that stands in the picture.

    `centre_x` and `base_y` (its feet) and `height` are pixels; `cloth` is the colour of a
    person's shirt or of a sign's board; `emblem` is the logo on the shirt or board.
    """

    kind: FigureKind
    look: who.Look | None
    cloth: str | None
    emblem: who.Emblem | None
    centre_x: int
    base_y: int
    height: int


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Sky and ground, by palette number, and the height of the horizon in pixels."""

    sky: int
    ground: int
    horizon: int


@dataclass(frozen=True, slots=True)
class Referent:
    """Something an expression can mean: a figure, or the logo that a figure wears."""

    kind: ReferentKind
    figure: int
    box: Box
    look: who.Look

    @property
    def name(self) -> str | None:
        """Its proper name, None for a stranger."""
        return who.NAME_OF.get(self.look)


@dataclass(frozen=True, slots=True)
class Scene:
    """Figures from left to right before a backdrop."""

    figures: tuple[Figure, ...]
    backdrop: Backdrop

    def key(self) -> str:
        """Hexadecimal digest of the composition; position jitter and backdrop do not count."""
        composition = [
            [
                f.kind,
                asdict(f.look) if f.look else None,
                f.cloth,
                asdict(f.emblem) if f.emblem else None,
            ]
            for f in self.figures
        ]
        return hashlib.sha256(json.dumps(composition).encode()).hexdigest()

    def pool(self) -> Pool:
        """The one pool that this composition belongs to."""
        return POOL_OF_BUCKET[int(self.key()[:8], 16) % len(POOL_OF_BUCKET)]

    def referents(self) -> tuple[Referent, ...]:
        """Everything that can be referred to, figure by figure from the left."""
        found: list[Referent] = []
        for index, figure in enumerate(self.figures):
            if figure.kind != "sign":
                assert figure.look is not None
                kind: ReferentKind = {"person": "person", "landmark": "building", "item": "object"}[
                    figure.kind
                ]  # type: ignore[assignment]
                found.append(Referent(kind, index, figure_box(figure), figure.look))
            if figure.emblem is not None:
                found.append(Referent("logo", index, emblem_box(figure), figure.emblem))
        return tuple(found)


WIDTH_SHARE: dict[str, float] = {
    "person": 0.46,
    "sign": 0.62,
    "windmill": 0.72,
    "dome": 0.86,
    "pyramid": 1.0,
    "castle": 0.9,
    "lighthouse": 0.42,
    "trophy": 0.86,
    "mug": 1.0,
    "phone": 0.56,
    "car": 1.7,
    "ball": 1.0,
}
"""Width of a figure as a share of its height, by shape."""


def shape_of(figure: Figure) -> str:
    """The word that decides a figure's outline."""
    if isinstance(figure.look, who.Landmark | who.Item):
        return figure.look.kind
    return figure.kind


def figure_box(figure: Figure) -> Box:
    """The figure's box in pixels, 1-based inclusive like the annotations of the real data."""
    half = max(4, round(figure.height * WIDTH_SHARE[shape_of(figure)] / 2))
    return _clip(
        figure.centre_x - half, figure.base_y - figure.height, figure.centre_x + half, figure.base_y
    )


def emblem_box(figure: Figure) -> Box:
    """The logo's box: the whole board of a sign, or the emblem on a person's shirt."""
    if figure.kind == "sign":
        half = round(figure.height * WIDTH_SHARE["sign"] / 2)
        top = figure.base_y - figure.height
        return _clip(figure.centre_x - half, top, figure.centre_x + half, top + 2 * half)
    centre_y = figure.base_y - round(figure.height * 0.405)
    half = max(5, round(figure.height * 0.105))
    return _clip(figure.centre_x - half, centre_y - half, figure.centre_x + half, centre_y + half)


def _clip(x1: int, y1: int, x2: int, y2: int) -> Box:
    return Box(max(1, x1), max(1, y1), min(SIZE_PX, x2), min(SIZE_PX, y2))


# ---------------------------------------------------------------------------------- drawing lots


def draw_scene(rng: np.random.Generator, pool: Pool) -> Scene:
    """A random scene of the given pool."""
    while True:
        scene = _draw(rng)
        if scene.pool() == pool:
            return scene


_FIGURE_KINDS: tuple[FigureKind, ...] = ("person", "sign", "landmark", "item")


def _draw(rng: np.random.Generator) -> Scene:
    count = int(rng.choice([2, 3, 4], p=[0.3, 0.45, 0.25]))
    theme = _FIGURE_KINDS[int(rng.choice(4, p=[0.46, 0.16, 0.18, 0.2]))]
    slots = _slots(rng, count)
    figures: list[Figure] = []
    for slot in slots:
        # A theme makes company of the same kind likely: that is what makes words matter.
        kind = theme
        if rng.random() > 0.6:
            kind = _FIGURE_KINDS[int(rng.choice(4, p=[0.42, 0.18, 0.2, 0.2]))]
        figures.append(_draw_figure(rng, kind, slot, count, figures))
    backdrop = Backdrop(int(rng.integers(6)), int(rng.integers(6)), int(rng.integers(120, 150)))
    return Scene(tuple(figures), backdrop)


def _slots(rng: np.random.Generator, count: int) -> list[int]:
    """Centre x of each figure, from the left, with jitter."""
    width = SIZE_PX / count
    return [round(width * (i + 0.5) + rng.uniform(-0.1, 0.1) * width) for i in range(count)]


def _draw_figure(
    rng: np.random.Generator,
    kind: FigureKind,
    centre_x: int,
    count: int,
    company: list[Figure],
) -> Figure:
    room = {2: 1.15, 3: 1.0, 4: 0.84}[count]
    base_y = int(rng.integers(196, 216))
    scale = room * rng.uniform(0.84, 1.1)
    if kind == "person":
        cloth = _one(rng, who.SHIRTS)
        emblem = draw_emblem(rng) if rng.random() < 0.38 else None
        if emblem is not None and emblem.colour == cloth:
            cloth = "white"
        face = draw_face(rng, [f.look for f in company if isinstance(f.look, who.Face)])
        return Figure("person", face, cloth, emblem, centre_x, base_y, round(128 * scale))
    if kind == "sign":
        emblem = draw_emblem(rng)
        board = _one(rng, [c for c in ("white", "yellow", "blue", "green") if c != emblem.colour])
        return Figure("sign", None, board, emblem, centre_x, base_y, round(100 * scale))
    if kind == "landmark":
        look = draw_landmark(rng, [f.look for f in company if isinstance(f.look, who.Landmark)])
        height = 72 if look.kind in ("dome", "pyramid", "castle") else 112
        return Figure("landmark", look, None, None, centre_x, base_y, round(height * scale))
    item = draw_item(rng, [f.look for f in company if isinstance(f.look, who.Item)])
    height = 36 if item.kind == "car" else 52
    return Figure("item", item, None, None, centre_x, base_y, round(height * scale))


def _one(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _flip(rng: np.random.Generator, chance: float) -> bool:
    return bool(rng.random() < chance)


def draw_face(rng: np.random.Generator, company: list[who.Face]) -> who.Face:
    """A person not yet in the company: mostly a known one, sometimes a stranger."""
    while True:
        if _flip(rng, 0.75):
            face = who.PEOPLE[_one(rng, tuple(who.PEOPLE))]
        else:
            face = who.Face(
                _one(rng, who.HAIR_COLOURS),
                _one(rng, who.HAIR_STYLES),
                _flip(rng, 0.3),
                _flip(rng, 0.4),
                _one(rng, who.SKINS),
            )
        if face not in company:
            return face


def draw_emblem(rng: np.random.Generator) -> who.Emblem:
    """A logo, mostly of a known organisation."""
    if _flip(rng, 0.75):
        return who.ORGANISATIONS[_one(rng, tuple(who.ORGANISATIONS))]
    return who.Emblem(_one(rng, who.SHAPES), _one(rng, who.EMBLEM_COLOURS))


def draw_landmark(rng: np.random.Generator, company: list[who.Landmark]) -> who.Landmark:
    """A building, often of the kind that already stands there, never its double."""
    while True:
        if _flip(rng, 0.75):
            look = who.PLACES[_one(rng, tuple(who.PLACES))]
        else:
            look = who.Landmark(_one(rng, who.LANDMARKS), _one(rng, who.LANDMARK_COLOURS))
        if company and _flip(rng, 0.4):
            look = who.Landmark(company[0].kind, look.colour)
        if look not in company:
            return look


def draw_item(rng: np.random.Generator, company: list[who.Item]) -> who.Item:
    """An object, often of the kind that already lies there, never its double."""
    while True:
        if _flip(rng, 0.75):
            item = who.THINGS[_one(rng, tuple(who.THINGS))]
        else:
            item = who.Item(_one(rng, who.ITEMS), _one(rng, who.ITEM_COLOURS))
        if company and _flip(rng, 0.4):
            item = who.Item(company[0].kind, item.colour)
        if item not in company:
            return item
