"""The writer that runs in this process: a Qwen2-VL with one LoRA adapter, the policy π of ISR.

What makes it fast, each part proved equal to the plain computation: picture features are kept
(`features`), the common instruction and each prompt are computed once (`packing`), and K answers
grow from one copy of a prompt (`decoding`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from groundling.errors import ImageError, InputError
from groundling.images import load_image
from groundling.losses import dpo_loss, sft_loss
from groundling.models import lora
from groundling.models.base import Demonstration, Preference, Sampling
from groundling.models.checkpoints import open_checkpoint, read_known_names
from groundling.models.decoding import Drawn, Noise, draw
from groundling.models.features import FeatureStore, OpenImage
from groundling.models.packing import Prompt, Row, answer_logprobs, sum_by_answer
from groundling.models.qwen2vl import PictureRules, Qwen2VL, check_family
from groundling.models.wording import Wording
from groundling.records import EntityType, Expression, Failure, Query

T = TypeVar("T")

_CHUNK = 8
"""Batches whose prompts are held together, so that those of like length can share a batch."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA settings of a new writer; the paper's are rank 32, alpha 64 (ISR §4.1)."""

    rank: int = 32
    alpha: float = 64.0
    seed: int = 0


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


class LocalWriter:
    """Implements `models.base.Writer` over transformers' Qwen2-VL and PEFT.

    The base model is frozen; the only parameters that train are those of the adapter. One thread
    at a time: sampling and scoring merge the adapter into the weights while they run.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        known_names: frozenset[tuple[str, EntityType]] | None,
        resources: Resources,
    ) -> None:
        """Use `from_parts` or `load`; `model` already carries its adapter."""
        base = model.get_base_model()
        self.model = model
        self._net = Qwen2VL(base, PictureRules(processor.image_processor, resources.max_pixels))
        reader = resources.open_image or partial(load_image, root=resources.image_root)
        self._features = FeatureStore(self._net, reader, resources.cache_bytes)
        self._wording = Wording(processor)
        self._known_names = known_names
        self._batch_size = resources.batch_size
        self._checkpointing = resources.checkpointing

    @classmethod
    def from_parts(
        cls,
        model: Any,
        processor: Any,
        *,
        adapter: Adapter | Path | None = None,
        known_names: frozenset[tuple[str, EntityType]] | None = None,
        resources: Resources | None = None,
    ) -> LocalWriter:
        """A writer from a model and processor in memory.

        `adapter` is a folder to continue from, or the settings of a fresh one (which changes
        nothing until it is trained). Raises InputError for a model or adapter that does not fit.
        """
        check_family(model.config)
        start = adapter or Adapter()
        if isinstance(start, Path):
            wrapped = lora.attach(model, *lora.settings_of(start), seed=0)
            lora.load(wrapped, start)
        else:
            wrapped = lora.attach(model, start.rank, start.alpha, start.seed)
        return cls(wrapped, processor, known_names, resources or Resources())

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        adapter: Adapter | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        resources: Resources | None = None,
    ) -> LocalWriter:
        """A writer from a checkpoint folder or hub name; safetensors only, no code of others.

        A folder may hold `known_names.json`, a list of [name, type], for `knows`. Raises
        InputError for what is no checkpoint or one of another family, DataError for a bad names
        file.
        """
        model, processor = open_checkpoint(checkpoint, dtype)
        return cls.from_parts(
            model.to(device),
            processor,
            adapter=adapter,
            known_names=read_known_names(Path(checkpoint) / "known_names.json"),
            resources=resources,
        )

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters, by name in the PEFT model."""
        return lora.parameters(self.model)

    def restart_adapter(self, seed: int) -> None:
        """Return the adapter to a fresh, seeded beginning that changes nothing yet."""
        lora.restart(self.model, seed)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout: adapter_config.json, adapter_model.safetensors."""
        lora.save(self.model, folder)

    def load_adapter(self, folder: Path) -> None:
        """Replace the adapter's weights. Raises InputError where the folder's do not fit."""
        lora.load(self.model, folder)

    def knows(self, query: Query) -> bool | None:
        """Whether the checkpoint was trained on the name with that type; None where unrecorded."""
        if self._known_names is None:
            return None
        return (query.name, query.type) in self._known_names

    def prepare(self, images: Sequence[str]) -> list[Failure | None]:
        """Compute and keep pictures' features ahead of their use; a Failure where unreadable.

        Where the memory allowed does not hold them all, none is kept and none reported.
        """
        failures = self._features.keep_all(list(images))
        return [failures.get(path) for path in images]

    def length(self, example: Demonstration | Preference) -> int:
        """Tokens that an example takes in a batch: picture, prompt and answers.

        Raises ImageError where its picture cannot be read.
        """
        row = self._rows([example])[0]
        return len(row.prompt.ids) + sum(len(answer) for answer in row.answers)

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """K expressions a query (ISR eq. 6), in order; a Failure where the query cannot be run.

        A query's draws depend on `seed`, its id and the number of the answer, not on its
        neighbours, as far as floating-point sums allow. `logprob` belongs to the tokens drawn: a
        text that its tokenizer would split otherwise scores a little differently. An expression
        cut at `max_new_tokens` is kept as it stands, with `logprob` None, for its end was not
        drawn. Temperature 0 gives the greedy answer K times. Raises InputError for a negative
        temperature, and for fewer than one answer or one token.
        """
        if sampling.temperature < 0 or min(k, sampling.max_new_tokens) < 1:
            raise InputError(f"cannot draw {k} answers with {sampling}; wanted at least one token")
        noise = Noise(seed, sampling.max_new_tokens)

        def run(places: Sequence[int], prompts: Sequence[Prompt]) -> list[list[Expression]]:
            greedy = sampling.temperature == 0
            uniforms = None if greedy else np.stack([noise.of(queries[i].id, k) for i in places])
            drawn = draw(
                self._net,
                prompts,
                uniforms,
                sampling.temperature,
                sampling.max_new_tokens,
                self._wording.end,
            )
            return [
                [self._expression(one, source) for one in row] * (k if greedy else 1)
                for row in drawn
            ]

        return self._each(queries, run)

    def score(self, queries: Sequence[Query], texts: Sequence[str]) -> list[float | Failure]:
        """log π(text + end | query) in nats at temperature 1, one text a query."""
        answers = [(self._wording.answer(text),) for text in texts]
        scores = self._scores(queries, answers)
        return [value if isinstance(value, Failure) else value[0] for value in scores]

    def score_pairs(
        self, queries: Sequence[Query], chosen: Sequence[str], rejected: Sequence[str]
    ) -> list[tuple[float, float] | Failure]:
        """log π of two texts a query, in one packed pass: the reference side of ISR eq. 8."""
        answer = self._wording.answer
        answers = [(answer(one), answer(two)) for one, two in zip(chosen, rejected, strict=True)]
        scores = self._scores(queries, answers)
        return [value if isinstance(value, Failure) else (value[0], value[1]) for value in scores]

    def sft_loss(self, batch: Sequence[Demonstration]) -> torch.Tensor:
        """Mean over the batch's answer tokens of −log π(s | p) (ISR eq. 3), a scalar with gradient.

        Raises ImageError where a picture cannot be read, InputError where a name is refused.
        """
        logprobs, _ = answer_logprobs(self._net, self._rows(batch), self._checkpointing)
        return sft_loss(logprobs)

    def dpo_loss(self, batch: Sequence[Preference], beta: float) -> torch.Tensor:
        """Mean over the batch of the DPO loss (ISR eq. 8), a scalar with gradient.

        The reference is what the examples carry. Raises what `sft_loss` raises.
        """
        logprobs, owners = answer_logprobs(self._net, self._rows(batch), self._checkpointing)
        chosen, rejected = sum_by_answer(logprobs, owners, 2 * len(batch)).view(-1, 2).unbind(1)
        reference = [(example.ref_chosen_logp, example.ref_rejected_logp) for example in batch]
        ref_chosen, ref_rejected = logprobs.new_tensor(reference).unbind(1)
        return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)

    def _rows(self, examples: Sequence[Demonstration | Preference]) -> list[Row]:
        images = self._features.get(example.query.image for example in examples)
        rows = []
        for example in examples:
            prompt = self._prompt(example.query, images[example.query.image])
            if isinstance(prompt, Failure):
                kind = ImageError if prompt.stage == "image" else InputError
                raise kind(f"{example.query.id}: {prompt.reason}")
            texts = (
                (example.expression,)
                if isinstance(example, Demonstration)
                else (example.chosen, example.rejected)
            )
            rows.append(Row(prompt, tuple(map(self._wording.answer, texts))))
        return rows

    def _prompt(self, query: Query, image: Any) -> Prompt | Failure:
        return image if isinstance(image, Failure) else self._wording.prompt(query, image)

    def _expression(self, drawn: Drawn, source: str) -> Expression:
        return Expression(self._wording.text(drawn.tokens), source, drawn.logprob)

    def _scores(
        self, queries: Sequence[Query], answers: Sequence[tuple[tuple[int, ...], ...]]
    ) -> list[list[float] | Failure]:
        if len(answers) != len(queries):
            raise InputError(
                f"got {len(answers)} answers to {len(queries)} queries; wanted as many"
            )

        def run(places: Sequence[int], prompts: Sequence[Prompt]) -> list[list[float]]:
            rows = [Row(prompt, answers[i]) for i, prompt in zip(places, prompts, strict=True)]
            logprobs, owners = answer_logprobs(self._net, rows)
            many = len(rows[0].answers)
            scores: list[list[float]] = (
                sum_by_answer(logprobs.double(), owners, many * len(rows)).view(-1, many).tolist()
            )
            return scores

        return self._each(queries, run)

    def _each(
        self,
        queries: Sequence[Query],
        run: Callable[[Sequence[int], Sequence[Prompt]], list[T]],
    ) -> list[T | Failure]:
        """Run batches of prompts of like length; results come back in the order of the queries."""
        results: dict[int, T | Failure] = {}
        with lora.merged(self.model):
            for start in range(0, len(queries), _CHUNK * self._batch_size):
                places = range(start, min(start + _CHUNK * self._batch_size, len(queries)))
                images = self._features.get(queries[place].image for place in places)
                ready: list[tuple[int, Prompt]] = []
                for place in places:
                    query = queries[place]
                    prompt = self._prompt(query, images[query.image])
                    if isinstance(prompt, Failure):
                        results[place] = prompt
                    else:
                        ready.append((place, prompt))
                ready.sort(key=lambda item: len(item[1].ids))
                for batch in _batches(ready, self._batch_size):
                    spots, prompts = zip(*batch, strict=True)
                    results.update(zip(spots, run(spots, prompts), strict=True))
        return [results[place] for place in range(len(queries))]


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
