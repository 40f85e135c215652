"""Multimodal language models that write boxes: as a grounder, and for entities directly.

The grounder answers an expression (ISR Table 4, the row with Qwen2-VL); the direct grounder
answers an entity with a box or "absent" (ISR Table 1, prompt A.3). Both are a `Chat` whose answers
are read in the convention of its family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from groundling.errors import ImageError
from groundling.images import PictureKey, picture_key
from groundling.losses import sft_loss
from groundling.models import lora
from groundling.models.base import DirectExample, GroundingExample, Sampling
from groundling.models.chat import Chat, Said
from groundling.models.coordinates import Frame, inside_picture
from groundling.models.engines import Ask
from groundling.prompts import ask_for_box, entity_phrase, locate_messages
from groundling.records import ABSENT, Box, Failure, Grounded, Prediction, Query


class _BoxChat:
    """A chat that answers with boxes; its adapter is what trains."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self._words = chat.family.box_text
        self._sampling = Sampling(temperature=0.0, max_new_tokens=self._words.longest)
        self._frames: dict[PictureKey, Frame] = {}

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters, by name in the PEFT model."""
        return lora.parameters(self.chat.model)

    def module(self) -> torch.nn.Module:
        """The PEFT model."""
        module: torch.nn.Module = self.chat.model
        return module

    def save(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout; the base weights stay where they are."""
        lora.save(self.chat.model, folder)

    def _read(self, asks: Sequence[Ask]) -> list[tuple[Box | None, float] | Failure]:
        """The greedy answer to each question, a box or "absent", and its probability."""
        drawn = self.chat.draw(asks, [""] * len(asks), 1, self._sampling, seed=0)
        return [
            row if isinstance(row, Failure) else self._box(ask, row[0])
            for ask, row in zip(asks, drawn, strict=True)
        ]

    def _box(self, ask: Ask, said: Said) -> tuple[Box | None, float] | Failure:
        if said.logprob is None:
            most = self._sampling.max_new_tokens
            return Failure(f"the answer was cut off after {most} tokens", "parse", "cut")
        box = self._words.read(said.text, self._frame(ask.image))
        return box if isinstance(box, Failure) else (box, math.exp(said.logprob))

    def _text(self, ask: Ask, box: Box | None) -> str:
        """The answer to learn. Raises ImageError, and InputError for a box outside its picture."""
        if box is None:
            return ABSENT
        frame = self._frame(ask.image)
        inside = inside_picture(box, frame.original_wh_px, f"{ask.told}: {ask.image}")
        return self._words.write(inside, frame)

    def _loss(self, asks: Sequence[Ask], boxes: Sequence[Box | None]) -> torch.Tensor:
        texts = [(self._text(ask, box),) for ask, box in zip(asks, boxes, strict=True)]
        return sft_loss(self.chat.token_logprobs(asks, texts)[0])

    def _frame(self, image: str) -> Frame:
        """The sizes of a picture. Raises ImageError, also for a shape that the family refuses."""
        key = picture_key(image)
        if key not in self._frames:
            size = self.chat.open_image(image).size
            try:
                self._frames[key] = Frame(size, self.chat.given_wh_px(size))
            except ValueError as fault:
                raise ImageError(f"{image}: {fault}; crop it or fill it up") from fault
        return self._frames[key]


class VlmGrounder(_BoxChat):
    """Implements `models.base.Grounder` with a chat that asks with `VlmGrounder.QUESTION`."""

    QUESTION = staticmethod(locate_messages)

    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        """One box per (image path, expression); `score` is the probability of the answer."""
        asks = [Ask(image, expression) for image, expression in requests]
        found: list[Grounded | Failure] = []
        for answer in self._read(asks):
            if isinstance(answer, Failure):
                found.append(answer)
            elif answer[0] is None:
                found.append(Failure("the grounder says that nothing is there", "parse", "absent"))
            else:
                found.append(Grounded(answer[0], answer[1]))
        return found

    def loss(self, batch: Sequence[GroundingExample]) -> torch.Tensor:
        """Mean over the batch's answer tokens of −log P(v | I, s) (ISR eq. 2), with gradient.

        Raises ImageError where a picture cannot be read, InputError for a box outside its picture.
        """
        asks = [Ask(example.image, example.expression) for example in batch]
        return self._loss(asks, [example.box for example in batch])


class VlmDirectGrounder(_BoxChat):
    """Implements `models.base.DirectLearner` with a chat that asks with prompt A.3."""

    QUESTION = staticmethod(ask_for_box)

    def prepare(self, images: Sequence[str]) -> list[Failure | None]:
        """Compute and keep pictures' features where that helps; see `LocalWriter.prepare`."""
        failures = self.chat.engine.keep(images)
        return [failures.get(path) for path in images]

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Prediction | Failure]]:
        """A prediction for each query, in order; `box` None where the model says "absent"."""
        answers = self._read([_ask(query) for query in queries])
        for place, (query, found) in enumerate(zip(queries, answers, strict=True)):
            if isinstance(found, Failure):
                yield place, found
            else:
                yield place, Prediction(query.name, query.type, found[0], score=found[1])

    def answer_tokens(self, example: DirectExample) -> int:
        """Tokens of an example's answer with its end."""
        return len(self.chat.wording.answer(self._text(_ask(example.query), example.box)))

    def loss(self, batch: Sequence[DirectExample]) -> torch.Tensor:
        """Mean over the batch's answer tokens of −log π(answer | A.3), with gradient.

        Raises ImageError where a picture cannot be read, InputError for a box outside its picture.
        """
        return self._loss([_ask(one.query) for one in batch], [one.box for one in batch])


def _ask(query: Query) -> Ask:
    return Ask(query.image, entity_phrase(query.name, query.type), query.id)
