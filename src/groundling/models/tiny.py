"""The tiny grounder: a real, small visual grounding model that runs anywhere."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from groundling import team
from groundling.errors import ImageError, InputError
from groundling.images import PictureKey, load_image, picture_key
from groundling.models.base import GroundingExample
from groundling.models.coordinates import answered_box
from groundling.models.grounding import NO_NUMBER
from groundling.models.saving import saving
from groundling.models.tiny_net import TinyGrounderConfig, TinyGrounderNet
from groundling.models.weights import read_net, stored_shapes
from groundling.records import Box, Failure, Grounded
from groundling.strict_json import read_object

PAD, START, UNKNOWN = 0, 1, 2
_FIRST_WORD = 3


class TinyGrounder:
    """A grounder over `TinyGrounderNet`; implements `groundling.models.base.Grounder`.

    Pictures are squeezed to a square of `size_px`, as OFA does, and boxes are scaled back per
    axis to pixels of the original. Each picture is encoded by itself, so its features do not
    depend on the company it is asked in.
    """

    def __init__(self, net: TinyGrounderNet, kept_pictures: int = 4096) -> None:
        self.net = net
        team.keep_whole(net)  # it stays on the CPU, where FSDP would not leave it
        self.kept_pictures = kept_pictures
        self._index = {word: i + _FIRST_WORD for i, word in enumerate(net.config.words)}
        self._pixels: OrderedDict[PictureKey, tuple[Tensor, tuple[int, int]]] = OrderedDict()
        self._cells: OrderedDict[PictureKey, Tensor] = OrderedDict()

    @classmethod
    def load(cls, folder: Path) -> TinyGrounder:
        """Load `config.json` and `model.safetensors`; weights are used in float32."""
        config_file, weights = folder / "config.json", folder / "model.safetensors"
        if not config_file.is_file() or not weights.is_file():
            raise InputError(
                f"{folder}: no grounder here; wanted config.json and model.safetensors"
            )
        try:
            raw = read_object(config_file)
            raw["words"] = tuple(raw["words"])
            config = TinyGrounderConfig(**raw)
            _demand_config(config, len(stored_shapes(weights)))
            net = read_net(weights, lambda: TinyGrounderNet(config))
        except (ValueError, KeyError, TypeError, InputError) as fault:
            reason = str(fault).partition("\n")[0]
            raise InputError(f"{folder}: not a grounder of this kind ({reason})") from fault
        return cls(net.eval())

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (float32)."""
        self.save_as(folder, torch.float32)

    def save_as(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the weights in another precision; half of float32 is ample for a shipped model."""
        if not team.leads():
            return
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(asdict(self.net.config), indent=1) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        state = {name: t.to(dtype).contiguous() for name, t in self.net.state_dict().items()}
        with saving(folder):
            save_file(state, folder / "model.safetensors")

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every weight, by name."""
        return dict(self.net.named_parameters())

    def module(self) -> nn.Module:
        """The network."""
        return self.net

    def tokens(self, expressions: Sequence[Sequence[str]]) -> Tensor:
        """Expressions by picture → (B, E, L) word numbers: START first, PAD last.

        Unknown words are UNKNOWN; a picture with fewer expressions has rows of PAD.
        """
        rows = [[self._numbers(text) for text in texts] for texts in expressions]
        said = max(len(row) for row in rows)
        length = max(len(numbers) for row in rows for numbers in row)
        table = torch.zeros(len(rows), said, length, dtype=torch.long)
        for i, row in enumerate(rows):
            for j, numbers in enumerate(row):
                table[i, j, : len(numbers)] = torch.tensor(numbers)
        return table

    def _numbers(self, expression: str) -> list[int]:
        words = expression.lower().removesuffix(".").replace(",", " ").split()
        numbers = [self._index.get(word, UNKNOWN) for word in words]
        return [START, *numbers[: self.net.config.max_words - 1]]

    def pixels(self, picture: Image.Image) -> Tensor:
        """A picture → (3, S, S) in [-1, 1]."""
        side = self.net.config.size_px
        squeezed = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        array = np.asarray(squeezed, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
        return torch.from_numpy(np.ascontiguousarray(array))

    def loss(self, batch: Sequence[GroundingExample]) -> Tensor:
        """Mean −log P(v | I, s) over the batch (ISR eq. 2); raises ImageError on a bad picture."""
        self._cells.clear()
        by_picture: dict[str, list[GroundingExample]] = {}
        for example in batch:
            by_picture.setdefault(example.image, []).append(example)
        loaded = [self._load(path) for path in by_picture]
        tokens = self.tokens([[e.expression for e in group] for group in by_picture.values()])
        boxes = torch.zeros(*tokens.shape[:2], 4)
        for i, (group, (_, size)) in enumerate(zip(by_picture.values(), loaded, strict=True)):
            for j, example in enumerate(group):
                shares = [v / side for v, side in zip(example.box.xyxy, size * 2, strict=True)]
                boxes[i, j] = torch.tensor(shares)
        cells = self.net.encode(torch.stack([pixels for pixels, _ in loaded]))
        return self.net.negative_log_likelihood(cells, tokens, boxes)

    @torch.no_grad()
    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        """The most likely box per (image path, expression), with the probability of its cell."""
        answers: dict[int, Grounded | Failure] = {}
        by_picture: dict[str, list[int]] = {}
        for row, (path, expression) in enumerate(requests):
            if expression.split():
                by_picture.setdefault(path, []).append(row)
            else:
                answers[row] = Failure("the expression is empty", "ground")
        encoded: dict[str, Tensor] = {}
        for path, rows in by_picture.items():
            try:
                encoded[path] = self._encoded(path)
            except ImageError as error:
                answers.update(dict.fromkeys(rows, Failure(str(error), "image")))
        if encoded:
            tokens = self.tokens([[requests[r][1] for r in by_picture[p]] for p in encoded])
            boxes, scores = self.decode(torch.stack(list(encoded.values())), tokens)
            for path, of_path, of_score in zip(
                encoded, boxes.tolist(), scores.tolist(), strict=True
            ):
                width, height = self._load(path)[1]
                for row, (x1, y1, x2, y2), score in zip(by_picture[path], of_path, of_score):  # noqa: B905
                    box = Box(x1 * width, y1 * height, x2 * width, y2 * height)
                    if not all(map(math.isfinite, (*box.xyxy, score))):
                        answers[row] = Failure(NO_NUMBER, "model")
                        continue
                    inside = answered_box(box, (width, height))
                    answers[row] = (
                        inside if isinstance(inside, Failure) else Grounded(inside, score)
                    )
        return [answers[row] for row in range(len(requests))]

    def decode(self, cells: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, C, D), tokens (B, E, L) → best boxes (B, E, 4) in shares, scores (B, E)."""
        heat, query = self.net(cells, tokens)
        score, best = heat.softmax(-1).max(-1)
        origin = self.net.cell_centres()[best]
        picture = torch.arange(len(cells))[:, None].expand_as(best)
        sides = self.net.distances(cells[picture, best], query)
        boxes = torch.cat([origin - sides[..., :2], origin + sides[..., 2:]], -1).clamp(0, 1)
        return boxes, score

    def _load(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        key = picture_key(path)
        if key not in self._pixels:
            picture = load_image(path)
            self._pixels[key] = (self.pixels(picture), picture.size)
            if len(self._pixels) > 2 * self.kept_pictures:
                self._pixels.popitem(last=False)
        return self._pixels[key]

    def _encoded(self, path: str) -> Tensor:
        key = picture_key(path)
        if key not in self._cells:
            self._cells[key] = self.net.encode(self._load(path)[0][None])[0]
            if len(self._cells) > self.kept_pictures:
                self._cells.popitem(last=False)
        return self._cells[key]


def _demand_config(config: TinyGrounderConfig, tensors: int) -> None:
    """Raise ValueError for sizes that no network has; `tensors` are those stored beside them."""
    for name, value in asdict(config).items():
        if name == "words":
            if not all(isinstance(word, str) for word in value):
                raise ValueError("words: wanted texts")
        elif type(value) is not int or value < 1:
            raise ValueError(f"{name}: got {value!r}; wanted a whole number ≥ 1")
        elif name.endswith("layers") and value > tensors:
            raise ValueError(f"{name} {value}, but only {tensors} weights are stored")
