"""A multimodal language model with one LoRA adapter that answers a fixed question about pictures.

A shared module, no backend: writers and grounders that are language models are made of it. The
computation is an engine's: the model's own forward pass with each prompt run once (`stock`), or,
for Qwen2-VL, the same laid out by hand, where pictures' features are kept, the common instruction
is computed once and answers grow as trees (`engines`). Each is proved equal to the plain
computation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from groundling import team
from groundling.errors import ImageError, InputError
from groundling.images import OpenImage, load_image
from groundling.models import lora
from groundling.models.base import Sampling
from groundling.models.checkpoints import open_checkpoint
from groundling.models.coordinates import Size
from groundling.models.decoding import Drawn, Noise
from groundling.models.engines import Ask, Engine, PackedEngine
from groundling.models.families import family_of
from groundling.models.grounding import NO_NUMBER
from groundling.models.packing import Laid, Row, sum_by_answer
from groundling.models.qwen2vl import runs_by_hand
from groundling.models.stock import StockEngine
from groundling.models.wording import Messages, Wording, listed_ends
from groundling.records import Failure

T = TypeVar("T")

_CHUNK = 8
"""Batches whose prompts are held together, so that those of like length can share a batch."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA settings of a new writer; the paper's are rank 32, alpha 64 (ISR §4.1).

    `targets` are ends of layers' names within the language model; None takes the family's own.
    """

    rank: int = 32
    alpha: float = 64.0
    seed: int = 0
    targets: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a writer may use, and where its pictures come from.

    batch_size: prompts run together when sampling and scoring. cache_bytes: most memory for kept
    picture features; 0 keeps none. max_pixels: largest area of a picture after resizing, None as
    the checkpoint says. image_root: folder that pictures may not leave. open_image: reads a
    picture by its path in place of the file system. checkpointing: trade time for memory in the
    losses.
    """

    batch_size: int = 64
    cache_bytes: int = 1 << 30
    max_pixels: int | None = None
    image_root: Path | None = None
    open_image: OpenImage | None = None
    checkpointing: bool = False
    engine: Literal["auto", "stock"] = "auto"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as text, and its log-probability in nats; None where it was cut short.

    `usual_end`: it ended as answers that are scored or learnt end, not with another end token.
    """

    text: str
    logprob: float | None
    usual_end: bool = True


class Chat:
    """The base model is frozen; the only parameters that train are those of the adapter.

    One thread at a time: drawing and scoring merge the adapter into the weights while they run.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        messages: Messages,
        adapter: Adapter | Path | None = None,
        resources: Resources | None = None,
    ) -> None:
        """From a model and processor in memory; `messages` makes a question of its subject.

        `adapter` is a folder to continue from, or the settings of a fresh one (which changes
        nothing until it is trained). Raises InputError for a model or adapter that does not fit.
        """
        resources = resources or Resources()
        self.family = family_of(model.config)
        self.open_image = resources.open_image or partial(load_image, root=resources.image_root)
        self._processor = processor
        start = adapter or Adapter()
        if isinstance(start, Path):
            self.model = lora.attach_stored(model, start)
            lora.load(self.model, start)
        else:
            targets = self.family.lora_targets(model, start.targets)
            self.model = lora.attach(model, start.rank, start.alpha, targets, start.seed)
        self.wording = Wording(processor, messages, listed_ends(model.generation_config))
        self.engine = self._engine(model, resources)
        self._batch_size = resources.batch_size
        self._checkpointing = resources.checkpointing

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        messages: Messages,
        *,
        adapter: Adapter | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        four_bit: bool = False,
        resources: Resources | None = None,
    ) -> Chat:
        """From a checkpoint folder or hub name; safetensors only, no code of others.

        `four_bit` holds the base weights in NF4 (bitsandbytes). Raises InputError for what is no
        checkpoint or one of another family.
        """
        model, processor = open_checkpoint(checkpoint, dtype, device, four_bit)
        return cls(model, processor, messages, adapter, resources)

    def _engine(self, model: Any, resources: Resources) -> Engine[Any]:
        if resources.engine == "auto" and runs_by_hand(model.config) and not team.shards():
            return PackedEngine(
                model,
                self._processor,
                self.wording,
                self.open_image,
                max_pixels=resources.max_pixels,
                cache_bytes=resources.cache_bytes,
            )
        return StockEngine(
            model,
            self._processor,
            self.family,
            self.wording,
            self.open_image,
            max_pixels=resources.max_pixels,
        )

    def given_wh_px(self, size_wh_px: Size) -> Size:
        """The size of a picture of that size as the model is given it."""
        return self.family.given_wh_px(self._processor, size_wh_px)

    def draw(
        self, asks: Sequence[Ask], keys: Sequence[str], k: int, sampling: Sampling, seed: int
    ) -> list[list[Said] | Failure]:
        """K answers a question, in order; a Failure where it cannot be put.

        A question's draws depend on `seed`, its key and the number of the answer, not on its
        neighbours, as far as floating-point sums allow. `logprob` belongs to the tokens drawn: a
        text that its tokenizer would split otherwise scores a little differently. An answer cut
        at `max_new_tokens` is kept as it stands, with `logprob` None, for its end was not drawn.
        Where the model's numbers are none (it overflowed), the question has a Failure of stage
        "model". Temperature 0 gives the greedy answer K times. Raises InputError for a negative
        temperature, and for fewer than one answer or one token.
        """
        if sampling.temperature < 0 or min(k, sampling.max_new_tokens) < 1:
            raise InputError(f"cannot draw {k} answers with {sampling}; wanted at least one token")
        noise = Noise(seed, sampling.max_new_tokens)
        greedy = sampling.temperature == 0

        def run(places: Sequence[int], prompts: Sequence[Laid]) -> list[list[Said] | Failure]:
            uniforms = None if greedy else np.stack([noise.of(keys[i], k) for i in places])
            drawn = self.engine.draw(
                prompts, uniforms, sampling.temperature, sampling.max_new_tokens
            )
            return [self._said(row, k if greedy else 1) for row in drawn]

        return self._each(asks, run)

    def _said(self, row: Sequence[Drawn], times: int) -> list[Said] | Failure:
        if any(math.isnan(one.logprob or 0.0) for one in row):
            return Failure(NO_NUMBER, "model")
        usual = self.wording.end
        return [
            Said(self.wording.text(one.tokens), one.logprob, one.end == usual) for one in row
        ] * times

    def scores(
        self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]
    ) -> list[list[float] | Failure]:
        """log π(text + end | question) in nats at temperature 1, as many texts for each question.

        The texts of one question share its prompt where the family allows. Numbers that are none
        are a Failure of stage "model".
        """
        if len(texts) != len(asks):
            raise InputError(f"got {len(texts)} answers to {len(asks)} queries; wanted as many")
        answers = [tuple(map(self.wording.answer, row)) for row in texts]

        def run(places: Sequence[int], prompts: Sequence[Laid]) -> list[list[float] | Failure]:
            rows = [Row(prompt, answers[i]) for i, prompt in zip(places, prompts, strict=True)]
            logprobs, owners = self.engine.answer_logprobs(rows)
            many = len(rows[0].answers)
            sums = sum_by_answer(logprobs.double(), owners, many * len(rows))
            scores: list[list[float]] = sums.view(-1, many).tolist()
            return [Failure(NO_NUMBER, "model") if any(map(math.isnan, s)) else s for s in scores]

        return self._each(asks, run)

    def token_logprobs(
        self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log π of every answer token, (N,), with gradient, and its answer, (N,).

        Answers count question by question. Raises ImageError where a picture cannot be read,
        InputError where a subject is refused.
        """
        return self.engine.answer_logprobs(self.rows(asks, texts), self._checkpointing)

    def rows(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[Row[Laid]]:
        """Questions and answers as tokens. Raises what `token_logprobs` raises."""
        rows = []
        for ask, prompt, row in zip(asks, self.engine.prompts(asks), texts, strict=True):
            if isinstance(prompt, Failure):
                kind = ImageError if prompt.stage == "image" else InputError
                raise kind(f"{ask.told}: {prompt.reason}")
            rows.append(Row(prompt, tuple(map(self.wording.answer, row))))
        return rows

    def _each(
        self, asks: Sequence[Ask], run: Callable[[Sequence[int], Sequence[Laid]], list[T | Failure]]
    ) -> list[T | Failure]:
        """Run batches of prompts of like length; results come back in the order asked."""
        results: dict[int, T | Failure] = {}
        with lora.merged(self.model):
            for start in range(0, len(asks), _CHUNK * self._batch_size):
                places = range(start, min(start + _CHUNK * self._batch_size, len(asks)))
                ready: list[tuple[int, Laid]] = []
                made = self.engine.prompts([asks[place] for place in places])
                for place, prompt in zip(places, made, strict=True):
                    if isinstance(prompt, Failure):
                        results[place] = prompt
                    else:
                        ready.append((place, prompt))
                ready.sort(key=lambda item: len(item[1].ids))
                for batch in _batches(ready, self._batch_size):
                    spots, prompts = zip(*batch, strict=True)
                    results.update(zip(spots, run(spots, prompts), strict=True))
        return [results[place] for place in range(len(asks))]


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
