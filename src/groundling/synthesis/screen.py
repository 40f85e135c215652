"""Which sentences may stay: sound, new, diverse, and annotated as the seeds are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from groundling.records import Post, Scheme
from groundling.synthesis.prompts import Kind, Sentence, Tokenise, to_post, tokenised
from groundling.synthesis.style import Style

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked of a sentence.

    low, high: words. alike: largest Jaccard similarity of word trigrams to any sentence that
    stays, and to any seed. per_name: most sentences that hold one name which their seed does not.
    at_least: see `Style.conflict`.
    """

    low: int = 5
    high: int = 40
    alike: float = 0.7
    per_name: int = 40
    at_least: int = 2


@dataclass(frozen=True, slots=True)
class Offer:
    """A sentence, the seed post it was written near, what was asked for, and its number there."""

    sentence: Sentence
    seed: str
    kind: Kind
    number: int

    @property
    def id(self) -> str:
        """A name for it that depends on nothing else."""
        return f"{self.seed}.{self.kind.split()[0]}.{self.number}"


@dataclass
class Screen:
    """Takes sentences one by one; remembers those that stay.

    `tokenise` makes tokens of their texts as those of the seeds are made.
    """

    scheme: Scheme
    style: Style
    limits: Limits
    seeds: Sequence[Post]
    check_style: bool = True
    tokenise: Tokenise = tokenised
    _texts: set[str] = field(default_factory=set)
    _own: dict[str, set[str]] = field(default_factory=dict)
    _used: Counter[str] = field(default_factory=Counter)
    _near: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    _kept: list[Shingles] = field(default_factory=list)

    def __post_init__(self) -> None:
        for post in self.seeds:
            self._remember(post)
            self._own[post.id] = _names(post)

    def take(self, offer: Offer) -> Post | str:
        """The sentence as a post with its entities, or why it does not stay."""
        try:
            post = to_post(offer.sentence, offer.id, self.scheme, self.tokenise)
        except ValueError as fault:
            return str(fault)
        new_names = _names(post) - self._own.get(offer.seed, set())
        reason = self._fault(post, offer.kind, new_names)
        if reason is not None:
            return reason
        self._remember(post)
        self._used.update(new_names)
        return post

    def _fault(self, post: Post, kind: Kind, new_names: set[str]) -> str | None:
        limits, words = self.limits, [token for token in post.tokens if token[0].isalnum()]
        if not limits.low <= len(words) <= limits.high:
            return "too short or too long"
        if bool(post.entities) == (kind == "no entities"):
            return "entities where none were asked for" if post.entities else "no entity"
        if _folded(post) in self._texts:
            return "a text that is there already"
        if self._alike(_shingles(post.tokens)) > limits.alike:
            return "too much like another text"
        if any(self._used[name] >= limits.per_name for name in new_names):
            return "a name that is there often enough"
        return self.style.conflict(post, limits.at_least) if self.check_style else None

    def _alike(self, shingles: Shingles) -> float:
        """The largest Jaccard similarity to what is remembered."""
        shared = Counter(index for one in shingles for index in self._near.get(one, ()))
        return max(
            (both / (len(shingles) + len(self._kept[i]) - both) for i, both in shared.items()),
            default=0.0,
        )

    def _remember(self, post: Post) -> None:
        self._texts.add(_folded(post))
        shingles = _shingles(post.tokens)
        for one in shingles:
            self._near.setdefault(one, []).append(len(self._kept))
        self._kept.append(shingles)


def mixed(seeds: Sequence[Post], synthetic: Sequence[Post], ratio: float, seed: int) -> list[Post]:
    """Seeds and at most `ratio` times as many synthetic sentences, drawn at random, in order.

    A larger `ratio` only adds to what a smaller one draws.
    """
    drawn = np.random.default_rng([seed, 61]).permutation(len(synthetic)).tolist()
    chosen = sorted(drawn[: round(ratio * len(seeds))])
    return [*seeds, *(synthetic[index] for index in chosen)]


def distinct(posts: Sequence[Post], n: int = 2) -> float:
    """Distinct word n-grams over all n-grams, in [0, 1]: a measure of diversity (distinct-n)."""
    grams = [gram for post in posts for gram in _grams(post.tokens, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _shingles(tokens: Sequence[str]) -> Shingles:
    return frozenset(_grams(tokens, 3)) or frozenset([tuple(t.casefold() for t in tokens)])


def _grams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    folded = [token.casefold() for token in tokens]
    return (tuple(folded[i : i + n]) for i in range(len(folded) - n + 1))


def _names(post: Post) -> set[str]:
    return {entity.name.casefold() for entity in post.entities}


def _folded(post: Post) -> str:
    return " ".join(tokenised(post.text)).casefold()
