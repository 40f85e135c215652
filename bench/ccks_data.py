"""ccks-aug by its parts, and posts of it that are fit to learn from and to measure on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundling.atomic import write_bytes
from groundling.config_gmner import SynthesisConfig
from groundling.data.formats import read_splits
from groundling.data.jsonl import read_posts, write_posts
from groundling.data.leaks import Leaks, find_leaks, folded_text, honest_split
from groundling.errors import DataError
from groundling.records import CCKS, Post
from groundling.screening import Sides, screen_posts
from groundling.synthesis.origins import explained
from groundling.synthesis.screen import mixed

Posts = tuple[Post, ...]
Size = int | None
"""Synthetic sentences beside the labelled posts; None is all."""

HELD_OUT, DEV = 0.4, 0.2
"""Shares of the labelled posts that are held out, and of the rest that choose the epoch."""
SCORED = 1000
"""Posts of the released dev that are scored."""
GROUP = 20
"""Sentences in a row that were written near one labelled post."""
NEAR_TEST, LABELLED, TEST, MADE = (
    slice(0, 5000),
    slice(5000, 5500),
    slice(5500, 6000),
    slice(6000, 16000),
)
"""What stands where in the released train; see `read_release`."""


@dataclass(frozen=True, slots=True)
class Release:
    """ccks-aug: the labelled posts, sentences `made` near them, and the released `dev`.

    `published` is all of the released train but the labelled posts.
    """

    labelled: Posts
    made: Posts
    published: Posts
    dev: Posts
    leaks: Leaks


def read_release(source: Path) -> Release:
    """Read the release and part its train. Raises DataError where it is another one.

    The release names no parts; the order of its train does: 5000 sentences, 10 near each test post
    in order; 500 posts; the 500 test posts, with tags; 10 000 sentences, 20 near each of the former
    500, of which the first 10 keep its entities.
    """
    splits = {split.name: split.posts for split in read_splits(source, "conll", scheme=CCKS)}
    if splits.keys() != {"train", "dev", "test"} or len(splits["train"]) != MADE.stop:
        raise DataError(source, "is not the release of ccks-aug; wanted train, dev and test")
    train, test = splits["train"], splits["test"]
    if [post.text for post in train[TEST]] != [post.text for post in test]:
        raise DataError(source, "does not hold its test texts where ccks-aug has them in train")
    published = tuple(train[: LABELLED.start] + train[LABELLED.stop :])
    return Release(
        train[LABELLED], train[MADE], published, splits["dev"], find_leaks(splits, folded_text)
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """How many groups of sentences keep the names of a post that they should be near."""

    kept: int
    groups: int


def kept_names(release: Release) -> tuple[Kept, Kept]:
    """Whether the parts are what their order says, for what has entities: groups of 10 near the
    test post of the same place, and groups of 20 near any labelled post.
    """
    near, others = release.published[NEAR_TEST], release.published[NEAR_TEST.stop :]
    test = others[: TEST.stop - TEST.start]
    by_place = [
        explained(near[10 * place : 10 * place + 10], [post]) > 0
        for place, post in enumerate(test)
        if post.entities
    ]
    groups = [release.made[first : first + GROUP] for first in range(0, len(release.made), GROUP)]
    by_names = [
        explained(group, release.labelled) > 0
        for group in groups
        if any(post.entities for post in group)
    ]
    return Kept(sum(by_place), len(by_place)), Kept(sum(by_names), len(by_names))


@dataclass(frozen=True, slots=True)
class Prepared:
    """The posts of a seed: three parts of the labelled ones, sentences that passed the screen, and
    posts of the released dev of which no text is in any of these. `told` is the screen's summary.
    """

    train: Posts
    dev: Posts
    held_out: Posts
    synthetic: Posts
    released: Posts
    told: dict[str, Any]

    def write(self, folder: Path, sentences: Sequence[Post], size: Size, seed: int) -> int:
        """Write the splits of a run, its train with as many of the sentences; how many those are.

        A larger size only adds to a smaller one.
        """
        wanted = len(sentences) if size is None else size
        posts = mixed(self.train, sentences, wanted / len(self.train), seed)
        parts = {
            "train": posts,
            "dev": self.dev,
            "held-out": self.held_out,
            "released": self.released,
        }
        for name, part in parts.items():
            write_posts(folder / f"{name}.jsonl", part, CCKS)
        return len(posts) - len(self.train)


def prepare(release: Release, seed: int, folder: Path) -> Prepared:
    """Split the labelled posts without a text in common, and screen the sentences made near them.

    What the screen does is kept in `folder`.
    """
    honest = honest_split(release.labelled, HELD_OUT, seed)
    parts = honest_split(honest.train, DEV, seed)
    summary = folder / "summary.json"
    if not summary.is_file():
        sides = Sides(parts.train, (*honest.held_out, *parts.held_out))
        done = screen_posts(release.made, sides, CCKS, SynthesisConfig(), folder, GROUP)
        write_bytes(summary, json.dumps(done.to_json()).encode())
    known = {folded_text(post) for post in (*release.labelled, *release.made)}
    others = [post for post in release.dev if folded_text(post) not in known]
    drawn = np.random.default_rng([seed, 83]).permutation(len(others))[:SCORED]
    return Prepared(
        parts.train,
        parts.held_out,
        honest.held_out,
        read_posts(folder / "synthetic.jsonl", scheme=CCKS).posts,
        tuple(others[index] for index in sorted(drawn.tolist())),
        json.loads(summary.read_text(encoding="utf-8")),
    )


def shared_texts(posts: Sequence[Post], train: Sequence[Post]) -> int:
    """Posts whose text, letter case folded, is in train."""
    (pair,) = find_leaks({"train": train, "posts": posts}, folded_text).between
    return len(pair.shared)
