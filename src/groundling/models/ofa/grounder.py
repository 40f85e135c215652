"""The OFA grounder: picture + expression → box, as in OFA's referring-expression task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own short name

from groundling import team
from groundling.errors import ImageError, InputError
from groundling.images import load_image
from groundling.models.base import GroundingExample
from groundling.models.ofa.boxes import BinGrid, Size
from groundling.models.ofa.checkpoints import find_folder, open_model
from groundling.models.ofa.config import published, size_of
from groundling.models.ofa.decoder import CODE_ONLY
from groundling.models.ofa.inputs import clean_expression, prompt, squeeze
from groundling.models.ofa.model import OFAModel
from groundling.models.ofa.search import beam_search
from groundling.models.ofa.tokenizer import END, OFATokenizer
from groundling.models.quiet import quiet_library
from groundling.records import Failure, Grounded

OpenImage = Callable[[str], Image.Image]
"""How a path becomes a picture; raises ImageError."""


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
        *,
        side_px: int,
        beams: int = 5,
        label_smoothing: float = 0.1,
        batch_size: int = 16,
        constrained: bool = True,
        freeze_batch_norm: bool = False,
        open_image: OpenImage = load_image,
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
        self.batch_size = batch_size
        self.constrained = constrained
        self.freeze_batch_norm = freeze_batch_norm
        self.open_image = open_image
        self._norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        if freeze_batch_norm:
            for norm in self._norms:
                norm.requires_grad_(False)

    @classmethod
    def load(
        cls,
        folder_or_hub_name: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        beams: int = 5,
        label_smoothing: float = 0.1,
        drop_path: float = 0.2,
        batch_size: int = 16,
        constrained: bool = True,
        patch_image_size: int | None = None,
        freeze_batch_norm: bool = False,
        gradient_checkpointing: bool = False,
        image_root: Path | None = None,
        open_image: OpenImage | None = None,
    ) -> OFAGrounder:
        """Open a checkpoint: a folder, or a repository such as `OFA-Sys/ofa-large`.

        `beams` 1 is greedy. `constrained` confines answers to bins inside the picture; without it,
        as in OFA's own evaluation, a token that is no bin makes a Failure. `patch_image_size`
        overrides the square of the configuration; where that names none, the published size's is
        taken. `batch_size` counts (picture, expression) pairs. Pictures must lie in `image_root`
        where it is given; `open_image` reads them in another way. Raises InputError.
        """
        folder = find_folder(folder_or_hub_name)
        tokenizer = OFATokenizer.from_pretrained(folder)
        model = open_model(folder, dtype)
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
            side_px=side,
            beams=beams,
            label_smoothing=label_smoothing,
            batch_size=batch_size,
            constrained=constrained,
            freeze_batch_norm=freeze_batch_norm,
            open_image=open_image or partial(load_image, root=image_root),
        )

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and vocabulary."""
        settings = {}
        if team.is_sharded(self.model):
            named = self.model.state_dict().items()
            settings["state_dict"] = {name: team.whole(value).cpu() for name, value in named}
        if not team.leads():
            return
        with quiet_library():
            self.model.save_pretrained(folder, **settings)
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
            bins = self.grid.bins_of(example.box, size)
            pixels.append(picture)
            rows.append(self.tokenizer.encode(prompt(cleaned)))
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
        "image".
        """
        self.model.eval()
        cleaned = [(path, clean_expression(expression)) for path, expression in requests]
        answers: dict[tuple[str, str], Grounded | Failure] = {}
        by_picture: dict[str, list[tuple[str, str]]] = {}
        for request in dict.fromkeys(cleaned):
            if request[1]:
                by_picture.setdefault(request[0], []).append(request)
            else:
                answers[request] = Failure("the expression is empty", "ground")
        distinct = [request for group in by_picture.values() for request in group]
        opened: dict[str, tuple[torch.Tensor, Size] | ImageError] = {}
        for begin in range(0, len(distinct), self.batch_size):
            batch = distinct[begin : begin + self.batch_size]
            opened = self._opened((path for path, _ in batch), opened)
            readable: list[tuple[str, str]] = []
            for request in batch:
                picture = opened[request[0]]
                if isinstance(picture, ImageError):
                    answers[request] = Failure(str(picture), "image")
                else:
                    readable.append(request)
            if readable:
                pictures = {p: o for p, o in opened.items() if not isinstance(o, ImageError)}
                answers.update(zip(readable, self._answer(readable, pictures), strict=True))
        return [answers[request] for request in cleaned]

    def _answer(
        self, requests: Sequence[tuple[str, str]], pictures: dict[str, tuple[torch.Tensor, Size]]
    ) -> Iterable[Grounded | Failure]:
        """The answers to one batch of distinct requests for readable pictures."""
        device = self.model.device
        paths = list(pictures)
        pixels = torch.stack([pixels for pixels, _ in pictures.values()]).to(device)
        which = torch.tensor([paths.index(path) for path, _ in requests], device=device)
        rows = [self.tokenizer.encode(prompt(cleaned)) for _, cleaned in requests]
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
        for (path, _), four, score in zip(requests, best, scores, strict=True):
            bins = [self.tokenizer.bin_of(token) for token in four]
            box = self.grid.box_of(bins, pictures[path][1])
            yield box if isinstance(box, Failure) else Grounded(box, score)

    def _opened(
        self,
        paths: Iterable[str],
        before: dict[str, tuple[torch.Tensor, Size] | ImageError],
    ) -> dict[str, tuple[torch.Tensor, Size] | ImageError]:
        """The pictures of a batch; one that the batch before had is not read again."""
        opened: dict[str, tuple[torch.Tensor, Size] | ImageError] = {}
        for path in dict.fromkeys(paths):
            if path in before:
                opened[path] = before[path]
                continue
            try:
                opened[path] = self._open(path)
            except ImageError as error:
                opened[path] = error
        return opened

    def _open(self, path: str) -> tuple[torch.Tensor, Size]:
        """A picture as the model sees it, and its own size; raises ImageError."""
        picture = self.open_image(path)
        return squeeze(picture, self.grid.side_px), picture.size
