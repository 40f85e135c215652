"""Which sentences may stay: sound, new, diverse, and annotated as the seeds are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
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


class _Texts:
    """Texts to compare others with, letter case folded."""

    def __init__(self, posts: Iterable[Post] = ()) -> None:
        self._folded: set[str] = set()
        self._near: dict[tuple[str, ...], list[int]] = {}
        self._kept: list[Shingles] = []
        for post in posts:
            self.add(post)

    def add(self, post: Post) -> None:
        """Remember a post's text."""
        self._folded.add(_folded(post))
        shingles = _shingles(post.tokens)
        for one in shingles:
            self._near.setdefault(one, []).append(len(self._kept))
        self._kept.append(shingles)

    def __contains__(self, post: Post) -> bool:
        return _folded(post) in self._folded

    def alike(self, post: Post) -> float:
        """The largest Jaccard similarity of word trigrams to a text of these; 0 without any."""
        shingles = _shingles(post.tokens)
        shared = Counter(index for one in shingles for index in self._near.get(one, ()))
        return max(
            (both / (len(shingles) + len(self._kept[i]) - both) for i, both in shared.items()),
            default=0.0,
        )


@dataclass
class Screen:
    """Takes sentences one by one; remembers those that stay.

    `tokenise` makes tokens of their texts as those of the seeds are made. Nothing stays that has
    the text of a post in `held_out`, or is too much like one.
    """

    scheme: Scheme
    style: Style
    limits: Limits
    seeds: Sequence[Post]
    check_style: bool = True
    tokenise: Tokenise = tokenised
    held_out: Sequence[Post] = ()
    _used: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._texts = _Texts(self.seeds)
        self._held_out = _Texts(self.held_out)
        self._own = {post.id: names_of(post) for post in self.seeds}

    def take(self, offer: Offer) -> Post | str:
        """The sentence as a post with its entities, or why it does not stay."""
        try:
            post = to_post(offer.sentence, offer.id, self.scheme, self.tokenise)
        except ValueError as fault:
            return str(fault)
        return self.admit(post, offer.kind, self._own.get(offer.seed, set()))

    def admit(self, post: Post, kind: Kind, own: Collection[str]) -> Post | str:
        """A sentence that is a post already, or why it does not stay.

        `own` are the names, letter case folded, of what it was written near: no limit is on them.
        """
        new_names = names_of(post).difference(own)
        reason = self._fault(post, kind, new_names)
        if reason is not None:
            return reason
        self._texts.add(post)
        self._used.update(new_names)
        return post

    def _fault(self, post: Post, kind: Kind, new_names: set[str]) -> str | None:
        limits, words = self.limits, [token for token in post.tokens if token[0].isalnum()]
        if post in self._held_out:
            return "a text that is held out"
        if self._held_out.alike(post) > limits.alike:
            return "too much like a text that is held out"
        if not limits.low <= len(words) <= limits.high:
            return "too short or too long"
        if bool(post.entities) == (kind == "no entities"):
            return "entities where none were asked for" if post.entities else "no entity"
        if post in self._texts:
            return "a text that is there already"
        if self._texts.alike(post) > limits.alike:
            return "too much like another text"
        if any(self._used[name] >= limits.per_name for name in new_names):
            return "a name that is there often enough"
        return self.style.conflict(post, limits.at_least) if self.check_style else None


def names_of(post: Post) -> set[str]:
    """The names of its entities, letter case folded."""
    return {entity.name.casefold() for entity in post.entities}


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


def _folded(post: Post) -> str:
    return " ".join(tokenised(post.text)).casefold()
