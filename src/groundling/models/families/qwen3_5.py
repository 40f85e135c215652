"""Qwen3.5, whose layers are mostly linear attention."""

from __future__ import annotations

from groundling.models import lora
from groundling.models.families.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """Qwen3.5, dense sizes.

    A recurrent layer reads all that came before, so no mask can keep two answers apart: each
    answer of a pair has a sequence of its own.
    """

    model_type = "qwen3_5"
    linear_layers = lora.within(
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("in_proj_qkv", "in_proj_z", "out_proj"),
    )
    packs = False
