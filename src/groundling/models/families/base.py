"""What a family of multimodal language models must say of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

from groundling.errors import ImageError, InputError
from groundling.models import lora
from groundling.models.box_text import BoxText
from groundling.models.coordinates import Convention, Size
from groundling.models.qwen2vl import fitted_wh_px


class Family:
    """Answers for a model whose text positions count on by one and whose processor opens as it is.

    Subclasses change what differs. Nothing in here holds state.
    """

    model_type: ClassVar[str]
    """`model_type` in a checkpoint's config.json."""

    linear_layers: ClassVar[str] = lora.within(
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    )
    """A pattern of names: every linear layer of the language model's blocks, never the vision's.
    4 bits pack them, and they carry the adapter unless a recipe names others."""

    box_text: ClassVar[BoxText] = BoxText("list", Convention("relative-1000"))
    """How a grounder of this family writes boxes."""

    packs: ClassVar[bool] = True
    """Whether several answers may stand behind one prompt, kept apart by a mask alone."""

    def lora_targets(self, model: Any, names: Sequence[str] | None) -> str:
        """The pattern of the layers that carry the adapter; `names` None takes all.

        Raises InputError for a name that no linear layer of the language model has.
        """
        return self.linear_layers if names is None else lora.named(model, names)

    def check(self, config: Any) -> None:
        """Refuse, with InputError, a model of the family that would not run as it should."""
        del config

    def open_processor(self, checkpoint: str | Path) -> Any:
        """The processor of a checkpoint folder or hub name. Raises what transformers raises."""
        return AutoProcessor.from_pretrained(checkpoint)

    def limit_pixels(self, model: Any, processor: Any, max_pixels: int) -> bool:
        """Have the processor keep pictures to `max_pixels`; False where it has no such setting."""
        del model, processor, max_pixels
        return False

    def positions(self, model: Any, inputs: dict[str, torch.Tensor]) -> NDArray[np.int64]:
        """Positions (3, L) of one prompt's tokens along time, row and column; all three alike."""
        del model
        length = inputs["input_ids"].shape[1]
        return np.tile(np.arange(length, dtype=np.int64), (3, 1))

    def position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """The `position_ids` that the model takes, made of positions (3, B, T)."""
        return positions[0]

    def given_wh_px(self, processor: Any, size_wh_px: Size) -> Size:
        """The size of a picture as the model is given it; only pixel conventions ask for it."""
        del processor
        return size_wh_px


class RotaryFamily(Family):
    """A Qwen-VL: positions of pictures run along three axes (M-RoPE, arXiv:2409.12191, §2.1)."""

    processor_class: ClassVar[type]
    """The family's processor without its video half."""

    def check(self, config: Any) -> None:
        """No sliding windows: transformers does not keep to them outside FlashAttention."""
        if "sliding_attention" in getattr(config.text_config, "layer_types", ()):
            raise InputError(
                "sliding-window attention is not supported; load a full-attention model"
            )

    def open_processor(self, checkpoint: str | Path) -> Any:
        """The stock processor; without torchvision, the one that does without video."""
        if is_torchvision_available():
            return AutoProcessor.from_pretrained(checkpoint)
        return self.processor_class.from_pretrained(checkpoint)  # type: ignore[attr-defined]

    def limit_pixels(self, model: Any, processor: Any, max_pixels: int) -> bool:
        """Lower the image processor's own upper limit, and its lower one where it must be."""
        del model
        size = processor.image_processor.size
        size["longest_edge"] = max_pixels
        size["shortest_edge"] = min(size["shortest_edge"], max_pixels)
        return True

    def positions(self, model: Any, inputs: dict[str, torch.Tensor]) -> NDArray[np.int64]:
        """The model's own M-RoPE positions (3, L) of one prompt with one picture."""
        index, _ = model.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
        )
        positions: NDArray[np.int64] = index[:, 0].cpu().numpy()
        return positions

    def position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """All three axes."""
        return positions

    def given_wh_px(self, processor: Any, size_wh_px: Size) -> Size:
        """Width and height rounded to whole merged patches; see `fitted_wh_px`."""
        rules = processor.image_processor
        size = rules.size
        factor = rules.patch_size * rules.merge_size
        return fitted_wh_px(size_wh_px, factor, size["shortest_edge"], size["longest_edge"])


def fit_area(picture: Image.Image, max_pixels: int) -> Image.Image:
    """The picture shrunk to at most `max_pixels`, its aspect kept; itself where it is small.

    Raises ImageError for one so thin that a side of one pixel still leaves more.
    """
    width, height = picture.size
    if width * height <= max_pixels:
        return picture
    scale = (max_pixels / (width * height)) ** 0.5
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    if size[0] * size[1] > max_pixels:
        raise ImageError(
            f"picture of {width}×{height} px: too long and thin for {max_pixels} pixels; crop it"
        )
    return picture.resize(size, Image.Resampling.BICUBIC)
