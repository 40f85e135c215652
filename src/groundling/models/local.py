"""The writer that runs in this process, the policy π: any supported family with one adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from groundling.losses import dpo_loss, sft_loss
from groundling.models import lora
from groundling.models.base import Demonstration, Preference, Sampling
from groundling.models.chat import Adapter, Chat, Resources
from groundling.models.checkpoints import read_known_names
from groundling.models.engines import Ask
from groundling.models.packing import sum_by_answer
from groundling.prompts import ask_for_expression, entity_phrase
from groundling.records import EntityType, Expression, Failure, Query

__all__ = ["Adapter", "LocalWriter", "Resources"]


class LocalWriter:
    """Implements `models.base.Writer` over transformers and PEFT: prompt A.2 put to a `Chat`."""

    QUESTION = staticmethod(ask_for_expression)

    def __init__(
        self, chat: Chat, known_names: frozenset[tuple[str, EntityType]] | None = None
    ) -> None:
        """Use `from_parts` or `load`; `chat` asks with `LocalWriter.QUESTION`."""
        self.chat = chat
        self._known_names = known_names

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
        """A writer from a model and processor in memory; see `Chat`."""
        return cls(Chat(model, processor, cls.QUESTION, adapter, resources), known_names)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        adapter: Adapter | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        four_bit: bool = False,
        resources: Resources | None = None,
    ) -> LocalWriter:
        """A writer from a checkpoint folder or hub name; see `Chat.load`.

        A folder may hold `known_names.json`, a list of [name, type], for `knows`. Raises
        DataError for a bad one.
        """
        chat = Chat.load(
            checkpoint,
            cls.QUESTION,
            adapter=adapter,
            device=device,
            dtype=dtype,
            four_bit=four_bit,
            resources=resources,
        )
        return cls(chat, read_known_names(Path(checkpoint) / "known_names.json"))

    @property
    def model(self) -> Any:
        """The PEFT model."""
        return self.chat.model

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters, by name in the PEFT model."""
        return lora.parameters(self.model)

    def module(self) -> torch.nn.Module:
        """The PEFT model, as a module."""
        module: torch.nn.Module = self.model
        return module

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

        Where the memory allowed does not hold them all, or nothing is kept for this family, none
        is reported.
        """
        failures = self.chat.engine.keep(images)
        return [failures.get(path) for path in images]

    def length(self, example: Demonstration | Preference) -> int:
        """Tokens that an example takes in a batch: picture, prompt and answers.

        Raises ImageError where its picture cannot be read.
        """
        row = self.chat.rows([_ask(example.query)], [_texts(example)])[0]
        return len(row.prompt.ids) + sum(len(answer) for answer in row.answers)

    def answer_tokens(self, text: str) -> int:
        """Tokens of an answer with its end."""
        return len(self.chat.wording.answer(text))

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """K expressions a query (ISR eq. 6), in order; a Failure where the query cannot be run.

        See `Chat.draw`; a query's key is its id. `logprob` is None, too, where an answer ended with
        another token than `score` puts at its end.
        """
        keys = [query.id for query in queries]
        drawn = self.chat.draw([_ask(query) for query in queries], keys, k, sampling, seed)
        return [
            row
            if isinstance(row, Failure)
            else [
                Expression(one.text, source, one.logprob if one.usual_end else None) for one in row
            ]
            for row in drawn
        ]

    def score(self, queries: Sequence[Query], texts: Sequence[str]) -> list[float | Failure]:
        """log π(text + end | query) in nats at temperature 1, one text a query."""
        scores = self.chat.scores([_ask(query) for query in queries], [(text,) for text in texts])
        return [value if isinstance(value, Failure) else value[0] for value in scores]

    def score_pairs(
        self, queries: Sequence[Query], chosen: Sequence[str], rejected: Sequence[str]
    ) -> list[tuple[float, float] | Failure]:
        """log π of two texts a query, in one packed pass: the reference side of ISR eq. 8."""
        pairs = list(zip(chosen, rejected, strict=True))
        scores = self.chat.scores([_ask(query) for query in queries], pairs)
        return [value if isinstance(value, Failure) else (value[0], value[1]) for value in scores]

    def sft_loss(self, batch: Sequence[Demonstration]) -> torch.Tensor:
        """Mean over the batch's answer tokens of −log π(s | p) (ISR eq. 3), a scalar with gradient.

        Raises ImageError where a picture cannot be read, InputError where a name is refused.
        """
        return sft_loss(self._logprobs(batch)[0])

    def dpo_loss(self, batch: Sequence[Preference], beta: float) -> torch.Tensor:
        """Mean over the batch of the DPO loss (ISR eq. 8), a scalar with gradient.

        The reference is what the examples carry. Raises what `sft_loss` raises.
        """
        logprobs, owners = self._logprobs(batch)
        chosen, rejected = sum_by_answer(logprobs, owners, 2 * len(batch)).view(-1, 2).unbind(1)
        reference = [(example.ref_chosen_logp, example.ref_rejected_logp) for example in batch]
        ref_chosen, ref_rejected = logprobs.new_tensor(reference).unbind(1)
        return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)

    def _logprobs(
        self, batch: Sequence[Demonstration | Preference]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        asks = [_ask(example.query) for example in batch]
        return self.chat.token_logprobs(asks, [_texts(example) for example in batch])


def _ask(query: Query) -> Ask:
    return Ask(query.image, entity_phrase(query.name, query.type), query.id)


def _texts(example: Demonstration | Preference) -> tuple[str, ...]:
    if isinstance(example, Demonstration):
        return (example.expression,)
    return (example.chosen, example.rejected)
