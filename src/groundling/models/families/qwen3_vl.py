"""Qwen3-VL."""

from __future__ import annotations

from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from groundling.models.box_text import BoxText
from groundling.models.coordinates import Convention
from groundling.models.families.base import RotaryFamily
from groundling.models.still import without_video


class Qwen3VL(RotaryFamily):
    """Qwen3-VL, dense sizes."""

    model_type = "qwen3_vl"
    box_text = BoxText("bbox-2d", Convention("relative-1000"))
    processor_class = without_video(Qwen3VLProcessor)
