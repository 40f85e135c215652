"""Labelled sentences of anybody's making, screened as ReFineG's synthesis screens its own.

    sentences, near which posts? → screen against seeds and held-out posts → posts, provenance

What a release of synthetic sentences does not say is near which post each was written. Where they
lie in groups, one post a group, `screen_posts` finds the groups of held-out posts by their names.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundling.atomic import write_bytes
from groundling.config_gmner import SynthesisConfig
from groundling.data.jsonl import write_posts
from groundling.data.leaks import find_leaks, folded_text
from groundling.errors import InputError
from groundling.records import Post, Scheme
from groundling.synthesis.origins import nearer_held_out
from groundling.synthesis.prompts import Kind
from groundling.synthesis.screen import Limits, Screen, distinct, mixed, names_of
from groundling.synthesis.style import style_of

NEAR_HELD_OUT = "written near a held-out post"


@dataclass
class Screened:
    """What came of it: `posts` that stay, and why the other sentences do not, by reason."""

    posts: list[Post] = field(default_factory=list)
    offered: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def note(self, fate: Post | str) -> dict[str, str]:
        """Count a sentence's fate; what its line of provenance says of it."""
        self.offered += 1
        if isinstance(fate, Post):
            self.posts.append(fate)
            return {}
        self.refused[fate] += 1
        return {"refused": fate}

    def to_json(self) -> dict[str, Any]:
        """The summary of a command."""
        return {
            "offered": self.offered,
            "kept": len(self.posts),
            "refused": dict(self.refused.most_common()),
            "distinct_bigrams": round(distinct(self.posts), 4),
        }


@dataclass
class Imported(Screened):
    """Sentences of somebody else. `held_out_texts` of them have the text of a held-out post; of
    `groups` groups `held_out_groups` were written near one.
    """

    held_out_texts: int = 0
    groups: int = 0
    held_out_groups: int = 0

    def to_json(self) -> dict[str, Any]:
        """The summary of a command."""
        leaks = {
            "held_out_texts": self.held_out_texts,
            "groups": self.groups,
            "held_out_groups": self.held_out_groups,
        }
        return super().to_json() | leaks


@dataclass(frozen=True, slots=True)
class Sides:
    """Labelled posts: `seeds` to learn from, and `held_out` ones, of which nothing may be learnt.

    Raises InputError where they share a text, letter case folded.
    """

    seeds: Sequence[Post]
    held_out: Sequence[Post] = ()

    def __post_init__(self) -> None:
        (pair,) = find_leaks({"seeds": self.seeds, "held out": self.held_out}, folded_text).between
        if pair.shared:
            raise InputError(
                f"{len(pair.shared)} held-out posts have the text of a seed, {pair.shared[0][0]!r} "
                "first; `groundling data split` makes sides that share none"
            )


def screen_posts(
    offered: Sequence[Post],
    sides: Sides,
    scheme: Scheme,
    settings: SynthesisConfig,
    folder: Path,
    group: int | None = None,
) -> Imported:
    """Write `synthetic.jsonl` (posts) and `provenance.jsonl` (every sentence and its fate).

    Ids get `synthetic-` in front, so that none is a seed's. Each run of `group` sentences was
    written near one post; None where nobody knows. Raises InputError where groups do not come out
    even.
    """
    done = Imported()
    (leak,) = find_leaks({"held out": sides.held_out, "offered": offered}, folded_text).between
    done.held_out_texts = len(leak.shared)
    leaking = _groups_of_held_out(offered, sides, group, done)
    screen = Screen(
        scheme,
        style_of(sides.seeds),
        limits_of(settings),
        sides.seeds,
        settings.check_style,
        held_out=sides.held_out,
    )
    known = set().union(*map(names_of, sides.seeds))
    told = []
    for place, post in enumerate(replace(one, id=f"synthetic-{one.id}") for one in offered):
        kind = kind_of(post, known)
        near = group is not None and place // group in leaking
        fate = NEAR_HELD_OUT if near else screen.admit(post, kind, known)
        told.append(provenance_line(post, kind) | done.note(fate))
    folder.mkdir(parents=True, exist_ok=True)
    write_posts(folder / "synthetic.jsonl", done.posts, scheme)
    write_lines(folder / "provenance.jsonl", told)
    return done


def kind_of(post: Post, known: set[str]) -> Kind:
    """What a sentence seems to have been asked for; `known` are the seeds' names, case folded."""
    if not post.entities:
        return "no entities"
    return "same entities" if names_of(post) <= known else "new entities"


def provenance_line(post: Post, kind: Kind) -> dict[str, Any]:
    """A sentence as a line of `provenance.jsonl`."""
    entities = [{"name": one.name, "type": one.type} for one in post.entities]
    return {"id": post.id, "kind": kind, "text": post.text, "entities": entities}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    write_bytes(
        path, b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    )


def training_posts(
    seeds: Sequence[Post], synthetic: Sequence[Post], settings: SynthesisConfig
) -> list[Post]:
    """What a tagger is trained on: the seeds, and synthetic sentences up to the ratio."""
    return mixed(seeds, synthetic, settings.ratio, settings.seed)


def limits_of(settings: SynthesisConfig) -> Limits:
    """What a sentence has to keep within: a little more than what is asked for."""
    return Limits(
        math.ceil(settings.low / 2),
        settings.high + math.ceil(settings.high / 3),
        settings.alike,
        settings.per_name,
    )


def _groups_of_held_out(
    offered: Sequence[Post], sides: Sides, group: int | None, done: Imported
) -> set[int]:
    """The groups, by number from 0, that were written near held-out posts; counted in `done`."""
    if group is None:
        return set()
    if group < 1 or len(offered) % group:
        raise InputError(
            f"got groups of {group} for {len(offered)} sentences; wanted groups that come out even"
        )
    rows = [offered[first : first + group] for first in range(0, len(offered), group)]
    leaking = {n for n, row in enumerate(rows) if nearer_held_out(row, sides.seeds, sides.held_out)}
    done.groups, done.held_out_groups = len(rows), len(leaking)
    return leaking
