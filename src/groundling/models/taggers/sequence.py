"""What all taggers that score labels word by word have in common: loss, mentions, calibration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from groundling.calibration import choose_temperature
from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.metrics import Floats
from groundling.models.taggers.crf import Transitions, log_likelihood
from groundling.models.taggers.labels import OUTSIDE, Labels
from groundling.models.taggers.posterior import Posterior, read_lattice
from groundling.models.taggers.saved import Facts, write_tagger
from groundling.records import Failure, Mention, Post, Scheme

Inputs = TypeVar("Inputs")


class WordScorer(nn.Module, Generic[Inputs]):
    """A network that scores every label of every word: called with inputs, it gives (B, T, L)."""

    transitions: Transitions

    def __call__(self, inputs: Inputs) -> Tensor:
        """Run the network; says what `nn.Module` leaves open."""
        scores: Tensor = super().__call__(inputs)
        return scores


class SequenceTagger(ABC, Generic[Inputs]):
    """A tagger over a `WordScorer`; implements `groundling.models.base.TrainableTagger`.

    Every word of a post has a label, whatever it is made of. A post without words has no mentions.
    `temperature` divides all scores; 1 until `calibrate` has chosen it.
    """

    def __init__(self, net: WordScorer[Inputs], scheme: Scheme, config: TaggerConfig) -> None:
        self.net = net
        self.scheme = scheme
        self.labels = Labels(scheme.types)
        self.config = config
        self.temperature = 1.0

    @abstractmethod
    def inputs(self, posts: Sequence[Post]) -> Inputs:
        """What the network takes of posts that all have words."""

    @abstractmethod
    def length(self, post: Post) -> int:
        """Tokens that a post takes in a batch."""

    @abstractmethod
    def write_own(self, folder: Path) -> None:
        """Write what this kind of tagger needs beside its weights."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every weight, by name: `transitions.` between labels, `projection.` to labels, others."""
        return dict(self.net.named_parameters())

    def module(self) -> nn.Module:
        """The network."""
        return self.net

    def save(self, folder: Path) -> None:
        """Write `tagger.json`, `model.safetensors` and what this kind of tagger adds."""
        facts = Facts(self.scheme.name, self.labels.types, self.config, self.temperature)
        write_tagger(folder, facts, self.net)
        self.write_own(folder)

    # ---------------------------------------------------------------------------------- training

    def loss(self, batch: Sequence[Post]) -> Tensor:
        """Mean over the posts of −log p(labels | text).

        A CRF's is that of the whole path, under the BIO rules; without one it is the sum over
        words, each by itself. Raises InputError for a batch without words.
        """
        posts = [post for post in batch if post.tokens]
        if not posts:
            raise InputError("a batch of posts without words; leave them out of the training")
        self.net.train()
        scores = self._scores(posts)
        lengths, gold = self._lengths(posts), self._gold(posts)
        if self.net.transitions.learned:
            lattice = self.net.transitions.lattice(scores, lengths)
            return -log_likelihood(lattice, gold).sum() / len(batch)
        losses = nn.functional.cross_entropy(scores.transpose(1, 2), gold, reduction="none")
        here = torch.arange(gold.shape[1], device=gold.device) < lengths[:, None]
        return losses.masked_fill(~here, 0.0).sum() / len(batch)

    def _scores(self, posts: Sequence[Post]) -> Tensor:
        """(B, T, L) in float32; on the way there, matrix products run in `config.dtype`."""
        dtype = torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.net(self.inputs(posts)).float()

    def _lengths(self, posts: Sequence[Post]) -> Tensor:
        return torch.tensor([len(post.tokens) for post in posts], device=self.device)

    def _gold(self, posts: Sequence[Post]) -> Tensor:
        rows = [self.labels.encode(post) for post in posts]
        longest = max(map(len, rows))
        padded = [row + [OUTSIDE] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, device=self.device)

    # ----------------------------------------------------------------------------------- tagging

    def tag(self, posts: Sequence[Post]) -> list[list[Mention] | Failure]:
        """The spans of each post's best label path, with their exact probabilities."""
        believed = iter(self.posteriors([post for post in posts if post.tokens]))
        return [_mentions(next(believed)) if post.tokens else [] for post in posts]

    def posteriors(self, posts: Sequence[Post]) -> list[Posterior | Failure]:
        """What the tagger believes of each post, at its temperature; all must have words."""
        found = dict(self._believed(self._scored(posts), self.temperature))
        return [found[place] for place in range(len(posts))]

    @torch.no_grad()
    def _scored(self, posts: Sequence[Post]) -> Iterator[_Scored]:
        """The scores of posts in batches of like length."""
        self.net.eval()
        order = sorted(range(len(posts)), key=lambda place: self.length(posts[place]))
        for start in range(0, len(order), self.config.batch_size):
            places = order[start : start + self.config.batch_size]
            batch = [posts[place] for place in places]
            yield _Scored(places, self._scores(batch).double(), self._lengths(batch))

    @torch.no_grad()
    def _believed(
        self, scored: Iterable[_Scored], temperature: float
    ) -> Iterator[tuple[int, Posterior | Failure]]:
        """Each post's place and its posterior."""
        for batch in scored:
            lattice = self.net.transitions.lattice(batch.scores, batch.lengths, temperature)
            for place, posterior in zip(
                batch.places, read_lattice(lattice, self.labels), strict=True
            ):
                sound = bool(np.isfinite(posterior.emissions).all())
                yield place, posterior if sound else Failure("a score is not finite", "tag")

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
            if isinstance(found, Posterior)
        }

        def confidences(temperature: float) -> Floats:
            values = [
                found.probability(*span)
                for place, found in self._believed(scored, temperature)
                if isinstance(found, Posterior)
                for span in spans[place]
            ]
            return np.array(values)

        gold = [self.labels.decode(self.labels.encode(post)) for post in posts]
        right = [span in gold[place] for place, found in spans.items() for span in found]
        self.temperature = choose_temperature(confidences, np.array(right, dtype=bool))


@dataclass(frozen=True, slots=True)
class _Scored:
    """A batch of posts by their places, with float64 scores (B, T, L) and lengths in words (B)."""

    places: list[int]
    scores: Tensor
    lengths: Tensor


def _mentions(believed: Posterior | Failure) -> list[Mention] | Failure:
    if isinstance(believed, Failure):
        return believed
    return [Mention(*span, believed.probability(*span)) for span in believed.spans]
