"""What a chat asks of the computation below it, and the one laid out by hand for Qwen2-VL.

A shared module, no backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from groundling.images import OpenImage
from groundling.models.decoding import Drawn, draw
from groundling.models.features import FeatureStore
from groundling.models.packing import Laid, Prompt, Row, answer_logprobs
from groundling.models.qwen2vl import PictureRules, Qwen2VL
from groundling.models.wording import Wording
from groundling.records import Failure

P = TypeVar("P", bound=Laid)


class Ask(NamedTuple):
    """One question: about which picture (its path), and what it is put about.

    `query` is the id of the query that it stands for, where there is one: errors name it.
    """

    image: str
    subject: str
    query: str = ""

    @property
    def told(self) -> str:
        """The question in an error."""
        return f"{self.query}: {self.subject}" if self.query else self.subject


class Engine(Protocol[P]):
    """Prompts of questions, answers drawn from them, and answers' log-probabilities."""

    def keep(self, images: Sequence[str]) -> dict[str, Failure]:
        """Read pictures ahead of their use where that helps; what cannot be read, and why."""
        ...

    def prompts(self, asks: Sequence[Ask]) -> list[P | Failure]:
        """One prompt a question, its picture read."""
        ...

    def draw(
        self,
        prompts: Sequence[P],
        noise: NDArray[np.float64] | None,
        temperature: float,
        steps: int,
    ) -> list[list[Drawn]]:
        """K answers of at most `steps` tokens a prompt, by uniform numbers (B, K, steps).

        `noise` None takes the likeliest token each time (one answer a prompt).
        """
        ...

    def answer_logprobs(
        self, rows: Sequence[Row[P]], checkpointing: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log π of every answer token, (N,), and its answer (N,): row · answers + index."""
        ...


class PackedEngine:
    """Qwen2-VL with kept picture features, shared prefixes and answers grown as trees."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        wording: Wording,
        open_image: OpenImage,
        *,
        max_pixels: int | None,
        cache_bytes: int,
    ) -> None:
        self._net = Qwen2VL(model, PictureRules(processor.image_processor, max_pixels))
        net = self._net
        self._features = FeatureStore(
            net.look, lambda path: net.rules.fit(open_image(path)), cache_bytes
        )
        self._wording = wording

    def keep(self, images: Sequence[str]) -> dict[str, Failure]:
        """Compute and keep pictures' features; none where the memory allowed is too small."""
        return self._features.keep_all(list(images))

    def prompts(self, asks: Sequence[Ask]) -> list[Prompt | Failure]:
        """One prompt a question, its picture's features computed."""
        images = self._features.get(ask.image for ask in asks)
        made: list[Prompt | Failure] = []
        for ask in asks:
            image = images[ask.image]
            made.append(
                image if isinstance(image, Failure) else self._wording.prompt(ask.subject, image)
            )
        return made

    def draw(
        self,
        prompts: Sequence[Prompt],
        noise: NDArray[np.float64] | None,
        temperature: float,
        steps: int,
    ) -> list[list[Drawn]]:
        """K answers a prompt; those that begin alike share their beginning."""
        return draw(self._net, prompts, noise, temperature, steps, self._wording.ends)

    def answer_logprobs(
        self, rows: Sequence[Row[Prompt]], checkpointing: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log π of answers that share their prompt, in one packed pass."""
        return answer_logprobs(self._net, rows, checkpointing)
