"""InternVL in transformers' own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.utils import is_torchvision_available

from groundling.models.families.base import Family


class StillInternVLProcessor(InternVLProcessor):  # type: ignore[misc]
    """The stock processor without video, as `groundling.models.still` makes it for others."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: Any = None,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            image_seq_length=image_seq_length,
            chat_template=chat_template,
        )


StillInternVLProcessor.__name__ = StillInternVLProcessor.__qualname__ = InternVLProcessor.__name__


class InternVL(Family):
    """InternVL 2.5, 3 and 3.5 (the `-hf` checkpoints); pictures as tiles and an overview."""

    model_type = "internvl"

    def open_processor(self, checkpoint: str | Path) -> Any:
        """The stock processor; without torchvision, the one that does without video."""
        if is_torchvision_available():
            return AutoProcessor.from_pretrained(checkpoint)
        return StillInternVLProcessor.from_pretrained(checkpoint)

    def limit_pixels(self, model: Any, processor: Any, max_pixels: int) -> bool:
        """Cut pictures into as few tiles as the limit holds, at least one."""
        del model
        tile = processor.image_processor.size
        area = tile["height"] * tile["width"]
        processor.image_processor.max_patches = max(1, max_pixels // area)
        return True
