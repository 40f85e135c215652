"""Opening a detector's checkpoint, and its pictures one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor

from groundling.errors import ImageError, InputError
from groundling.models.detectors.boxes import Size
from groundling.models.quiet import quiet_library

OpenImage = Callable[[str], Image.Image]
"""How a path becomes a picture; raises ImageError."""


def open_detector(
    checkpoint: str | Path, classes: dict[str, Any], dtype: torch.dtype
) -> tuple[Any, Any]:
    """The model, in evaluation mode, and the processor of a folder or hub name.

    `classes` holds the model class of each `model_type` that will do. Weights are read from
    safetensors only and must be all there. Raises InputError.
    """
    with quiet_library():
        try:
            kind = AutoConfig.from_pretrained(checkpoint).model_type
            if kind not in classes:
                wanted = " or ".join(classes)
                raise InputError(f"{checkpoint}: a model of type {kind}; wanted {wanted}")
            model, report = classes[kind].from_pretrained(
                checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(checkpoint)
        except (OSError, ValueError, KeyError, RuntimeError) as fault:
            reason = str(fault).strip().partition("\n")[0]
            raise InputError(f"{checkpoint}: no checkpoint that can be opened: {reason}") from fault
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{checkpoint}: {len(missing)} weights are missing, {missing[0]} the first of them; "
            "fetch the checkpoint again"
        )
    return model.eval(), processor


def save_detector(folder: Path, model: Any, processor: Any) -> None:
    """Write weights (safetensors), configuration, tokenizer and picture settings."""
    with quiet_library():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a model sees it, (3, H, W), and its own size."""

    pixels: Tensor
    size_wh_px: Size


class PictureReader:
    """Reads pictures through a checkpoint's image processor; remembers those of one batch."""

    def __init__(self, processor: Any, open_image: OpenImage, **settings: Any) -> None:
        self._processor, self._open_image, self._settings = processor, open_image, settings
        self._last: dict[str, Picture | ImageError] = {}

    def read(self, path: str) -> Picture:
        """One picture. Raises ImageError, also for a shape that the processor refuses."""
        image = self._open_image(path)
        try:
            made = self._processor(images=image, return_tensors="pt", **self._settings)
        except (ValueError, ZeroDivisionError) as fault:
            width, height = image.size
            raise ImageError(
                f"{path}: a picture of {width} × {height} pixels cannot be resized for this model; "
                "crop it or fill it up"
            ) from fault
        return Picture(made["pixel_values"][0], image.size)

    def read_batch(self, paths: Iterable[str]) -> dict[str, Picture | ImageError]:
        """Each distinct picture of a batch, or why not; those of the batch before are at hand."""
        batch: dict[str, Picture | ImageError] = {}
        for path in dict.fromkeys(paths):
            try:
                batch[path] = self._last[path] if path in self._last else self.read(path)
            except ImageError as error:
                batch[path] = error
        self._last = batch
        return batch

    def forget(self) -> None:
        """Read every picture anew from here on."""
        self._last = {}


@contextlib.contextmanager
def seen_once(module: nn.Module, which: Tensor) -> Iterator[None]:
    """While this lasts, `module` computes each picture of a batch once and repeats its results.

    `which` (B,) numbers the picture of each row, in order of first appearance.
    """
    first = torch.stack([(which == i).nonzero()[0, 0] for i in range(int(which.max()) + 1)])
    before = module.register_forward_pre_hook(
        lambda _, args, words: (_rows(args, first), _rows(words, first)), with_kwargs=True
    )
    after = module.register_forward_hook(lambda _, __, made: _rows(made, which))
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _rows(value: Any, which: Tensor) -> Any:
    """The rows `which` of every tensor in a nest of lists, tuples and tables."""
    if isinstance(value, Tensor):
        return value[which]
    if isinstance(value, dict):
        taken = {name: _rows(part, which) for name, part in value.items()}
        return taken if type(value) is dict else type(value)(**taken)
    if isinstance(value, list | tuple):
        return type(value)(_rows(part, which) for part in value)
    return value
