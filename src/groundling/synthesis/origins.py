"""Near which post a group of sentences was written, where nobody wrote it down.

Sentences that are to hold a post's entities hold all its names. Ours: a group of sentences has its
origin in the post of the most names that occur together in a good share of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from groundling.records import Post

SHARE = 0.4
"""Share of a group in which an origin's names occur: half of it keeps them, and most keep all."""


def nearer_held_out(
    group: Sequence[Post], seeds: Sequence[Post], held_out: Sequence[Post], share: float = SHARE
) -> bool:
    """Whether a held-out post explains more of a group's names than any seed does.

    Names are compared with letter case folded. A group of no post's names, or of names that a seed
    has as well, is nearer to no held-out post.
    """
    return explained(group, held_out, share) > explained(group, seeds, share)


def explained(group: Sequence[Post], posts: Sequence[Post], share: float = SHARE) -> int:
    """Most names of a post that occur together in a share of a group's sentences."""
    rows = [_names(post) for post in group]
    least = share * len(group)
    return max(
        (
            len(names)
            for names in {_names(post) for post in posts}
            if sum(names <= row for row in rows) >= least
        ),
        default=0,
    )


def _names(post: Post) -> frozenset[str]:
    return frozenset(entity.name.casefold() for entity in post.entities)
