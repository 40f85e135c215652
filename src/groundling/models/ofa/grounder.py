"""The OFA grounder: picture + expression → box, as in OFA's referring-expression task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own short name

from groundling.errors import InputError
from groundling.models.base import GroundingExample
from groundling.models.coordinates import Size, inside_picture
from groundling.models.grounding import (
    NO_NUMBER,
    ON_CPU,
    Asked,
    Compute,
    distinct_pictures,
    ground_batches,
)
from groundling.models.ofa.boxes import BinGrid
from groundling.models.ofa.checkpoints import find_folder, open_model
from groundling.models.ofa.config import published, size_of
from groundling.models.ofa.decoder import CODE_ONLY
from groundling.models.ofa.inputs import CLOSING, clean_expression, prompt, squeeze
from groundling.models.ofa.model import OFAModel
from groundling.models.ofa.search import beam_search
from groundling.models.ofa.tokenizer import END, OFATokenizer
from groundling.models.opening import save_model, usable_device
from groundling.records import Failure, Grounded

Squeezed = tuple[torch.Tensor, Size]
"""A picture as the model sees it, (3, side, side), and its own size."""


class OFAGrounder:
    """A grounder over `OFAModel`; implements `groundling.models.base.Grounder`.

    Fine-tuning follows OFA's own recipe for referring expressions: cross entropy over the whole
    vocabulary and all five target tokens (four bins and the end), label smoothing 0.1, drop-path
    0.2 in the transformer layers and the checkpoint's dropout. The trunk's batch norms are *not*
    frozen there: they normalise by each batch and their running statistics move along.
    `freeze_batch_norm` keeps statistics, scale and shift as they are, as OFA's `--freeze-resnet`.
    """

    def __init__(
        self,
        model: OFAModel,
        tokenizer: OFATokenizer,
        compute: Compute = ON_CPU,
        *,
        side_px: int,
        beams: int = 5,
        label_smoothing: float = 0.1,
        constrained: bool = True,
        freeze_batch_norm: bool = False,
    ) -> None:
        """`side_px` is the square that pictures are squeezed to; see `load` for the rest."""
        config = model.config
        if len(tokenizer) != config.vocab_size or tokenizer.bins != config.num_bins:
            raise InputError(
                f"a vocabulary of {len(tokenizer)} tokens with {tokenizer.bins} bins, a model of "
                f"{config.vocab_size} with {config.num_bins}; wanted those of one checkpoint"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.grid = BinGrid(side_px, config.num_bins, config.max_image_size)
        self.beams = beams
        self.label_smoothing = label_smoothing
        self.batch_size = compute.batch_size
        self.constrained = constrained
        self.freeze_batch_norm = freeze_batch_norm
        self.open_image = compute.opener
        self._norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        if freeze_batch_norm:
            for norm in self._norms:
                norm.requires_grad_(False)

    @classmethod
    def load(
        cls,
        folder_or_hub_name: str | Path,
        compute: Compute = ON_CPU,
        *,
        beams: int = 5,
        label_smoothing: float = 0.1,
        drop_path: float = 0.2,
        constrained: bool = True,
        patch_image_size: int | None = None,
        freeze_batch_norm: bool = False,
        gradient_checkpointing: bool = False,
    ) -> OFAGrounder:
        """Open a checkpoint: a folder, or a repository such as `OFA-Sys/ofa-large`.

        `beams` 1 is greedy. `constrained` confines answers to bins inside the picture; without it,
        as in OFA's own evaluation, a token that is no bin makes a Failure. `patch_image_size`
        overrides the square of the configuration; where that names none, the published size's is
        taken. Raises InputError.
        """
        device = usable_device(compute.device)
        folder = find_folder(folder_or_hub_name)
        tokenizer = OFATokenizer.from_pretrained(folder)
        model = open_model(folder, compute.dtype)
        side = patch_image_size or model.config.patch_image_size
        if side is None:
            size = size_of(model.config)
            side = None if size is None else published(size).patch_image_size
        if side is None:
            raise InputError(
                f"{folder}: config.json names no patch_image_size and the model has no published "
                "size; pass patch_image_size"
            )
        model.config.patch_image_size = side
        model.set_drop_path(drop_path)
        model.set_gradient_checkpointing(gradient_checkpointing)
        return cls(
            model.to(device),
            tokenizer,
            compute,
            side_px=side,
            beams=beams,
            label_smoothing=label_smoothing,
            constrained=constrained,
            freeze_batch_norm=freeze_batch_norm,
        )

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and vocabulary."""
        if save_model(self.model, folder):
            self.tokenizer.save_pretrained(folder)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters of grounding, by name, and what else a resumed fit must find again.

        What only the generation of image codes uses is left out. The running statistics of batch
        norms that are not frozen are here too, without gradient, so that a checkpoint of a fit
        holds them: they are the model's own tensors, not copies.
        """
        unused = tuple(f"decoder.{name}." for name in CODE_ONLY)
        found = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not name.startswith(unused)
        }
        if not self.freeze_batch_norm:
            for name, buffer in self.model.named_buffers():
                if name.startswith("encoder.embed_images."):
                    found[name] = nn.Parameter(buffer, requires_grad=False)
        return found

    def module(self) -> nn.Module:
        """The model."""
        return self.model

    def loss(self, batch: Sequence[GroundingExample]) -> torch.Tensor:
        """Mean smoothed −log P over the batch's 5 × B target tokens (ISR eq. 2), with gradient.

        Smoothing ε gives every wrong token of the vocabulary ε / (V − 1), as fairseq does. Leaves
        the model in training mode. Raises ImageError for a picture that cannot be read and
        InputError for a box outside its picture or an empty expression.
        """
        self.model.train()
        if self.freeze_batch_norm:
            for norm in self._norms:
                norm.eval()
        pixels, rows, targets = [], [], []
        for example in batch:
            picture, size = self._open(example.image)
            cleaned = clean_expression(example.expression)
            if not cleaned:
                raise InputError(f"{example.image}: the expression {example.expression!r} is empty")
            inside = inside_picture(example.box, size, example.image)
            bins = self.grid.bins_of(inside, size)
            pixels.append(picture)
            rows.append(self._prompt(cleaned))
            targets.append([*(self.tokenizer.first_bin + value for value in bins), END])
        device = self.model.device
        target = torch.tensor(targets, device=device)
        start = target.new_full((len(batch), 1), self.model.config.decoder_start_token_id or 0)
        logits = self.model(
            input_ids=self.tokenizer.batch(rows).to(device),
            patch_images=torch.stack(pixels).to(device),
            decoder_input_ids=torch.cat([start, target[:, :-1]], 1),
        ).logits
        vocabulary = logits.shape[-1]
        return F.cross_entropy(
            logits.flatten(0, 1).float(),
            target.flatten(),
            label_smoothing=self.label_smoothing * vocabulary / (vocabulary - 1),
        )

    @torch.no_grad()
    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        """One box per (image path, expression), scored by P(four bins and the end).

        A request that occurs twice is computed once, as is a picture with several expressions.
        Leaves the model in evaluation mode. A picture that cannot be read is a Failure of stage
        "image", an empty expression one of stage "ground".
        """
        self.model.eval()
        cleaned = [(path, clean_expression(expression)) for path, expression in requests]
        return ground_batches(cleaned, self._open, self._answer, self.batch_size)

    def _answer(self, batch: Sequence[Asked[str, Squeezed]]) -> Iterator[Grounded | Failure]:
        """The answers to distinct requests for readable pictures."""
        device = self.model.device
        pictures, places = distinct_pictures(batch)
        pixels = torch.stack([pixels for pixels, _ in pictures]).to(device)
        which = torch.tensor(places, device=device)
        rows = [self._prompt(cleaned) for (_, cleaned), _ in batch]
        tokens = self.tokenizer.batch(rows).to(device)
        patches = self.model.encoder.patches(pixels).select(which)
        allowed = None
        if self.constrained:
            allowed = torch.arange(self.grid.last + 1, device=device) + self.tokenizer.first_bin
        found = beam_search(
            self.model,
            self.model.encoder(tokens, patches),
            steps=4,
            beams=self.beams,
            allowed=allowed,
        )
        best, scores = found.tokens[:, 0].tolist(), found.logprobs[:, 0].exp().tolist()
        for (_, (_, size)), four, score in zip(batch, best, scores, strict=True):
            if not math.isfinite(score):
                yield Failure(NO_NUMBER, "model")
                continue
            bins = [self.tokenizer.bin_of(token) for token in four]
            box = self.grid.box_of(bins, size)
            yield box if isinstance(box, Failure) else Grounded(box, score)

    def _prompt(self, cleaned: str) -> list[int]:
        """The tokens of an instruction; an expression that would overflow the encoder is cut."""
        row, most = self.tokenizer.encode(prompt(cleaned)), self.model.encoder.max_tokens
        if len(row) <= most:
            return row
        closing = self.tokenizer.encode(CLOSING)[1:]
        return row[: most - len(closing)] + closing

    def _open(self, path: str) -> Squeezed:
        """A picture as the model sees it, and its own size; raises ImageError."""
        picture = self.open_image(path)
        return squeeze(picture, self.grid.side_px), picture.size
