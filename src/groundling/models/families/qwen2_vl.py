"""Qwen2-VL (the paper's main writer, ISR §4.1)."""

from __future__ import annotations

from groundling.models.box_text import BoxText
from groundling.models.coordinates import Convention
from groundling.models.families.base import RotaryFamily
from groundling.models.qwen2vl import Qwen2VLProcessor


class Qwen2VLFamily(RotaryFamily):
    """Qwen2-VL, 2B to 72B."""

    model_type = "qwen2_vl"
    box_text = BoxText("qwen2-vl", Convention("relative-1000"))
    processor_class = Qwen2VLProcessor
