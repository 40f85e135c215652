"""The grounding stage of ReFineG: a frozen multimodal LLM grounds by solved examples like the case.

labelled posts → pool;  mentions → nearest examples → questions → boxes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundling.asking import ask_all
from groundling.config_gmner import InContextConfig
from groundling.examples import Search, choose_examples
from groundling.groundings import Item, Located, name_of
from groundling.models.base import Assistant, Case, Embedder, LocatedCase, Question, Solved
from groundling.progress import Progress
from groundling.records import Box, Failure, Post
from groundling.selection import View, nearest

MakeQuestion = Callable[[Case, Sequence[Solved]], Question[LocatedCase]]
"""How a case and its solved examples become a question."""


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
    """Implements `groundings.Grounding`; its journal is `asked.jsonl` in the folder of its work."""

    def __init__(
        self,
        assistant: Assistant,
        make_question: MakeQuestion,
        pool: Pool,
        embedders: tuple[Embedder, Embedder],
        settings: InContextConfig,
        search: Search = nearest,
    ) -> None:
        """`embedders` are that of texts and names, and that of pictures."""
        self._assistant, self._make_question = assistant, make_question
        self._pool, self._embedders, self._settings = pool, embedders, settings
        self._search = search

    def locate(
        self, items: Sequence[Item], work: Path, progress: Progress | None = None
    ) -> list[Located | Failure]:
        """See `groundings.Grounding`. Examples are never taken from the mention's own post."""
        row: list[Located | Failure] = [Failure("the post has no picture", "image")] * len(items)
        cases: list[tuple[int, Case]] = []
        for place, (post, mention) in enumerate(items):
            if mention.type in self._settings.never:
                row[place] = Located(None)
            elif post.image is not None:
                name = name_of(post, mention)
                cases.append((place, Case(post.image, post.text, name, mention.type)))
        shown = self.choose([case for _, case in cases], [items[i][0].id for i, _ in cases])
        work.mkdir(parents=True, exist_ok=True)
        answers = ask_all(
            self._assistant,
            [(case, tuple(examples)) for (_, case), examples in zip(cases, shown, strict=True)],
            lambda item: self._make_question(*item),
            journal=work / "asked.jsonl",
            key=_key,
            encode=lambda found: [found[0] and list(found[0].xyxy), found[1]],
            decode=lambda kept: (kept[0] and Box(*kept[0]), kept[1]),
            tries=self._settings.tries,
            progress=progress,
        )
        for (place, _), answer in zip(cases, answers, strict=True):
            row[place] = answer if isinstance(answer, Failure) else Located(answer[0])
        return row

    def choose(self, cases: Sequence[Case], posts: Sequence[str]) -> list[list[Solved]]:
        """The examples for each case, the nearest last: right before the case itself."""
        pool = self._pool
        own: dict[str, set[int]] = {}
        for index, post in enumerate(pool.posts):
            own.setdefault(post, set()).add(index)
        barred = [frozenset(own.get(post, ())) for post in posts]
        found = choose_examples(
            lambda: self._views(cases), len(pool.solved), barred, self._settings, self._search
        )
        return [[pool.solved[index] for index in row] for row in found]

    def _views(self, cases: Sequence[Case]) -> list[View]:
        settings, (texts, pictures) = self._settings, self._embedders
        known = [solved.case for solved in self._pool.solved]
        views = (
            (settings.text_weight, texts, lambda case: case.text),
            (settings.image_weight, pictures, lambda case: case.image),
            (settings.entity_weight, texts, lambda case: case.name),
        )
        return [
            View(weight, embedder.embed([*map(part, cases)]), embedder.embed([*map(part, known)]))
            for weight, embedder, part in views
        ]


def _key(item: tuple[Case, tuple[Solved, ...]]) -> list[object]:
    case, shown = item
    told = [[*_plain(one.case), one.box and list(one.box.xyxy)] for one in shown]
    return [_plain(case), told]


def _plain(case: Case) -> list[str]:
    return [case.image, case.text, case.name, case.type]
