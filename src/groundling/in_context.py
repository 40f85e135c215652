"""The grounding stage of ReFineG: a frozen multimodal LLM grounds by solved examples like the case.

labelled posts → pool;  mentions → nearest examples → questions → boxes
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.asking import ask_all
from groundling.atomic import write_bytes
from groundling.config_gmner import InContextConfig
from groundling.errors import ImageError
from groundling.examples import Search, choose_examples
from groundling.groundings import Found, Item, Located, name_of, spread
from groundling.images import load_image
from groundling.models.base import Assistant, Case, Embedder, Solved
from groundling.models.registry import open_question
from groundling.progress import Progress
from groundling.records import Box, Failure, Post
from groundling.selection import Vectors, View, nearest

if TYPE_CHECKING:
    from groundling.models.coordinates import ConventionName


@dataclass(frozen=True, slots=True)
class Pool:
    """Solved examples, and the posts that they are from."""

    solved: tuple[Solved, ...]
    posts: tuple[str, ...]


def make_pool(posts: Sequence[Post]) -> Pool:
    """Every gold entity of the posts that have a picture, with its largest box, or None."""
    found = [
        (Solved(Case(post.image, post.text, one.name, one.type), one.largest_box), post.id)
        for post in posts
        if post.image is not None
        for one in post.entities
    ]
    return Pool(tuple(solved for solved, _ in found), tuple(post for _, post in found))


class InContextGrounding:
    """Implements `groundings.Grounding`; its journal is `asked.jsonl` in the folder of its work.

    An example whose picture cannot be read gives way to the next one; `left-out.json` says why.
    """

    def __init__(
        self,
        assistant: Assistant,
        convention: ConventionName,
        pool: Pool,
        embedders: tuple[Embedder, Embedder],
        settings: InContextConfig,
        search: Search = nearest,
    ) -> None:
        """`embedders` are that of texts and names, and that of pictures.

        Boxes are shown and read in `convention`.
        """
        self._assistant, self._convention = assistant, convention
        self._make_question = open_question(convention, settings.max_tokens)
        self._pool, self._embedders, self._settings = pool, embedders, settings
        self._search = search
        self._checked: dict[str, str | None] = {}

    def locate(self, items: Sequence[Item], work: Path, progress: Progress | None = None) -> Found:
        """See `groundings.Grounding`. Examples are never taken from the mention's own post."""
        cases = [
            (place, Case(post.image, post.text, name_of(post, mention), mention.type))
            for place, (post, mention) in enumerate(items)
            if post.image is not None
        ]
        shown = self.choose([case for _, case in cases], [items[i][0].id for i, _ in cases])
        left_out = {path: reason for path, reason in self._checked.items() if reason is not None}
        write_bytes(work / "left-out.json", json.dumps(left_out, indent=2).encode())
        answers = ask_all(
            self._assistant,
            [(case, tuple(examples)) for (_, case), examples in zip(cases, shown, strict=True)],
            lambda item: self._make_question(*item),
            journal=work / "asked.jsonl",
            key=self._key,
            encode=lambda found: [found[0] and list(found[0].xyxy), found[1]],
            decode=lambda kept: (kept[0] and Box(*kept[0]), kept[1]),
            tries=self._settings.tries,
            progress=progress,
        )
        outcomes = [
            answer if isinstance(answer, Failure) else Located(answer[0]) for answer in answers
        ]
        found = spread(len(items), [place for place, _ in cases], outcomes)
        return replace(found, left_out=left_out)

    def choose(self, cases: Sequence[Case], posts: Sequence[str]) -> list[list[Solved]]:
        """The examples for each case, the nearest last: right before the case itself.

        `posts` are the ids of the cases' posts. A case's own post is one of its id, or its text.
        """
        if not cases:
            return []
        pool = self._pool
        own: dict[str, set[int]] = {}
        for index, (post, solved) in enumerate(zip(pool.posts, pool.solved, strict=True)):
            own.setdefault(f"id {post}", set()).add(index)
            own.setdefault(f"text {solved.case.text}", set()).add(index)
        nothing: set[int] = set()
        barred = [
            frozenset(own.get(f"id {post}", nothing) | own.get(f"text {case.text}", nothing))
            for case, post in zip(cases, posts, strict=True)
        ]
        views = cache(lambda: self._views(cases))
        while True:
            found = choose_examples(views, len(pool.solved), barred, self._settings, self._search)
            unreadable = {index for row in found for index in row if not self._readable(index)}
            if not unreadable:
                return [[pool.solved[index] for index in row] for row in found]
            barred = [row | unreadable for row in barred]

    def _readable(self, index: int) -> bool:
        """Whether the picture of an example can be read."""
        path = self._pool.solved[index].case.image
        if path not in self._checked:
            try:
                load_image(path)
                self._checked[path] = None
            except ImageError as fault:
                self._checked[path] = str(fault)
        return self._checked[path] is None

    def _views(self, cases: Sequence[Case]) -> list[View]:
        settings, (texts, pictures) = self._settings, self._embedders
        all_cases = [*cases, *(solved.case for solved in self._pool.solved)]
        views = (
            (settings.text_weight, texts, [case.text for case in all_cases]),
            (settings.image_weight, pictures, [case.image for case in all_cases]),
            (settings.entity_weight, texts, [case.name for case in all_cases]),
        )
        found = []
        for weight, embedder, items in views:
            if weight:
                rows = _embedded(embedder, items)
                found.append(View(weight, rows[: len(cases)], rows[len(cases) :]))
        return found

    def _key(self, item: tuple[Case, tuple[Solved, ...]]) -> list[object]:
        case, shown = item
        told = [[*_plain(one.case), one.box and list(one.box.xyxy)] for one in shown]
        return [self._convention, _plain(case), told]


def _embedded(embedder: Embedder, items: Sequence[str]) -> Vectors:
    """A row an item; equal items are embedded once."""
    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    rows: Vectors = embedder.embed(list(places))[[places[item] for item in items]]
    return rows


def _plain(case: Case) -> list[str]:
    return [case.text, case.name, case.type]
