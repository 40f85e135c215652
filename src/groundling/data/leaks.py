"""Texts that come more than once, within a split and across splits, and splits without any.

Two posts have the same text where their tokens are equal; folded, also where only letter case
differs. A synthesis run that writes variants of its examples leaks easily: what a model is tested
on must not be in what it learns from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from groundling.errors import InputError
from groundling.records import Entity, EntityType, Post

Key = Callable[[Post], str]
Marked = tuple[object, EntityType]
Tags = frozenset[Marked]


def exact_text(post: Post) -> str:
    """The tokens of a post, joined by spaces."""
    return post.text


def folded_text(post: Post) -> str:
    """The tokens of a post, joined by spaces, letter case folded."""
    return post.text.casefold()


# --- finding -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repeats:
    """The texts of one split.

    `repeats` are (post, first post of the same text), `conflicting` the first posts of texts that
    come with different entities. A split without any entity is likely not tagged.
    """

    split: str
    posts: int
    entities: int
    texts: int
    repeats: tuple[tuple[str, str], ...]
    conflicting: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Counts, and the ids behind them."""
        return {
            "split": self.split,
            "posts": self.posts,
            "entities": self.entities,
            "texts": self.texts,
            "repeats": len(self.repeats),
            "conflicting": len(self.conflicting),
            "repeated_posts": [list(pair) for pair in self.repeats],
            "conflicting_posts": list(self.conflicting),
        }


@dataclass(frozen=True, slots=True)
class Overlap:
    """The posts of one split whose text is in another.

    `shared` are (post, first post of the same text there); of these, `same` have the entities of
    one of them.
    """

    split: str
    other: str
    posts: int
    shared: tuple[tuple[str, str], ...]
    same: int

    def as_json(self) -> dict[str, Any]:
        """Counts, and the ids behind them."""
        return {
            "split": self.split,
            "in": self.other,
            "posts": self.posts,
            "shared": len(self.shared),
            "same_entities": self.same,
            "shared_posts": [list(pair) for pair in self.shared],
        }


@dataclass(frozen=True, slots=True)
class Leaks:
    """What was found within splits and between them; `found` whether it was anything."""

    within: tuple[Repeats, ...]
    between: tuple[Overlap, ...]

    @property
    def found(self) -> bool:
        """Whether any text comes twice."""
        return any(item.repeats for item in self.within) or any(
            item.shared for item in self.between
        )

    def as_json(self) -> dict[str, Any]:
        """The object that `groundling data leaks --json` prints."""
        return {
            "within": [item.as_json() for item in self.within],
            "between": [item.as_json() for item in self.between],
        }


def find_leaks(splits: Mapping[str, Sequence[Post]], key: Key = exact_text) -> Leaks:
    """Every text that comes twice by `key`: in one split, or in a split and an earlier one."""
    groups = {name: _by_key(posts, key) for name, posts in splits.items()}
    names = list(splits)
    between = tuple(
        _overlap(later, earlier, groups)
        for index, later in enumerate(names)
        for earlier in names[:index]
    )
    return Leaks(tuple(_repeats(name, groups[name]) for name in names), between)


def format_leaks(leaks: Leaks) -> str:
    """The counts for people, a line for each split and each pair of splits that share texts."""
    lines = []
    for item in leaks.within:
        tagged = f"{item.entities} entities" if item.entities else "no entities: not tagged?"
        lines.append(
            f"{item.split}: {item.posts} posts, {tagged}; {item.texts} texts, "
            f"{len(item.repeats)} posts repeat an earlier one, "
            f"{len(item.conflicting)} texts come with different entities"
        )
    for pair in leaks.between:
        if pair.shared:
            lines.append(
                f"{pair.split} in {pair.other}: the texts of {len(pair.shared)} of {pair.posts} "
                f"posts, {pair.same} of them with the same entities"
            )
    if not leaks.found:
        lines.append("no text comes twice")
    return "\n".join(lines)


def _repeats(name: str, groups: Mapping[str, Sequence[Post]]) -> Repeats:
    posts = [post for group in groups.values() for post in group]
    return Repeats(
        split=name,
        posts=len(posts),
        entities=sum(len(post.entities) for post in posts),
        texts=len(groups),
        repeats=tuple((post.id, group[0].id) for group in groups.values() for post in group[1:]),
        conflicting=tuple(group[0].id for group in groups.values() if len(_tags(group)) > 1),
    )


def _overlap(
    later: str, earlier: str, groups: Mapping[str, Mapping[str, Sequence[Post]]]
) -> Overlap:
    shared: list[tuple[str, str]] = []
    same = 0
    for text, group in groups[later].items():
        there = groups[earlier].get(text, ())
        for post in group if there else ():
            shared.append((post.id, there[0].id))
            same += next(iter(_tags([post]))) in _tags(there)
    posts = sum(map(len, groups[later].values()))
    return Overlap(later, earlier, posts, tuple(shared), same)


def _by_key(posts: Iterable[Post], key: Key) -> dict[str, list[Post]]:
    groups: dict[str, list[Post]] = {}
    for post in posts:
        groups.setdefault(key(post), []).append(post)
    return groups


def _tags(posts: Iterable[Post]) -> set[Tags]:
    """The different readings of posts: which tokens are entities, and of which types."""
    return {frozenset(map(_marked, post.entities)) for post in posts}


def _marked(entity: Entity) -> Marked:
    """What an entity marks: its tokens, or its name where nobody knows them."""
    return (entity.name if entity.start is None else (entity.start, entity.end)), entity.type


# --- splitting ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HonestSplit:
    """Posts to learn from and posts to measure on, without a text in common.

    `repeated` were left out because their text came before, `mixed` because some of their names
    are on either side.
    """

    train: tuple[Post, ...]
    held_out: tuple[Post, ...]
    repeated: tuple[Post, ...]
    mixed: tuple[Post, ...] = ()


def honest_split(
    posts: Iterable[Post], held_out_share: float, seed: int, by: Literal["text", "name"] = "text"
) -> HonestSplit:
    """Keep the first post of each text, letter case folded, and hold some out, in order of `posts`.

    By `text`, `held_out_share` of the texts are held out. By `name`, whole entity names are (letter
    case folded), until that share of the posts with entities has one of them; a post goes where all
    its names are, one with names of both sides to neither, and those without names by text.

    What is held out depends on the seed and each text or name alone, not on the order of the posts.
    Raises InputError for a share outside 0 to 1.
    """
    if not 0 <= held_out_share <= 1:
        raise InputError(f"got a held-out share of {held_out_share}; wanted 0 to 1")
    groups = _by_key(posts, folded_text)
    first = [group[0] for group in groups.values()]
    repeated = tuple(post for group in groups.values() for post in group[1:])
    if by == "text":
        held = _drawn(map(folded_text, first), held_out_share, seed)
        sides = [{folded_text(post) in held} for post in first]
    else:
        sides = _sides_by_name(first, held_out_share, seed)
    placed = list(zip(first, sides, strict=True))
    return HonestSplit(
        train=tuple(post for post, side in placed if side == {False}),
        held_out=tuple(post for post, side in placed if side == {True}),
        repeated=repeated,
        mixed=tuple(post for post, side in placed if len(side) > 1),
    )


def _sides_by_name(posts: Sequence[Post], share: float, seed: int) -> list[set[bool]]:
    """For each post, on which sides its names are (True: held out)."""
    names = [{entity.name.casefold() for entity in post.entities} for post in posts]
    bearers: dict[str, set[int]] = {}
    for index, called in enumerate(names):
        for name in called:
            bearers.setdefault(name, set()).add(index)
    wanted = round(share * sum(map(bool, names)))
    held: set[str] = set()
    touched: set[int] = set()
    for name in sorted(bearers, key=lambda name: _rank(name, seed)):
        if len(touched) >= wanted:
            break
        held.add(name)
        touched |= bearers[name]
    texts = [folded_text(post) for post in posts]
    nameless = [text for text, called in zip(texts, names, strict=True) if not called]
    held_texts = _drawn(nameless, share, seed)
    return [
        {name in held for name in called} or {text in held_texts}
        for text, called in zip(texts, names, strict=True)
    ]


def _drawn(texts: Iterable[str], share: float, seed: int) -> set[str]:
    """The share of texts (rounded) that come first in an order that the seed decides."""
    ranked = sorted(texts, key=lambda text: _rank(text, seed))
    return set(ranked[: round(share * len(ranked))])


def _rank(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()
