"""What the vLLM sampler knows of a checkpoint besides its weights, which are vLLM's.

A shared module, no backend. Prompts and pictures are the very tokens and pixels that the writer of
the same checkpoint is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from groundling.errors import ImageError, InputError
from groundling.images import OpenImage
from groundling.models import lora
from groundling.models.families import Family, family_of
from groundling.models.families.base import RotaryFamily
from groundling.models.quiet import quiet_library
from groundling.models.qwen2vl import PictureRules, runs_by_hand
from groundling.models.stored_adapter import settings_of
from groundling.models.wording import Wording, listed_ends
from groundling.prompts import ask_for_expression, entity_phrase
from groundling.records import Failure, Query


class VllmCheckpoint:
    """Prompt A.2 in a checkpoint's own chat template, its pictures, and its adapters' layers.

    `limits` are the processor settings by which vLLM keeps pictures within `max_pixels`; None
    without. Raises InputError for what is no checkpoint, and for a `max_pixels` that vLLM cannot
    keep to.
    """

    def __init__(self, checkpoint: str, max_pixels: int | None, open_image: OpenImage) -> None:
        self._config, self._family, processor = _open_processor(checkpoint)
        self._open = _as_the_writer_sees(self._config, processor, max_pixels, open_image)
        self._wording = Wording(
            processor, ask_for_expression, listed_ends(_generation(checkpoint, self._config))
        )
        self.limits = None if max_pixels is None else _limits(self._family, processor, max_pixels)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer, the first of them as the writer scores it."""
        return self._wording.ends

    @property
    def tokenization(self) -> dict[str, bool]:
        """How vLLM is to make tokens of a prompt."""
        return {"add_special_tokens": self._wording.adds_specials}

    def prompt(self, query: Query) -> dict[str, Any] | Failure:
        """The prompt as text, its picture beside it: vLLM puts the picture's tokens in.

        A Failure of stage `prompt` or `image` where there is none.
        """
        text = self._wording.rendered(entity_phrase(query.name, query.type))
        if isinstance(text, Failure):
            return text
        try:
            picture = self._open(query.image)
        except ImageError as fault:
            return Failure(str(fault), "image")
        return {"prompt": text, "multi_modal_data": {"image": picture}}

    def text(self, tokens: Sequence[int]) -> str:
        """Drawn tokens as text."""
        return self._wording.text(tuple(tokens))

    def check_adapter(self, folder: Path) -> int:
        """The rank of the adapter in `folder`; raises InputError for one that does not fit.

        vLLM itself takes an adapter of other layers or another width without a word, and one whose
        layers have ranks or alphas of their own at the wrong scale.
        """
        stored = settings_of(folder)
        if stored.patterns:
            raise InputError(
                f"{folder}: adapter with {' and '.join(stored.patterns)}: vLLM does not know them; "
                "sample with the writer itself"
            )
        with torch.device("meta"):  # shapes alone: a second or two even for large models
            model = AutoModelForImageTextToText.from_config(self._config)
            model = lora.attach_stored(model, folder)
        lora.read(model, folder)
        return stored.rank


def _open_processor(checkpoint: str) -> tuple[Any, Family, Any]:
    """A checkpoint's configuration, its family and its processor."""
    try:
        with quiet_library():
            config = AutoConfig.from_pretrained(checkpoint)
            family = family_of(config)
            return config, family, family.open_processor(checkpoint)
    except (OSError, ValueError) as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{checkpoint}: no checkpoint that can be opened: {reason}") from fault


def _generation(checkpoint: str, config: Any) -> GenerationConfig:
    """What a model opened from the checkpoint would have for its generation_config."""
    try:
        return GenerationConfig.from_pretrained(checkpoint)
    except OSError:
        return GenerationConfig.from_model_config(config)


def _as_the_writer_sees(
    config: Any, processor: Any, max_pixels: int | None, open_image: OpenImage
) -> OpenImage:
    """Reads pictures at the size at which the writer's own engine has them.

    Pillow resizes them there. vLLM's processor, which may resize with torchvision to other pixels,
    finds nothing left to do. Where the writer uses the same processor, pictures stay as they are.
    """
    if not runs_by_hand(config):
        return open_image
    rules = PictureRules(processor.image_processor, max_pixels)
    return lambda path: rules.fit(open_image(path))


def _limits(family: Family, processor: Any, max_pixels: int) -> dict[str, Any]:
    """vLLM's words for `max_pixels`, by which it also plans its memory."""
    if not isinstance(family, RotaryFamily):
        raise InputError(
            f"max_pixels: not known to vLLM for {family.model_type}; leave it out, or sample with "
            "the writer itself"
        )
    family.limit_pixels(None, processor, max_pixels)
    return {"size": dict(processor.image_processor.size)}
