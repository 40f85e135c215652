"""Mentions, confidences and calibration from distributions over the label paths of texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from groundling.calibration import choose_temperature
from groundling.config_gmner import TaggerConfig
from groundling.metrics import Floats
from groundling.models.taggers.crf import Lattice
from groundling.models.taggers.labels import Labels
from groundling.models.taggers.posterior import Belief, read_lattices
from groundling.records import Failure, Mention, Post, Scheme


class PathTagger(ABC):
    """A tagger that is one or more distributions over label paths; see `posterior`.

    Every word of a post has a label, whatever it is made of. A post without words has no mentions.
    `temperature` divides all scores; 1 until `calibrate` has chosen it.
    """

    def __init__(self, scheme: Scheme, config: TaggerConfig) -> None:
        self.scheme = scheme
        self.labels = Labels(scheme.types)
        self.config = config
        self.temperature = 1.0

    @abstractmethod
    def lattices(self, posts: Sequence[Post]) -> list[Lattice]:
        """A lattice a distribution, each over the same batch of posts with words, in float64."""

    @abstractmethod
    def length(self, post: Post) -> int:
        """Tokens that a post takes in a batch."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights (safetensors) and all that opening it again needs."""

    @abstractmethod
    def fault(self, post: Post) -> Failure | None:
        """Why a post cannot be tagged, if it cannot."""

    # ----------------------------------------------------------------------------------- tagging

    def tag(self, posts: Sequence[Post]) -> list[list[Mention] | Failure]:
        """The spans of each post's best label path, with their exact probabilities."""
        believed = iter(self.beliefs([post for post in posts if post.tokens]))
        return [_mentions(next(believed)) if post.tokens else [] for post in posts]

    def beliefs(self, posts: Sequence[Post]) -> list[Belief | Failure]:
        """What the tagger believes of each post, at its temperature; all must have words."""
        found = dict(self._believed(self._scored(posts), self.temperature))
        return [found[place] for place in range(len(posts))]

    @torch.no_grad()
    def _scored(self, posts: Sequence[Post]) -> Iterator[_Scored]:
        """The lattices of posts in batches of like length."""
        order = sorted(range(len(posts)), key=lambda place: self.length(posts[place]))
        for start in range(0, len(order), self.config.batch_size):
            batch = _Scored()
            for place in order[start : start + self.config.batch_size]:
                fault = self.fault(posts[place])
                if fault is None:
                    batch.places.append(place)
                else:
                    batch.faults[place] = fault
            if batch.places:
                batch.lattices = self.lattices([posts[place] for place in batch.places])
            yield batch

    @torch.no_grad()
    def _believed(
        self, scored: Iterable[_Scored], temperature: float
    ) -> Iterator[tuple[int, Belief | Failure]]:
        """Each post's place and what is believed of it."""
        for batch in scored:
            yield from batch.faults.items()
            if not batch.places:
                continue
            cooled = [lattice.at(temperature) for lattice in batch.lattices]
            for place, belief in zip(batch.places, read_lattices(cooled, self.labels), strict=True):
                yield place, belief if belief.finite else Failure("a score is not finite", "tag")

    # ------------------------------------------------------------------------------- calibration

    def calibrate(self, posts: Sequence[Post]) -> None:
        """Choose the temperature under which confidences fit best how often mentions are right.

        It leaves the mentions as they are, and stays 1 where there is nothing to learn from.
        """
        posts = [post for post in posts if post.tokens]
        scored = list(self._scored(posts))
        spans = {
            place: found.spans
            for place, found in self._believed(scored, 1.0)
            if isinstance(found, Belief)
        }

        def confidences(temperature: float) -> Floats:
            values = [
                found.probability(*span)
                for place, found in self._believed(scored, temperature)
                if isinstance(found, Belief)
                for span in spans[place]
            ]
            return np.array(values)

        gold = [self.labels.decode(self.labels.encode(post)) for post in posts]
        right = [span in gold[place] for place, found in spans.items() for span in found]
        self.temperature = choose_temperature(confidences, np.array(right, dtype=bool))


@dataclass
class _Scored:
    """A batch of posts by their places, with its lattices; `faults` are posts left out of it."""

    places: list[int] = field(default_factory=list)
    lattices: list[Lattice] = field(default_factory=list)
    faults: dict[int, Failure] = field(default_factory=dict)


def _mentions(believed: Belief | Failure) -> list[Mention] | Failure:
    if isinstance(believed, Failure):
        return believed
    return [Mention(*span, believed.probability(*span)) for span in believed.spans]
