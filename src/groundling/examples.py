"""The choice of the labelled examples that a multimodal LLM is shown before a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from groundling.config_gmner import ExampleChoice
from groundling.models.registry import open_index
from groundling.selection import Vectors, View, at_random, joined, nearest

Search = Callable[[Vectors, Vectors, int, Sequence[frozenset[int]]], list[list[int]]]
"""What finds the nearest examples: see `selection.nearest`."""


def open_search(settings: ExampleChoice) -> Search:
    """The search that the settings name."""
    return nearest if settings.index == "exact" else open_index()


def choose_examples(
    views: Callable[[], Sequence[View]],
    pool: int,
    barred: Sequence[frozenset[int]],
    settings: ExampleChoice,
    search: Search,
) -> list[list[int]]:
    """The places of each question's examples in a pool of that size, the nearest last.

    So the nearest stands right before the question. `barred` names, for each question, the places
    that it may not be shown; `views` are made only where similarities count.
    """
    if not settings.examples or not pool:
        return [[] for _ in barred]
    if settings.choose == "random":
        found = at_random(len(barred), pool, settings.examples, settings.seed, barred)
    else:
        found = search(*joined(views()), settings.examples, barred)
    return [row[::-1] for row in found]
