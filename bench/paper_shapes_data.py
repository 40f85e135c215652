"""A small release in the Twitter-GMNER layout: pictures of real sizes, everything else made up.

What counts for memory and time is real: picture sizes, entities a post, the share of them that is
groundable, the length of expressions. What pictures and words show does not matter to random
weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from groundling.corpus import split_training
from groundling.data.expressions_jsonl import EntityExpression, write_expressions
from groundling.data.gmner import write_gmner_split
from groundling.data.voc import read_annotation
from groundling.errors import InputError
from groundling.records import Box, Entity, EntityType, Expression, Post

SIZES = Path(__file__).with_name("paper_shapes_sizes.json")
"""Picture sizes of the released annotations, for where they are not at hand."""

_COMMON = (
    "a the of in on with and at to left right front back top bottom middle man woman boy girl "
    "person player singer logo sign flag car building stage shirt jacket dress hat hair glasses "
    "red blue green white black yellow grey brown long short tall small large young old standing "
    "sitting wearing holding smiling looking next behind near"
)
WORDS = tuple(_COMMON.split())
"""What expressions consist of; a token each for both models."""

NAMES = ("Ada", "Bruno", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas")
TYPES: tuple[EntityType, ...] = ("PER", "ORG", "PER", "MISC", "LOC")

GROUNDABLE = (0, 2)
"""Of five entities those that are in the picture: 40 %, as in the release (4733 of 11779)."""

ENTITIES_A_POST = (2, 2, 1)
"""In turn: 1.67 on average, as in the release (11779 of 7000)."""

EXPERT_WORDS = (10, 30)
"""Fewest and most words of an expert expression: 20 on average, as `groundling plan` assumes."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Queries of each part: D_SFT, D_PL, and each of the two splits that are evaluated."""

    sft: int
    prompts: int
    graded: int

    @property
    def train(self) -> int:
        """Both parts of the training split."""
        return self.sft + self.prompts

    @property
    def grounded(self) -> int:
        """Groundable entities of the training split."""
        return sum(is_groundable(entity) for entity in range(self.train))


def read_sizes(xml: Path | None) -> tuple[list[Size], str]:
    """Every picture size, smallest area first, and where it is from.

    `xml` is a folder of annotations; None takes the table beside this file. Raises InputError.
    """
    if xml is None:
        table = json.loads(SIZES.read_text(encoding="utf-8"))
        found = [(w, h) for w, h, files in table["sizes"] for _ in range(files)]
        return sorted(found, key=_by_area), str(table["_source"]).partition(":")[0]
    annotations = [read_annotation(path, lambda _: None) for path in sorted(xml.glob("*.xml"))]
    found = [one.size_wh_px for one in annotations if one is not None and one.size_wh_px]
    if not found:
        raise InputError(f"{xml}: no XML that states a picture's size; name the release's xml/")
    return sorted(found, key=_by_area), f"{len(found)} XML files"


def is_groundable(entity: int) -> bool:
    """Whether entity number 0, 1, … of a split is in its picture."""
    return entity % len(TYPES) in GROUNDABLE


def write_release(folder: Path, sizes: Sequence[Size], counts: Counts, seed: int) -> None:
    """Texts, boxes, `images/` and `experts.jsonl`. The largest size is in D_SFT and in D_PL."""
    rng = np.random.default_rng(seed)
    images = folder / "images"
    images.mkdir(parents=True)
    experts: list[EntityExpression] = []
    splits = {"train": counts.train, "dev": counts.graded, "test": counts.graded}
    for split, queries in splits.items():
        shared = _share_out(queries)
        chosen = _spread(sizes, len(shared))
        rng.shuffle(chosen)
        if split == "train":
            for post in _first_posts(shared, counts.sft, seed):
                chosen[post] = sizes[-1]
        posts = []
        for number, (entities, size) in enumerate(zip(shared, chosen, strict=True)):
            post = _post(f"{split}_{number}", entities, size, rng)
            posts.append(post)
            _draw(size, rng).save(images / f"{post.id}.jpg", quality=90)
            experts += [_expert(post.id, one, rng) for one in post.entities if one.groundable]
        write_gmner_split(
            folder, split, posts, {post.id: size for post, size in zip(posts, chosen, strict=True)}
        )
    write_expressions(folder / "experts.jsonl", experts)


def _by_area(size: Size) -> tuple[int, Size]:
    return size[0] * size[1], size


def _share_out(queries: int) -> list[range]:
    """The entities of each post, by number."""
    posts: list[range] = []
    begin = 0
    while begin < queries:
        many = ENTITIES_A_POST[len(posts) % len(ENTITIES_A_POST)]
        posts.append(range(begin, min(begin + many, queries)))
        begin += many
    return posts


def _spread(sizes: Sequence[Size], count: int) -> list[Size]:
    """`count` sizes at even steps through all of them, from the smallest to the largest."""
    return [sizes[round(place)] for place in np.linspace(0, len(sizes) - 1, count)]


def _first_posts(posts: Sequence[range], sft: int, seed: int) -> set[int]:
    """The post of the first query of D_SFT, and that of D_PL."""
    owners = [number for number, entities in enumerate(posts) for _ in entities]
    return {part[0] for part in split_training(owners, sft, seed)}  # splits by place alone


def _post(post_id: str, entities: range, size: Size, rng: np.random.Generator) -> Post:
    tokens: list[str] = []
    made: list[Entity] = []
    for place, number in enumerate(entities):
        tokens += rng.choice(WORDS, 6).tolist()
        name = [NAMES[(number + place) % len(NAMES)], str(rng.choice(NAMES))]
        begin = len(tokens)
        tokens += name
        boxes = (_box(size, rng),) if is_groundable(number) else ()
        type_ = TYPES[number % len(TYPES)]
        made.append(Entity(" ".join(name), type_, begin, begin + len(name), boxes))
    return Post(post_id, tuple(tokens), tuple(made), None)


def _box(size: Size, rng: np.random.Generator) -> Box:
    """Whole pixels, at least a tenth and at most half of the picture each way."""
    sides = [int(side * share) for side, share in zip(size, rng.uniform(0.1, 0.5, 2), strict=True)]
    wide, high = (max(1, side) for side in sides)
    x, y = (int(rng.integers(0, side - own)) for side, own in zip(size, (wide, high), strict=True))
    return Box(x, y, x + wide, y + high)


def _draw(size: Size, rng: np.random.Generator) -> Image.Image:
    """Random colours in soft patches."""
    coarse = rng.integers(0, 256, (size[1] // 16 + 1, size[0] // 16 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def _expert(post_id: str, entity: Entity, rng: np.random.Generator) -> EntityExpression:
    words = rng.choice(WORDS, int(rng.integers(EXPERT_WORDS[0], EXPERT_WORDS[1] + 1)))
    said = Expression(" ".join(words.tolist()), "expert:random")
    return EntityExpression(post_id, entity.name, entity.type, said)
