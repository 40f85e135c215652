"""Qwen2.5-VL."""

from __future__ import annotations

from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from groundling.models.box_text import BoxText
from groundling.models.coordinates import Convention
from groundling.models.families.base import RotaryFamily
from groundling.models.still import without_video


class Qwen25VL(RotaryFamily):
    """Qwen2.5-VL, 3B to 72B."""

    model_type = "qwen2_5_vl"
    box_text = BoxText("bbox-2d", Convention("resized-pixels"))
    processor_class = without_video(Qwen2_5_VLProcessor)
