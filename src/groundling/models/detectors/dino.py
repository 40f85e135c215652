"""Grounding DINO and MM-Grounding-DINO as grounders: the query that fits the phrase best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection

from groundling.errors import InputError
from groundling.models.base import GroundingExample
from groundling.models.coordinates import Size, inside_picture
from groundling.models.detectors.boxes import CentreBox
from groundling.models.detectors.dino_loss import Target, Weights, grounding_loss
from groundling.models.detectors.opening import (
    Picture,
    PictureReader,
    open_detector,
    save_detector,
    seen_once,
)
from groundling.models.detectors.phrases import Phrase, PhraseBatch, PhraseReader
from groundling.models.grounding import (
    NO_NUMBER,
    ON_CPU,
    Asked,
    Compute,
    distinct_pictures,
    ground_batches,
)
from groundling.records import Failure, Grounded
from groundling.team import keep_whole

_CLASSES = {
    "grounding-dino": GroundingDinoForObjectDetection,
    "mm-grounding-dino": MMGroundingDinoForObjectDetection,
}
_CELL_PX = 8
"""Side of the finest cells that the model sees, in the published models."""

PhraseScore = Literal["mean", "max"]
"""How the scores of a phrase's tokens make the score of the phrase."""


class DinoGrounder:
    """A grounder over either model; implements `groundling.models.base.Grounder`.

    Each of the model's queries has a box and a score in [0, 1] for each token of the text. The
    score of the phrase is that of its best token, neither [CLS], full stop nor [SEP]: so its
    authors chose the box of a referring expression. "mean" is over the phrase's tokens: what the
    matching of the loss asks for, and what no single word ("woman" in "the plant behind the
    woman") can win alone.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        compute: Compute = ON_CPU,
        *,
        max_pixels: int | None = None,
        phrase_score: PhraseScore = "max",
        pad: bool = False,
    ) -> None:
        """From a model and a processor in memory; see `load` for the rest. Raises InputError."""
        self.model = model
        self.processor = processor
        self.batch_size = compute.batch_size
        self.phrase_score = phrase_score
        self.pad = pad
        self._weights = Weights.of(model.config)
        limit = min(model.config.max_text_len, model.config.text_config.max_position_embeddings)
        self.phrases = PhraseReader(processor.tokenizer, limit)
        settings = {"do_pad": False, **_limited(processor.image_processor.size, max_pixels)}
        self.pictures = PictureReader(processor.image_processor, compute.opener, **settings)
        model.loss_function = _every_layer
        keep_whole(model)  # a batch takes as many passes as it has shapes of pictures

    @classmethod
    def load(
        cls,
        folder_or_hub_name: str | Path,
        compute: Compute = ON_CPU,
        *,
        max_pixels: int | None = None,
        phrase_score: PhraseScore = "max",
        pad: bool = False,
    ) -> DinoGrounder:
        """Open a checkpoint: a folder, or a repository such as `IDEA-Research/grounding-dino-base`.

        Of a batch, pictures of one shape go through the model together, in training too; `pad` has
        all go together, padded right and below: fewer, larger steps, but the company may change an
        answer. `max_pixels` bounds the area of a resized picture; None leaves the checkpoint's rule
        (as published: the shorter side 800 px, the longer at most 1333). Raises InputError.
        """
        model, processor = open_detector(folder_or_hub_name, _CLASSES, compute)
        return cls(
            model, processor, compute, max_pixels=max_pixels, phrase_score=phrase_score, pad=pad
        )

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration, tokenizer and picture settings."""
        save_detector(folder, self.model, self.processor)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every weight that the model does not freeze itself, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def module(self) -> nn.Module:
        """The model."""
        module: nn.Module = self.model
        return module

    def loss(self, batch: Sequence[GroundingExample]) -> Tensor:
        """Mean over the batch of the loss of all outputs (a surrogate of ISR eq. 2), with gradient.

        Outputs are the decoder's layers and the encoder's proposals; `dino_loss` says what each is
        taught. The part of a gold box outside its picture is left out. Leaves the model in training
        mode. Raises ImageError for a picture that cannot be read and InputError for a box that
        lies outside its picture and an expression without words.
        """
        self.model.train()
        read = {path: self.pictures.read(path) for path in dict.fromkeys(e.image for e in batch)}
        pictures = [read[example.image] for example in batch]
        phrases = [self._phrase(example) for example in batch]
        gold = [_gold(example, read[example.image].size_wh_px) for example in batch]
        total = torch.zeros((), device=self.model.device)
        for rows in self._groups(pictures):
            tokens = self.phrases.batch([phrases[row] for row in rows])
            seen = self._forward([pictures[row] for row in rows], tokens, labels=[])
            boxes = torch.tensor([gold[row] for row in rows])
            target = Target(boxes, tokens.phrase, tokens.text).to(self.model.device)
            for logits, boxes in [*seen.auxiliary_outputs, *_proposals(seen, self.model.config)]:
                value = grounding_loss(logits.float(), boxes.float(), target, self._weights)
                total = total + value * (len(rows) / len(batch))
        return total

    @torch.no_grad()
    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        """The best box per (image path, expression), with the score of the phrase.

        A request that occurs twice is computed once, as is the backbone's view of a picture with
        several expressions in a batch. Leaves the model in evaluation mode. A picture that cannot
        be read is a Failure of stage "image", an expression without words one of stage "ground".
        """
        self.model.eval()
        asked = [(path, self.phrases.read(expression)) for path, expression in requests]
        return ground_batches(asked, self.pictures.read, self._answer, self.batch_size)

    def _answer(self, batch: Sequence[Asked[Phrase, Picture]]) -> list[Grounded | Failure]:
        """The answers to distinct requests for readable pictures."""
        answers: dict[int, Grounded | Failure] = {}
        for rows in self._groups([picture for _, picture in batch]):
            answers.update(zip(rows, self._together([batch[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(batch))]

    def _together(self, batch: Sequence[Asked[Phrase, Picture]]) -> Iterator[Grounded | Failure]:
        """The answers of one pass of the model."""
        _, which = distinct_pictures(batch)
        tokens = self.phrases.batch([phrase for (_, phrase), _ in batch])
        with seen_once(self.model.model.backbone, which, self.model.device):
            seen = self._forward([picture for _, picture in batch], tokens)
        scores = phrase_scores(
            seen.logits.float(), tokens.phrase.to(seen.logits.device), self.phrase_score
        )
        best = scores.argmax(-1)
        rows = torch.arange(len(best), device=best.device)
        chosen = seen.pred_boxes[rows, best].float().tolist()
        for (_, picture), four, score in zip(
            batch, chosen, scores[rows, best].tolist(), strict=True
        ):
            if not all(map(math.isfinite, (*four, score))):
                yield Failure(NO_NUMBER, "model")
                continue
            box = CentreBox(*four).to_pixels(picture.size_wh_px)
            yield box if isinstance(box, Failure) else Grounded(box, score)

    def _phrase(self, example: GroundingExample) -> Phrase:
        phrase = self.phrases.read(example.expression)
        if not phrase:
            raise InputError(f"{example.image}: no words in {example.expression!r}")
        return phrase

    def _groups(self, pictures: Sequence[Picture]) -> list[list[int]]:
        """The rows of a batch that go through the model together."""
        groups: dict[Any, list[int]] = {}
        for row, picture in enumerate(pictures):
            groups.setdefault(None if self.pad else picture.pixels.shape, []).append(row)
        return list(groups.values())

    def _forward(self, pictures: Sequence[Picture], tokens: PhraseBatch, **more: Any) -> Any:
        pixels, mask = pad_right(pictures, self.model.config.num_queries * _CELL_PX**2)
        device = self.model.device
        return self.model(
            pixel_values=pixels.to(device, self.model.dtype),
            pixel_mask=mask.to(device),
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            **more,
        )


def _gold(example: GroundingExample, size_wh_px: Size) -> tuple[float, float, float, float]:
    """The gold box as the model writes it. Raises InputError for one outside its picture."""
    box = CentreBox.of(inside_picture(example.box, size_wh_px, example.image), size_wh_px)
    return box.cx, box.cy, box.w, box.h


def pad_right(pictures: Sequence[Picture], least_area: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures → (B, 3, H, W), padded with 0 at the right and below, and a mask (B, H, W).

    `least_area` is what H × W must reach: a model with Q queries cannot look at fewer cells.
    """
    height = max(picture.pixels.shape[1] for picture in pictures)
    width = max(picture.pixels.shape[2] for picture in pictures)
    if height * width < least_area:
        height, width = _grown(height, width, least_area)
    pixels = torch.zeros(len(pictures), 3, height, width)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.long)
    for i, picture in enumerate(pictures):
        _, h, w = picture.pixels.shape
        pixels[i, :, :h, :w] = picture.pixels
        mask[i, :h, :w] = 1
    return pixels, mask


def _grown(height: int, width: int, least_area: int) -> tuple[int, int]:
    """The sides with the shorter one made long enough."""
    if height <= width:
        return max(height, math.ceil(least_area / width)), width
    return height, max(width, math.ceil(least_area / height))


def phrase_scores(logits: Tensor, phrase: Tensor, how: PhraseScore) -> Tensor:
    """Token logits (B, Q, T) and tokens of the phrase (B, T) → scores (B, Q) in [0, 1]."""
    of_tokens = logits.sigmoid().masked_fill(~phrase[:, None, :], 0.0)
    if how == "max":
        return of_tokens.amax(-1)
    return of_tokens.sum(-1) / phrase.sum(-1, keepdim=True)


def _limited(size: Any, max_pixels: int | None) -> dict[str, Any]:
    """The checkpoint's rule of resizing, both its sides scaled so that no area exceeds a bound."""
    if max_pixels is None:
        return {}
    shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
    if shortest is None or longest is None:
        raise InputError(
            f"max_pixels is no limit to pictures resized to {dict(size)}; leave it out"
        )
    scale = min(1.0, math.sqrt(max_pixels / (shortest * longest)))
    return {"size": {"shortest_edge": int(shortest * scale), "longest_edge": int(longest * scale)}}


def _every_layer(*_: Any, outputs_class: Tensor, outputs_coord: Tensor, **__: Any) -> Any:
    """In place of the library's loss, whose labels go wrong from the third example of a batch on:
    no loss, but the token logits and the boxes of every decoder layer.
    """
    return None, None, list(zip(outputs_class, outputs_coord, strict=True))


def _proposals(seen: Any, config: Any) -> list[tuple[Tensor, Tensor]]:
    """What the encoder proposes to the decoder: logits (B, Q, T) and boxes (B, Q, 4), undetached.

    The library's own `encoder_logits` score the decoder's learnt queries and its
    `encoder_pred_boxes` have no gradient, so neither would teach the encoder.
    """
    if not config.two_stage:
        return []
    logits, coordinates = seen.enc_outputs_class, seen.enc_outputs_coord_logits
    best = logits.detach().amax(-1).topk(config.num_queries, dim=1).indices[..., None]
    return [
        (
            logits.gather(1, best.expand(-1, -1, logits.shape[-1])),
            coordinates.gather(1, best.expand(-1, -1, 4)).sigmoid(),
        )
    ]
