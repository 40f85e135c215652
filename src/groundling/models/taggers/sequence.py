"""What all taggers that score labels word by word have in common: loss, lattices, files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from groundling.config_gmner import TaggerConfig
from groundling.errors import InputError
from groundling.models.taggers.crf import Lattice, Transitions, log_likelihood
from groundling.models.taggers.dropout import passes
from groundling.models.taggers.labels import OUTSIDE
from groundling.models.taggers.paths import PathTagger
from groundling.models.taggers.pictures import Pictures, Seen
from groundling.models.taggers.saved import Facts, write_tagger
from groundling.records import Failure, Post, Scheme

Inputs = TypeVar("Inputs")


class WordScorer(nn.Module, Generic[Inputs]):
    """A network that scores every label of every word: called with inputs, it gives (B, T, L)."""

    transitions: Transitions

    def __call__(self, inputs: Inputs) -> Tensor:
        """Run the network; says what `nn.Module` leaves open."""
        scores: Tensor = super().__call__(inputs)
        return scores


class SequenceTagger(PathTagger, Generic[Inputs]):
    """A tagger over a `WordScorer`; implements `groundling.models.base.TrainableTagger`.

    `pictures` reads those of the posts, where it looks at them.
    """

    def __init__(
        self,
        net: WordScorer[Inputs],
        scheme: Scheme,
        config: TaggerConfig,
        pictures: Pictures | None = None,
    ) -> None:
        super().__init__(scheme, config)
        self.net = net
        self.pictures = pictures

    @abstractmethod
    def inputs(self, posts: Sequence[Post]) -> Inputs:
        """What the network takes of posts that all have words.

        Raises ImageError for a picture that cannot be read.
        """

    @abstractmethod
    def write_own(self, folder: Path) -> None:
        """Write what this kind of tagger needs beside its weights."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every weight by name: `transitions.` between labels, `projection.` to labels, `sight.`
        for pictures, others."""
        return dict(self.net.named_parameters())

    def module(self) -> nn.Module:
        """The network."""
        return self.net

    def save(self, folder: Path) -> None:
        """Write `tagger.json`, `model.safetensors` and what this kind of tagger adds."""
        facts = Facts(self.scheme.name, self.labels.types, self.config, self.temperature)
        write_tagger(folder, facts, self.net)
        self.write_own(folder)
        if self.pictures is not None:
            self.pictures.save(folder)

    # ----------------------------------------------------------------------------------- tagging

    def fault(self, post: Post) -> Failure | None:
        """Why a post's picture cannot be looked at, where it is to be."""
        return None if self.pictures is None else self.pictures.fault(post)

    @torch.no_grad()
    def lattices(self, posts: Sequence[Post]) -> list[Lattice]:
        """A lattice a pass, as `config.uncertainty` wants them."""
        self.net.eval()
        inputs, lengths = self.inputs(posts), self._lengths(posts)
        return [
            self.net.transitions.lattice(self._scores(inputs).double(), lengths)
            for _ in passes(self.net, self.config.uncertainty)
        ]

    def seen(self, posts: Sequence[Post]) -> Seen | None:
        """The posts' pictures, where the tagger looks at them. Raises ImageError."""
        return None if self.pictures is None else self.pictures.of(posts, self.device)

    # ---------------------------------------------------------------------------------- training

    def loss(self, batch: Sequence[Post]) -> Tensor:
        """Mean over the posts of −log p(labels | text).

        A CRF's is that of the whole path, under the BIO rules; without one it is the sum over
        words, each by itself. Raises InputError for a batch without words, ImageError for a
        picture that cannot be read.
        """
        posts = [post for post in batch if post.tokens]
        if not posts:
            raise InputError("a batch of posts without words; leave them out of the training")
        self.net.train()
        scores = self._scores(self.inputs(posts))
        lengths, gold = self._lengths(posts), self._gold(posts)
        if self.net.transitions.learned:
            lattice = self.net.transitions.lattice(scores, lengths)
            return -log_likelihood(lattice, gold).sum() / len(batch)
        losses = nn.functional.cross_entropy(scores.transpose(1, 2), gold, reduction="none")
        here = torch.arange(gold.shape[1], device=gold.device) < lengths[:, None]
        return losses.masked_fill(~here, 0.0).sum() / len(batch)

    def _scores(self, inputs: Inputs) -> Tensor:
        """(B, T, L) in float32; on the way there, matrix products run in `config.dtype`."""
        dtype = torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.net(inputs).float()

    def _lengths(self, posts: Sequence[Post]) -> Tensor:
        return torch.tensor([len(post.tokens) for post in posts], device=self.device)

    def _gold(self, posts: Sequence[Post]) -> Tensor:
        rows = [self.labels.encode(post) for post in posts]
        longest = max(map(len, rows))
        padded = [row + [OUTSIDE] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, device=self.device)
