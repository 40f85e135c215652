"""Word-level BIO labels over the types of a scheme, and the spans that they spell.

Label 0 is O; type number i has B at 2i + 1 and I at 2i + 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from groundling.errors import InputError
from groundling.records import Entity, EntityType, Post

OUTSIDE = 0

Span = tuple[int, int, EntityType]
"""Words [start, end) of a text, and a type."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a scheme's types, in their order."""

    types: tuple[EntityType, ...]

    def __len__(self) -> int:
        return 2 * len(self.types) + 1

    def begin(self, kind: EntityType) -> int:
        """B of a type."""
        return 2 * self.types.index(kind) + 1

    def inside(self, kind: EntityType) -> int:
        """I of a type."""
        return 2 * self.types.index(kind) + 2

    def encode(self, post: Post) -> list[int]:
        """The gold labels of a post's words.

        BIO holds no overlaps: of entities that do, the one that begins first counts, the longest
        of those that begin together. Raises InputError for a type of another scheme and for an
        entity beyond the words.
        """
        labels = [OUTSIDE] * len(post.tokens)
        for entity in _apart(post.entities):
            if entity.type not in self.types:
                raise InputError(
                    f"post {post.id}: entity {entity.name!r} has type {entity.type}; wanted one "
                    f"of {', '.join(self.types)}; choose the scheme of these posts"
                )
            start, end = entity.span
            if not 0 <= start < end <= len(labels):
                raise InputError(
                    f"post {post.id}: entity {entity.name!r} has words {start} to "
                    f"{end} of {len(labels)}"
                )
            inside = [self.inside(entity.type)] * (end - start - 1)
            labels[start:end] = [self.begin(entity.type), *inside]
        return labels

    def decode(self, labels: Sequence[int]) -> list[Span]:
        """The spans that labels spell, in order; an I that continues nothing begins a span.

        >>> Labels(("PER", "LOC")).decode([1, 2, 0, 1, 3])
        [(0, 2, 'PER'), (3, 4, 'PER'), (4, 5, 'LOC')]
        """
        spans: list[Span] = []
        for at, label in enumerate(labels):
            if label == OUTSIDE:
                continue
            kind = self.types[(label - 1) // 2]
            continues = label % 2 == 0 and bool(spans) and spans[-1][1:] == (at, kind)
            start = spans.pop()[0] if continues else at
            spans.append((start, at + 1, kind))
        return spans

    def may_start(self) -> npt.NDArray[np.bool_]:
        """(L,): which labels a text may start with: every one but I."""
        return np.array([label == OUTSIDE or label % 2 == 1 for label in range(len(self))])

    def may_follow(self) -> npt.NDArray[np.bool_]:
        """(L, L): whether the second label may come after the first: I only within its type."""
        allowed = np.tile(self.may_start(), (len(self), 1))
        for kind in self.types:
            inside = self.inside(kind)
            allowed[[self.begin(kind), inside], inside] = True
        return allowed


def _apart(entities: Iterable[Entity]) -> list[Entity]:
    """Entities without those that overlap a chosen one, in order of their words."""
    chosen: list[Entity] = []
    for entity in sorted(entities, key=lambda one: (one.span[0], -one.span[1])):
        if not chosen or entity.span[0] >= chosen[-1].span[1]:
            chosen.append(entity)
    return chosen
