"""Writes a data set of the embedded world in the Twitter-GMNER layout.

    FOLDER/txt/{train,dev,test}.txt   CoNLL, one post a picture
    FOLDER/xml/ID.xml                 boxes, for posts with a groundable entity
    FOLDER/images/ID.jpg              224 × 224 pictures
    FOLDER/scenes.jsonl               what was drawn, for the annotator and the judge only

The first three are read by the same reader as the real release; no model sees the fourth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundling.data.gmner import write_gmner_split
from groundling.data.problems import read_bytes
from groundling.errors import DataError
from groundling.records import ABSENT, ENTITY_TYPES, Entity, EntityType, Expression, Post, Verdict
from groundling.strict_json import parse_json
from groundling.toyworld import identities as who
from groundling.toyworld.annotator import write_expert
from groundling.toyworld.language import means
from groundling.toyworld.render import render
from groundling.toyworld.scene import (
    SIZE_PX,
    TYPE_OF_REFERENT,
    Backdrop,
    Figure,
    Pool,
    Scene,
    draw_scene,
)

JPEG_QUALITY = 93
SOURCE = "expert:toyworld"
POOL_OF_SPLIT: dict[str, Pool] = {"train": "train", "dev": "validation", "test": "test"}

CLAUSES: dict[EntityType, tuple[str, ...]] = {
    "PER": (
        "so good to see {}",
        "{} says hello",
        "a big day for {}",
        "lunch with {}",
        "look who is here : {}",
        "{} could not stop smiling",
    ),
    "LOC": (
        "greetings from {}",
        "one more evening in {}",
        "the road to {} is open",
        "missing {} already",
        "sunny day at {}",
    ),
    "ORG": (
        "thanks to {} for having us",
        "brought to you by {}",
        "{} is hiring",
        "proud to work with {}",
        "new season , new {}",
    ),
    "MISC": (
        "the {} has finally arrived",
        "who wants a {} ?",
        "my first {}",
        "nothing beats the {}",
        "still dreaming of the {}",
    ),
}
VAGUE = (
    "all about {}",
    "{} again",
    "thinking of {}",
    "nobody expected {}",
    "let me tell you about {}",
    "once more {}",
)
"""Clauses that fit any name: they tell nothing about its type."""
_OPENERS = ("", "RT :", "Wow !", "Today :", "What a day .", "Finally !", "Good morning .")
_CLOSERS = ("", "!", "# weekend", "# nofilter", ". See you soon", ". More tomorrow")


@dataclass(frozen=True, slots=True)
class WorldPost:
    """A post with the scene behind its picture."""

    post: Post
    scene: Scene


def draw_post(
    post_id: str,
    scene: Scene,
    rng: np.random.Generator,
    mention_share: float = 0.4,
    vague: float = 0.0,
) -> WorldPost:
    """A post about a scene: some of what stands there is mentioned, and some that does not.

    `mention_share` is the chance that a name in the picture is in the text too, `vague` the chance
    that the clause around a name fits names of any type.
    """
    names = _mentions(scene, rng, mention_share)
    tokens: list[str] = _pick(rng, _OPENERS).split()
    entities: list[Entity] = []
    for position, name in enumerate(names):
        entity_type = who.NAMES[name][0]
        if position:
            tokens += _pick(rng, (",", "and", ".")).split()
        open_to_all = vague > 0 and rng.random() < vague
        for word in _pick(rng, VAGUE if open_to_all else CLAUSES[entity_type]).split():
            if word != "{}":
                tokens.append(word)
                continue
            start = len(tokens)
            tokens += name.split()
            entities.append(Entity(name, entity_type, start, len(tokens), boxes_of(scene, name)))
    tokens += _pick(rng, _CLOSERS).split()
    return WorldPost(Post(post_id, tuple(tokens), tuple(entities)), scene)


def boxes_of(scene: Scene, name: str) -> tuple[Any, ...]:
    """Every box of a named thing in the scene, in order from the left."""
    return tuple(r.box for r in scene.referents() if r.name == name)


def _mentions(scene: Scene, rng: np.random.Generator, share: float) -> list[str]:
    present = list(dict.fromkeys(r.name for r in scene.referents() if r.name is not None))
    there = {TYPE_OF_REFERENT[r.kind] for r in scene.referents()}
    said = [name for name in present if rng.random() < share][:3]
    absent_count = int(rng.choice([0, 1, 2, 3], p=[0.12, 0.38, 0.34, 0.16]))
    if not said:
        absent_count = max(1, absent_count)
    for _ in range(absent_count):
        # Half of what is not there is of a type that is: those take a look at the picture.
        hard = [t for t in ENTITY_TYPES if (t in there) == bool(rng.random() < 0.5)]
        kind = hard[int(rng.integers(len(hard)))] if hard else ENTITY_TYPES[int(rng.integers(4))]
        options = [n for n in who.names_of(kind) if n not in present and n not in said]
        said.append(_pick(rng, options))
    rng.shuffle(said)
    return said


def _pick(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def draw_posts(split: str, queries: int, seed: int, vague: float = 0.0) -> list[WorldPost]:
    """Posts of a split until they hold at least `queries` entities; the last one is trimmed.

    `vague`: see `draw_post`.
    """
    pool = POOL_OF_SPLIT[split]
    rng = np.random.default_rng([seed, list(POOL_OF_SPLIT).index(split)])
    posts: list[WorldPost] = []
    total = 0
    while total < queries:
        scene = draw_scene(rng, pool)
        drawn = draw_post(f"{split}_{len(posts):05d}", scene, rng, vague=vague)
        room = queries - total
        if len(drawn.post.entities) > room:
            kept = drawn.post.entities[:room]
            drawn = WorldPost(
                Post(drawn.post.id, drawn.post.tokens, kept, drawn.post.image), drawn.scene
            )
        posts.append(drawn)
        total += len(drawn.post.entities)
    return posts


def write_world(folder: Path, queries: Mapping[str, int], seed: int, vague: float = 0.0) -> None:
    """Write a data set with the given number of queries per split (train, dev, test).

    Everything but the identities depends on `seed`. The folder must exist and be empty. `vague`:
    see `draw_post`.
    """
    images = folder / "images"
    images.mkdir()
    with (folder / "scenes.jsonl").open("w", encoding="utf-8") as sidecar:
        for split, count in queries.items():
            posts = draw_posts(split, count, seed, vague)
            for drawn in posts:
                picture = render(drawn.scene)
                picture.save(images / f"{drawn.post.id}.jpg", quality=JPEG_QUALITY, subsampling=0)
                row = {"id": drawn.post.id, "scene": asdict(drawn.scene)}
                sidecar.write(json.dumps(row) + "\n")
            sizes = {drawn.post.id: (SIZE_PX, SIZE_PX) for drawn in posts}
            write_gmner_split(folder, split, [drawn.post for drawn in posts], sizes)


def read_scenes(folder: Path) -> dict[str, Scene]:
    """The scenes behind the pictures of a world written by `write_world`, by post id."""
    path = folder / "scenes.jsonl"
    scenes: dict[str, Scene] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        try:
            row: Any = parse_json(line)
            scenes[row["id"]] = _scene(row["scene"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(path, f"not a scene: {error}; write the world again", number) from error
    return scenes


_LOOKS: dict[str, type[who.Face] | type[who.Landmark] | type[who.Item]] = {
    "person": who.Face,
    "landmark": who.Landmark,
    "item": who.Item,
}


def _scene(row: dict[str, Any]) -> Scene:
    figures = []
    for figure in row["figures"]:
        look = _LOOKS[figure["kind"]](**figure["look"]) if figure["look"] else None
        emblem = who.Emblem(**figure["emblem"]) if figure["emblem"] else None
        figures.append(Figure(**{**figure, "look": look, "emblem": emblem}))
    return Scene(tuple(figures), Backdrop(**row["backdrop"]))


class WorldJudge:
    """Knows the scene behind every query: writes its expert expression and judges others."""

    def __init__(
        self, scenes: Mapping[str, Scene], splits: Iterable[Iterable[Post]], seed: int
    ) -> None:
        self._seed = seed
        self._places = {
            query.id: (scenes[post.id], entity)
            for posts in splits
            for post in posts
            for query, entity in zip(post.queries(), post.entities, strict=True)
        }

    def annotate(self, query_id: str) -> Expression:
        """The expert expression of a query: of its largest box, or ABSENT (ISR §3.2)."""
        scene, entity = self._places[query_id]
        if not entity.groundable:
            return Expression(ABSENT, SOURCE)
        digest = hashlib.blake2b(f"{self._seed}\n{query_id}".encode(), digest_size=16).digest()
        rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
        target = next(r for r in scene.referents() if r.box == entity.largest_box)
        return Expression(write_expert(scene, target, rng), SOURCE)

    def verdict(self, query_id: str, text: str) -> Verdict:
        """What `text` means in the query's scene."""
        scene, entity = self._places[query_id]
        meant = means(text, scene)
        if meant is None:
            return "not understood"
        boxes = {referent.box for referent in meant}
        gold = set(entity.boxes)
        if not boxes & gold:
            return "wrong"
        return "exact" if boxes <= gold else "ambiguous"
