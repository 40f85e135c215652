"""Words about posts from a multimodal LLM that is shown similar annotated posts (PGIM, stage 1).

    annotated posts → pool;  posts → nearest examples → questions → words about each post

A tagger reads these words behind the post (PGIM, stage 2: `tagging`). For each split a folder gets

    SPLIT.jsonl             what is told of its posts, as `data.knowledge` reads it
    SPLIT.failures.jsonl    posts without a line there, and why; missing where there are none
    answers/                what was answered: never asked for again
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundling.asking import ask_all, refuse_losses, write_failures
from groundling.collect import kind_of
from groundling.config_knowledge import KnowledgeConfig
from groundling.data.knowledge import LINES, Told, write_knowledge
from groundling.data.leaks import folded_text
from groundling.errors import ImageError
from groundling.examples import Search, choose_examples
from groundling.images import load_image
from groundling.knowledge_prompt import Explanation, knowledge_messages, read_explanation
from groundling.models.base import Assistant, Embedder, Question
from groundling.progress import Progress
from groundling.prompts import as_text
from groundling.records import SCHEMES, Failure, Post
from groundling.selection import Vectors, View, nearest

ANSWERS = "answers"
"""Folder of what was answered, within that of the words."""

Shown = tuple[Post, tuple[Post, ...]]
"""A post, and the examples before it."""

Part = tuple[float, Embedder, Callable[[Post], str]]
"""What counts with which weight when posts are compared, and how."""


class Pool:
    """Annotated posts to show beside others; an example's `knowledge` is why it is annotated so."""

    def __init__(
        self,
        posts: Sequence[Post],
        open_embedders: Callable[[], tuple[Embedder, Embedder]],
        settings: KnowledgeConfig,
        search: Search = nearest,
    ) -> None:
        """`open_embedders` gives that of texts and that of pictures, once they are needed."""
        self._posts, self._open = tuple(posts), open_embedders
        self._settings, self._search = settings, search
        self._parts: list[Part] = []
        self._vectors: list[Vectors] = []
        self.unreadable: set[str] = set()
        self._looked: set[str] = set()
        self._places: dict[tuple[str, str], set[int]] = {}
        for place, post in enumerate(self._posts):
            for sign in _signs(post):
                self._places.setdefault(sign, set()).add(place)

    def choose(self, posts: Sequence[Post]) -> list[tuple[Post, ...]]:
        """The examples for each post, the nearest last.

        Never the post itself, by its id or by its text, letter case folded: the words about a post
        of `train` must owe no more to its annotation than those about a post of `test`.
        """
        barred = [
            frozenset(place for sign in _signs(post) for place in self._places.get(sign, ()))
            for post in posts
        ]
        found = choose_examples(
            lambda: self._views(posts), len(self._posts), barred, self._settings, self._search
        )
        return [tuple(self._posts[place] for place in row) for row in found]

    def with_picture(self, example: Post) -> Post:
        """The example, without its picture where that cannot be read: `unreadable` has its id."""
        if example.image is not None and example.id not in self._looked:
            self._looked.add(example.id)
            try:
                load_image(example.image)
            except ImageError:
                self.unreadable.add(example.id)
        return replace(example, image=None) if example.id in self.unreadable else example

    def _views(self, posts: Sequence[Post]) -> list[View]:
        if not self._parts:
            texts, pictures = self._open()
            parts: list[Part] = [
                (self._settings.text_weight, texts, lambda post: post.text),
                (self._settings.image_weight, pictures, lambda post: post.image or ""),
            ]
            self._parts = [part for part in parts if part[0]]  # without a weight nothing is opened
            self._vectors = self._embed(self._posts)
        weights = [weight for weight, _, _ in self._parts]
        rows = zip(weights, self._embed(posts), self._vectors, strict=True)
        return [View(*row) for row in rows]

    def _embed(self, posts: Sequence[Post]) -> list[Vectors]:
        return [embedder.embed([*map(part, posts)]) for _, embedder, part in self._parts]


def _signs(post: Post) -> tuple[tuple[str, str], ...]:
    """What makes two posts the same one."""
    return ("id", post.id), ("text", folded_text(post))


@dataclass(frozen=True, slots=True)
class Teller:
    """Who is asked, after which examples, in what manner; `journal` holds all answers."""

    assistant: Assistant
    pool: Pool
    settings: KnowledgeConfig
    journal: Path

    def with_examples(self, posts: Sequence[Post]) -> list[Shown]:
        """Each post with its examples, as they are shown: without pictures that are not.

        An example whose picture cannot be read is shown without it.
        """
        return [
            (self._seen(post), tuple(map(self._seen_example, shown)))
            for post, shown in zip(posts, self.pool.choose(posts), strict=True)
        ]

    def tell(
        self, items: Sequence[Shown], progress: Progress | None = None
    ) -> list[Told | Failure]:
        """The words about each post, or why there are none."""
        answers = ask_all(
            self.assistant,
            items,
            self._question,
            journal=self.journal,
            key=lambda item: [as_text(self._messages(item))],
            encode=lambda found: [list(found.entities), found.reasoning],
            decode=lambda kept: Explanation(tuple(map(tuple, kept[0])), kept[1]),
            tries=self.settings.tries,
            progress=progress,
        )
        source = f"llm:{self.assistant.name}"
        return [
            answer
            if isinstance(answer, Failure)
            else Told(post.id, answer.words, source, tuple(one.id for one in shown))
            for (post, shown), answer in zip(items, answers, strict=True)
        ]

    def _seen(self, post: Post) -> Post:
        return post if self.settings.picture else replace(post, image=None)

    def _seen_example(self, post: Post) -> Post:
        shown = self.settings.example_pictures
        return self.pool.with_picture(post) if shown else replace(post, image=None)

    def _messages(self, item: Shown) -> list[dict[str, Any]]:
        scheme = SCHEMES[self.settings.scheme]
        return knowledge_messages(*item, scheme, self.settings.words)

    def _question(self, item: Shown) -> Question[Explanation]:
        messages, scheme = self._messages(item), SCHEMES[self.settings.scheme]
        return Question(
            messages=lambda _: messages,
            read=lambda text, _: read_explanation(text, item[0], scheme),
            pictures=_pictures(item),
            max_tokens=self.settings.max_tokens,
        )


def _pictures(item: Shown) -> tuple[str, ...]:
    """The pictures of a question, in order."""
    post, shown = item
    return tuple(one.image for one in (*shown, post) if one.image is not None)


@dataclass
class Tally:
    """Of how many posts of a split something is told, and why nothing of the others, by kind.

    `unseen` were asked about without a picture, for they have none, though pictures are shown.
    `unreadable` examples were shown without theirs, for it cannot be read.
    """

    posts: int
    told: int = 0
    unseen: int = 0
    unreadable: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """The part of a command's summary about a split."""
        failed = dict(self.failed.most_common())
        counts = {"posts": self.posts, "told": self.told, "without_picture": self.unseen}
        counts["unreadable_example_pictures"] = self.unreadable
        return {**counts, "failed": failed}


def tell_split(name: str, teller: Teller, posts: Sequence[Post], out: Path, quiet: bool) -> Tally:
    """Write what is told of a split's posts into the folder `out`.

    Raises RunError where more calls fail than are tolerated: then the words are left as they were,
    and the next call asks again for what failed.
    """
    items = teller.with_examples(posts)
    with Progress(f"knowledge {name}", len(items), "posts", quiet=quiet) as progress:
        outcomes = teller.tell(items, progress)
    told = [one for one in outcomes if isinstance(one, Told)]
    lost = [(p, one) for p, one in zip(posts, outcomes, strict=True) if isinstance(one, Failure)]
    write_failures(out / f"{name}.failures.jsonl", [({"id": p.id}, one) for p, one in lost])
    refuse_losses(name, outcomes, len(posts), teller.settings.tolerate)
    write_knowledge(out / f"{name}{LINES}", told)
    unseen = sum(post.image is None for post in posts) if teller.settings.picture else 0
    unreadable = teller.pool.unreadable & {one.id for _, shown in items for one in shown}
    failed = Counter(kind_of(one) for _, one in lost)
    return Tally(len(posts), len(told), unseen, len(unreadable), failed)
