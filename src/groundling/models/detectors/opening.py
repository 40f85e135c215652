"""Opening a detector's checkpoint, and its pictures one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor

from groundling.errors import ImageError, InputError
from groundling.images import OpenImage
from groundling.models.coordinates import Size
from groundling.models.grounding import Compute
from groundling.models.opening import opening, refuse_gaps, save_model, usable_device
from groundling.models.weights import demand_numbers, demand_sizes


def open_detector(
    checkpoint: str | Path, classes: dict[str, Any], compute: Compute
) -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and the processor of a folder or hub name.

    `classes` holds the model class of each `model_type` that will do. Weights are read from
    safetensors only and must be all there. Raises InputError.
    """
    device = usable_device(compute.device)
    with opening(checkpoint):
        config = AutoConfig.from_pretrained(checkpoint)
        kind = config.model_type
        if kind not in classes:
            wanted = " or ".join(classes)
            raise InputError(f"{checkpoint}: a model of type {kind}; wanted {wanted}")
        demand_sizes(checkpoint)
        model, report = classes[kind].from_pretrained(
            checkpoint,
            dtype=compute.dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        processor = AutoProcessor.from_pretrained(checkpoint)
    refuse_gaps(checkpoint, report)
    demand_numbers(checkpoint, model.named_parameters())
    lacking = [part for part in ("image_processor", "tokenizer") if not hasattr(processor, part)]
    if lacking:
        raise InputError(f"{checkpoint}: no {' and no '.join(lacking)} here; fetch them too")
    return model.eval().to(device), processor


def save_detector(folder: Path, model: Any, processor: Any) -> None:
    """Write weights (safetensors), configuration, tokenizer and picture settings."""
    if save_model(model, folder):
        processor.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a model sees it, (3, H, W), and its own size."""

    pixels: Tensor
    size_wh_px: Size


class PictureReader:
    """Reads pictures through a checkpoint's image processor."""

    def __init__(self, processor: Any, open_image: OpenImage, **settings: Any) -> None:
        self._processor, self._open_image, self._settings = processor, open_image, settings

    def read(self, path: str) -> Picture:
        """One picture. Raises ImageError, also for a shape that the processor refuses."""
        image = self._open_image(path)
        try:
            made = self._processor(images=image, return_tensors="pt", **self._settings)
        except (ValueError, ZeroDivisionError, RuntimeError) as fault:  # the last: torchvision's
            width, height = image.size
            raise ImageError(
                f"{path}: a picture of {width} × {height} pixels cannot be resized for this model; "
                "crop it or fill it up"
            ) from fault
        return Picture(made["pixel_values"][0], image.size)


@contextlib.contextmanager
def seen_once(module: nn.Module, which: Sequence[int], device: torch.device) -> Iterator[None]:
    """While this lasts, `module` computes each picture of a batch once and repeats its results.

    `which` numbers the picture of each row, in order of first appearance.
    """
    first = torch.tensor([which.index(i) for i in range(max(which) + 1)], device=device)
    rows = torch.tensor(which, device=device)
    before = module.register_forward_pre_hook(
        lambda _, args, words: (_rows(args, first), _rows(words, first)), with_kwargs=True
    )
    after = module.register_forward_hook(lambda _, __, made: _rows(made, rows))
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextlib.contextmanager
def states_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The hidden states that `module` returns first, call by call, while this lasts."""
    states: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, made: states.append(made[0]))
    try:
        yield states
    finally:
        handle.remove()


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
