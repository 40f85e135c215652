"""How the seed posts are annotated, and whether a sentence is annotated like them.

An LLM marks what its general knowledge calls an entity; a domain's annotators often do not. ReFineG
names this domain knowledge conflict and filters it; its rules are not on its page. Ours compares
a sentence with what the seed posts mark and do not mark, word sequence by word sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from groundling.records import EntityType, Post

LONGEST = 6
"""Longest word sequence that is compared, in tokens."""


@dataclass(frozen=True)
class Style:
    """What the seed posts mark: counts by word sequence, letter case folded."""

    marked: Counter[tuple[tuple[str, ...], EntityType]]
    """Times that a word sequence is an entity of a type."""
    names: Counter[tuple[str, ...]]
    """Times that it is an entity of any type."""
    plain: Counter[tuple[str, ...]]
    """Times that it occurs outside of every entity."""
    written_large: float
    """Share of entities that hold a capital letter or a digit."""

    def conflict(self, post: Post, at_least: int = 2) -> str | None:
        """What in a sentence is marked otherwise than the seeds mark it; None where nothing is.

        A name conflicts where the seeds leave it unmarked `at_least` times and more often than they
        mark it; where they mark it, but mostly with another type; and where it is written small
        although names of the domain hardly ever are. So does a word sequence that the seeds mostly
        mark, and the sentence does not.
        """
        spans = {one.span for one in post.entities}
        covered = {place for start, end in spans for place in range(start, end)}
        for entity in post.entities:
            words = _folded(post.tokens[slice(*entity.span)])
            times = self.names[words]
            if self.plain[words] >= max(at_least, times + 1):
                return "marks what the seeds leave unmarked"
            if times and self.marked[words, entity.type] * 2 < times:
                return "marks with another type than the seeds"
            small = not any(c.isupper() or c.isdigit() for c in entity.name)
            if small and self.written_large > 0.95 and not times:
                return "marks a name written small"
        for start, end in _sequences(post.tokens):
            if (start, end) in spans or any(place in covered for place in range(start, end)):
                continue
            words = _folded(post.tokens[start:end])
            times = self.names[words]
            if times >= at_least and times > self.plain[words]:
                return "leaves unmarked what the seeds mark"
        return None


def style_of(posts: Sequence[Post]) -> Style:
    """The annotation style of seed posts."""
    marked: Counter[tuple[tuple[str, ...], EntityType]] = Counter()
    names: Counter[tuple[str, ...]] = Counter()
    plain: Counter[tuple[str, ...]] = Counter()
    large = total = 0
    for post in posts:
        covered = {place for one in post.entities for place in range(*one.span)}
        for one in post.entities:
            words = _folded(post.tokens[slice(*one.span)])
            marked[words, one.type] += 1
            names[words] += 1
            total += 1
            large += any(c.isupper() or c.isdigit() for c in one.name)
        for start, end in _sequences(post.tokens):
            if not any(place in covered for place in range(start, end)):
                plain[_folded(post.tokens[start:end])] += 1
    return Style(marked, names, plain, large / total if total else 0.0)


def _sequences(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    for start in range(len(tokens)):
        for end in range(start + 1, min(start + LONGEST, len(tokens)) + 1):
            yield start, end


def _folded(tokens: Sequence[str]) -> tuple[str, ...]:
    return tuple(token.casefold() for token in tokens)
