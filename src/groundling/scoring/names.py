"""Names of posts whose tokens were made from a running text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from groundling.data.mentions import squeezed
from groundling.records import Post, PostPrediction, Prediction


def spelt_as_gold(
    predictions: Sequence[PostPrediction], posts: Sequence[Post], from_text: Collection[str]
) -> list[PostPrediction]:
    """The predictions, their names spelt as gold's where only the white space differs.

    Every rule compares names letter by letter, as published. An entity of a running text is called
    by the tokens made from it (`Yahoo !`), which whoever predicts `Yahoo!` cannot know: so in posts
    of `from_text` a name that no gold entity has becomes the one that is equal white space aside.
    Where gold has several such names it stays as it is.
    """
    gold = {post.id: _spellings(post) for post in posts if post.id in from_text}
    return [
        replace(said, predictions=tuple(_spelt(item, gold[said.id]) for item in said.predictions))
        if said.id in gold
        else said
        for said in predictions
    ]


def _spellings(post: Post) -> dict[str, set[str]]:
    """The names of a post's gold entities, by what they are without white space."""
    found: dict[str, set[str]] = {}
    for entity in post.entities:
        found.setdefault(squeezed(entity.name), set()).add(entity.name)
    return found


def _spelt(item: Prediction, gold: Mapping[str, set[str]]) -> Prediction:
    names = gold.get(squeezed(item.name), set())
    if len(names) != 1 or item.name in names:
        return item
    return replace(item, name=next(iter(names)))
