"""LLaVA-NeXT."""

from __future__ import annotations

from typing import Any

from groundling.models.box_text import BoxText
from groundling.models.coordinates import Convention
from groundling.models.families.base import Family


class LlavaNext(Family):
    """LLaVA-NeXT (1.6) over Mistral, Vicuna or Llama; pictures as tiles and an overview."""

    model_type = "llava_next"
    box_text = BoxText("list", Convention("relative-1"))

    def limit_pixels(self, model: Any, processor: Any, max_pixels: int) -> bool:
        """Keep to the tilings that the limit holds, at least the smallest.

        The model reads its tokens by the same list as the processor writes them.
        """
        tilings = sorted(model.config.image_grid_pinpoints, key=lambda size: size[0] * size[1])
        fitting = [size for size in tilings if size[0] * size[1] <= max_pixels] or tilings[:1]
        model.config.image_grid_pinpoints = fitting
        processor.image_processor.image_grid_pinpoints = fitting
        return True
