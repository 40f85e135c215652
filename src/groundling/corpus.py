"""The data of a run: posts of three splits, their queries, and what the embedded world knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from groundling.config import GmnerData, ToyworldData
from groundling.config_gmner import PostsData
from groundling.data.formats import guess_format, read_splits
from groundling.data.frames import turn_those_with_images
from groundling.data.gmner import read_gmner
from groundling.errors import DataError, InputError
from groundling.records import BoxFrame, Entity, Expression, Post, Query, Scheme, Verdict

SplitName = Literal["train", "dev", "test"]


@dataclass(frozen=True, slots=True)
class Case:
    """A query with its gold entity; only training and scoring look at the second."""

    query: Query
    entity: Entity

    @property
    def post_id(self) -> str:
        """Of the post that it is a part of."""
        return self.query.id.rpartition("#")[0]


@dataclass(frozen=True)
class Corpus:
    """Posts by split. `judge` tells what an expression means, where the world is known."""

    splits: dict[SplitName, tuple[Post, ...]]
    sizes_wh_px: dict[str, tuple[int, int]]
    judge: Callable[[str, str], Verdict] | None = None
    annotate: Callable[[str], Expression] | None = None

    def cases(self, split: SplitName) -> list[Case]:
        """Every gold entity of a split whose picture is at hand, as a case."""
        return [
            Case(query, entity)
            for post in self.splits[split]
            if post.image is not None
            for query, entity in zip(post.queries(), post.entities, strict=True)
        ]

    def training(self, posts: Sequence[Post]) -> list[Case]:
        """The training cases of these posts."""
        ids = {post.id for post in posts}
        return [case for case in self.cases("train") if case.post_id in ids]

    def pictures(self) -> list[str]:
        """Every picture, split by split; each once."""
        return list(dict.fromkeys(post.image for post in self._posts() if post.image is not None))

    def posts_with_entities(self, split: SplitName) -> list[Post]:
        """The posts of a split that there is something to ask about."""
        return [post for post in self.splits[split] if post.entities]

    def fingerprints(self) -> dict[str, str]:
        """By split, a digest of its posts."""
        return {name: fingerprint(posts) for name, posts in self.splits.items()}

    def without_picture(self) -> int:
        """How many posts have none."""
        return sum(post.image is None for post in self._posts())

    def _posts(self) -> Iterator[Post]:
        for posts in self.splits.values():
            yield from posts


def fingerprint(posts: Sequence[Post]) -> str:
    """A digest of posts, in order, with all that is known of them but where their pictures lie."""
    rows = [asdict(replace(post, image=None)) for post in posts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_corpus(source: Path, images: Path | None, boxes: BoxFrame = "upright") -> Corpus:
    """A Twitter-GMNER folder with all three splits; raises DataError where one is missing.

    Boxes on `stored` pixels are turned upright, but in posts without a picture: no case uses them.
    """
    splits: dict[SplitName, tuple[Post, ...]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    names: tuple[SplitName, ...] = ("train", "dev", "test")
    for name in names:
        split = read_gmner(source, name, images)
        if boxes == "stored":
            split = turn_those_with_images(source, split)
        splits[name] = tuple(split.posts)
        sizes.update(split.xml_sizes)
    if all(post.image is None for posts in splits.values() for post in posts):
        raise DataError(images or source, "no picture of any post found; name their folder")
    return Corpus(splits, sizes)


def draw_world(folder: Path, data: ToyworldData, seed: int) -> None:
    """Draw the embedded world's posts into an empty folder."""
    from groundling.toyworld.posts import write_world

    queries = {
        "train": data.train_queries,
        "dev": data.validation_queries,
        "test": data.test_queries,
    }
    write_world(folder, queries, seed, data.vague)


def read_world(folder: Path, seed: int) -> Corpus:
    """A world that `draw_world` wrote, with its annotator and its judge."""
    from groundling.toyworld.posts import WorldJudge, read_scenes

    corpus = read_corpus(folder, folder / "images")
    judge = WorldJudge(read_scenes(folder), corpus.splits.values(), seed)
    return Corpus(corpus.splits, corpus.sizes_wh_px, judge.verdict, judge.annotate)


def read_release(data: GmnerData) -> Corpus:
    """A real release, as configured."""
    source, images = Path(data.source), Path(data.images)
    for folder in (source, images):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name the release's own")
    return read_corpus(source, images, data.boxes)


def read_whole_release(data: GmnerData | None) -> Corpus | None:
    """A release to train and grade on, if one is named. DataError for a split without queries."""
    if data is None:
        return None
    corpus = read_release(data)
    for name in corpus.splits:
        if not corpus.cases(name):
            raise DataError(
                Path(data.source), f"split {name} has no entity in a post whose picture is there"
            )
    return corpus


def read_labelled(
    data: PostsData, names: Sequence[SplitName], scheme: Scheme, *, pictures: bool = True
) -> dict[SplitName, tuple[Post, ...]]:
    """Splits of a data set in any format. Raises DataError or InputError.

    With `pictures` a data set without any is an error.
    """
    source, images = Path(data.source), None if data.images is None else Path(data.images)
    for folder in (source, images):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name the data set's own")
    form = guess_format(source)
    found = {
        name: read_splits(source, form, images, only=[name], scheme=scheme, boxes=data.boxes)[
            0
        ].posts
        for name in names
    }
    if pictures and all(post.image is None for posts in found.values() for post in posts):
        raise DataError(images or source, "no picture of any post found; name their folder")
    return found


def draw_labelled(posts: Sequence[Post], count: int | None, seed: int) -> list[Post]:
    """The posts that count as labelled, drawn by the seed, in corpus order; None takes all.

    A larger count only adds to what a smaller one draws.
    """
    import numpy as np

    drawn = np.random.default_rng([seed, 71]).permutation(len(posts)).tolist()
    return [posts[index] for index in sorted(drawn[:count])]


def split_training(
    cases: Sequence[Case], sft_queries: int, seed: int
) -> tuple[list[Case], list[Case]]:
    """D_SFT and D_PL (ISR §3.4.1): a seeded random part, and the rest, both in corpus order."""
    import numpy as np

    drawn = np.random.default_rng([seed, 17]).permutation(len(cases))[:sft_queries]
    chosen = set(drawn.tolist())
    first = [case for i, case in enumerate(cases) if i in chosen]
    rest = [case for i, case in enumerate(cases) if i not in chosen]
    return first, rest
