"""Florence-2 as a grounder, as published: a phrase and location tokens, read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from groundling.errors import InputError
from groundling.models.base import GroundingExample
from groundling.models.detectors.boxes import LocationGrid
from groundling.models.detectors.opening import (
    Picture,
    PictureReader,
    open_detector,
    save_detector,
    seen_once,
    states_of,
)
from groundling.models.grounding import (
    NO_NUMBER,
    ON_CPU,
    Asked,
    Compute,
    distinct_pictures,
    ground_batches,
)
from groundling.records import Failure, Grounded

Task = Literal["<OPEN_VOCABULARY_DETECTION>", "<CAPTION_TO_PHRASE_GROUNDING>"]
"""The tasks of Florence-2 that answer a text with boxes."""

_ANSWER = re.compile("(W+(LLLL)+)+")
_SHOWN = 120
"""Characters of an unreadable answer that an error repeats."""


class FlorenceGrounder:
    """A grounder over Florence-2, zero-shot; implements `groundling.models.base.Grounder`.

    The task is open-vocabulary detection ("Locate … in the image."): it takes the expression as the
    description of one region, as referring segmentation does in the same words ("… with mask").
    Phrase grounding answers every noun phrase of a caption, landmarks too ("the dog" in "the man
    beside the dog"). Of several boxes the first is the answer: it is the model's own first choice,
    boxes have no scores, and a union or the largest would belong to no single object.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        compute: Compute = ON_CPU,
        *,
        task: Task = "<OPEN_VOCABULARY_DETECTION>",
        beams: int = 3,
        max_new_tokens: int = 1024,
    ) -> None:
        """From a model and a processor in memory; see `load` for the rest. Raises InputError."""
        self.model = model
        self.processor = processor
        self.beams = beams
        self.max_new_tokens = max_new_tokens
        self.batch_size = compute.batch_size
        self.grid = LocationGrid()
        self.pictures = PictureReader(_squeezing(processor.image_processor), compute.opener)
        self._template: str = processor.task_prompts_with_input[task]
        tokenizer = processor.tokenizer
        added = tokenizer.get_added_vocab()
        missing = [n for n in (0, self.grid.bins - 1) if f"<loc_{n}>" not in added]
        if missing:
            raise InputError(f"the tokenizer has no token <loc_{missing[0]}>; wanted Florence-2's")
        self._bins = {added[f"<loc_{n}>"]: n for n in range(self.grid.bins)}
        self._special = {*added.values(), *tokenizer.all_special_ids}

    @classmethod
    def load(
        cls,
        folder_or_hub_name: str | Path,
        compute: Compute = ON_CPU,
        *,
        task: Task = "<OPEN_VOCABULARY_DETECTION>",
        beams: int = 3,
        max_new_tokens: int = 1024,
    ) -> FlorenceGrounder:
        """Open a checkpoint: a folder, or a repository laid out for transformers' own Florence-2.

        Those of `florence-community` are; code of a repository is never run. `beams` 1 is greedy;
        3 beams and 1024 new tokens are the published decoding. Pictures are squeezed to the
        checkpoint's square, so there is no limit of pixels to set. Raises InputError.
        """
        classes = {"florence2": Florence2ForConditionalGeneration}
        model, processor = open_detector(folder_or_hub_name, classes, compute)
        return cls(model, processor, compute, task=task, beams=beams, max_new_tokens=max_new_tokens)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration, tokenizer and picture settings."""
        save_detector(folder, self.model, self.processor)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Nothing: this grounder is used as published."""
        return {}

    def module(self) -> nn.Module:
        """The model, of which nothing trains."""
        module: nn.Module = self.model
        return module

    def loss(self, batch: Sequence[GroundingExample]) -> Tensor:
        """There is none. Raises InputError."""
        del batch
        raise InputError(
            "grounder.backend florence2 cannot be fine-tuned here; set grounder.tune to false, or "
            "take dino, ofa, vlm or tiny"
        )

    @torch.no_grad()
    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        """One box per (image path, expression), scored by P(its four tokens | what came before).

        A request that occurs twice is computed once, as is a picture with several expressions in a
        batch. A picture that cannot be read is a Failure of stage "image", an empty expression one
        of stage "ground", and an answer that is anything but phrases with boxes one of "parse".
        """
        self.model.eval()
        asked = [(path, " ".join(expression.split())) for path, expression in requests]
        return ground_batches(asked, self.pictures.read, self._answer, self.batch_size)

    def _answer(self, batch: Sequence[Asked[str, Picture]]) -> list[Grounded | Failure]:
        """The answers to distinct requests for readable pictures."""
        device, dtype = self.model.device, self.model.dtype
        _, which = distinct_pictures(batch)
        input_ids, mask = (
            part.to(device) for part in self._prompts([expression for (_, expression), _ in batch])
        )
        pixels = torch.stack([picture.pixels for _, picture in batch])
        net = self.model.model
        with (
            seen_once(net.vision_tower, which, device),
            states_of(net.language_model.encoder) as encoded,
        ):
            said = self.model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                pixel_values=pixels.to(device, dtype),
                do_sample=False,
                num_beams=self.beams,
                max_new_tokens=self.max_new_tokens,
            )
        places = [self._first_box(row) for row in said[:, 1:].tolist()]  # the first starts it off
        begins = [0 if isinstance(place, Failure) else place for place in places]
        tokens, scores = self._four(encoded[0], mask, said, begins)
        found: list[Grounded | Failure] = []
        for place, four, score, (_, picture) in zip(places, tokens, scores, batch, strict=True):
            if not math.isfinite(score):
                found.append(Failure(NO_NUMBER, "model"))
                continue
            if isinstance(place, Failure):
                found.append(place)
                continue
            box = self.grid.to_pixels([self._bins[token] for token in four], picture.size_wh_px)
            found.append(box if isinstance(box, Failure) else Grounded(box, score))
        return found

    def _four(
        self, encoded: Tensor, mask: Tensor, said: Tensor, begins: Sequence[int]
    ) -> tuple[list[list[int]], list[float]]:
        """The four tokens of each answer that begin at a place, and P(they | what comes before).

        One more pass of the decoder over the answers (B, L): the scores that generation could keep
        are a whole vocabulary for each token of each beam, 40 GB where one answer of 64 runs on.
        """
        states = self.model.model(
            encoder_outputs=BaseModelOutput(encoded),
            attention_mask=mask,
            decoder_input_ids=said[:, :-1],
        ).last_hidden_state
        rows = torch.arange(len(said), device=said.device)[:, None]
        spots = torch.tensor(begins, device=said.device)[:, None] + torch.arange(
            4, device=said.device
        )
        spots = spots.clamp(max=states.shape[1] - 1)  # for those that hold no box
        tokens = said[rows, spots + 1]
        logprobs = self.model.lm_head(states[rows, spots]).float().log_softmax(-1)
        scores = logprobs.gather(-1, tokens[..., None]).sum((1, 2)).exp()
        return tokens.tolist(), scores.tolist()

    def _prompts(self, expressions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Expressions → tokens (B, L), padded right, and their mask.

        A row is the picture's places, <s>, the task in its words, </s>. A special token that an
        expression spells, such as <loc_5>, is left out; what is too long for the encoder is cut.
        """
        tokenizer = self.processor.tokenizer
        ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
        places = [self.processor.image_token_id] * self.processor.num_image_tokens
        room = self.model.config.text_config.max_position_embeddings - len(places) - len(ends)
        rows = []
        for expression in expressions:
            words = self._template.format(input=expression)
            ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
            kept = [token for token in ids if token not in self._special]
            rows.append([*places, ends[0], *kept[:room], ends[1]])
        tokens = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return tokens, mask

    def _first_box(self, row: Sequence[int]) -> int | Failure:
        """Where in an answer the four location tokens of its first box begin.

        The answer is `(phrase box box …)`, once or more, and the end: anything else is a Failure.
        """
        start, end = self.processor.tokenizer.bos_token_id, self.processor.tokenizer.eos_token_id
        if end not in row[: self.max_new_tokens - 1]:  # at the limit, generation may force an end
            return Failure(f"the answer was cut off after {len(row)} tokens", "parse")
        said = row[: row.index(end)]
        skipped = int(said[:1] == [start])
        kinds = "".join(self._kind(token) for token in said[skipped:])
        if not _ANSWER.fullmatch(kinds):
            shown = self.processor.tokenizer.decode(said[skipped:])
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
            return Failure(f"the answer is not phrases with boxes of four: {shown!r}", "parse")
        return skipped + kinds.index("L")

    def _kind(self, token: int) -> str:
        """L for a location, W for a piece of a word, S for any other special token."""
        return "L" if token in self._bins else "S" if token in self._special else "W"


def _squeezing(image_processor: Any) -> Any:
    """The image processor, if it shows the model the whole picture. Raises InputError."""
    size = image_processor.size
    square = size.get("height") and size.get("width")
    if getattr(image_processor, "do_center_crop", False) or not square:
        raise InputError(
            "the image processor crops pictures or keeps their aspect; wanted Florence-2's, which "
            "squeezes them to one height and width"
        )
    return image_processor
