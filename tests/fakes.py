"""Stand-ins for models, for tests of what is done with their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from groundling.models.base import Demonstration, GroundingExample, Preference, Sampling
from groundling.records import Box, Expression, Failure, Grounded, Query

Said = str | Failure


class FakeWriter:
    """Says what it was told to say by entity name; keeps what it was asked.

    `words` gives one text for a name, or K of them, or the Failure that its query meets. A name
    that is not in it is a Failure of stage `write`.
    """

    def __init__(
        self,
        words: Mapping[str, Said | Sequence[str]],
        known: frozenset[str] | None = None,
        logprob: float | None = -0.5,
    ) -> None:
        self.words = dict(words)
        self.known = known
        self.logprob = logprob
        self.asked: list[tuple[Query, int, Sampling, int]] = []

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return {}

    def prepare(self, images: Sequence[str]) -> list[Failure | None]:
        return [None] * len(images)

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        self.asked += [(query, k, sampling, seed) for query in queries]
        return [self._row(query, k, source) for query in queries]

    def _row(self, query: Query, k: int, source: str) -> list[Expression] | Failure:
        said = self.words.get(query.name, Failure("nothing to say", "write"))
        if isinstance(said, Failure):
            return said
        texts = [said] * k if isinstance(said, str) else list(said)
        assert len(texts) == k, f"{query.name}: {len(texts)} texts, asked for {k}"
        return [Expression(text, source, self.logprob) for text in texts]

    def score(self, queries: Sequence[Query], texts: Sequence[str]) -> list[float | Failure]:
        return [-float(len(text)) for _, text in zip(queries, texts, strict=True)]

    def score_pairs(
        self, queries: Sequence[Query], chosen: Sequence[str], rejected: Sequence[str]
    ) -> list[tuple[float, float] | Failure]:
        return [
            (-float(len(one)), -float(len(two)))
            for _, one, two in zip(queries, chosen, rejected, strict=True)
        ]

    def sft_loss(self, batch: Sequence[Demonstration]) -> torch.Tensor:
        raise NotImplementedError

    def dpo_loss(self, batch: Sequence[Preference], beta: float) -> torch.Tensor:
        raise NotImplementedError

    def restart_adapter(self, seed: int) -> None:
        self.restarted = seed

    def save_adapter(self, folder: Path) -> None:
        raise NotImplementedError

    def load_adapter(self, folder: Path) -> None:
        raise NotImplementedError

    def knows(self, query: Query) -> bool | None:
        return None if self.known is None else query.name in self.known


class FakeGrounder:
    """Answers by expression, with `boxes` or by rule; `batches` holds every request it was sent."""

    def __init__(
        self, boxes: Mapping[str, Box | Failure] | Callable[[str, str], Box | Failure]
    ) -> None:
        self.boxes = boxes
        self.batches: list[list[tuple[str, str]]] = []

    @property
    def asked(self) -> list[tuple[str, str]]:
        return [request for batch in self.batches for request in batch]

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return {}

    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        self.batches.append(list(requests))
        found = [
            self.boxes(image, text) if callable(self.boxes) else self.boxes[text]
            for image, text in requests
        ]
        return [one if isinstance(one, Failure) else Grounded(one, 0.75) for one in found]

    def loss(self, batch: Sequence[GroundingExample]) -> torch.Tensor:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError
