"""The multimodal language models that can be a writer, one small file a family.

A family says how its processor is opened, where its tokens stand and which layers an adapter is
put on; everything else is common to all (`groundling.models.stock`). `docs/families.md` shows how
to add one.
"""

from __future__ import annotations

from typing import Any

from groundling.errors import InputError
from groundling.models.families.base import Family
from groundling.models.families.internvl import InternVL
from groundling.models.families.llava_next import LlavaNext
from groundling.models.families.mllama import Mllama
from groundling.models.families.qwen2_5_vl import Qwen25VL
from groundling.models.families.qwen2_vl import Qwen2VLFamily
from groundling.models.families.qwen3_5 import Qwen35
from groundling.models.families.qwen3_vl import Qwen3VL

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: tuple[Family, ...] = (
    Qwen2VLFamily(),
    Qwen25VL(),
    Qwen3VL(),
    Qwen35(),
    LlavaNext(),
    Mllama(),
    InternVL(),
)


def family_of(config: Any) -> Family:
    """The family of a model's configuration. Raises InputError where there is none that fits."""
    for family in FAMILIES:
        if config.model_type == family.model_type:
            family.check(config)
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise InputError(f"model type {config.model_type!r} is not supported; wanted one of {known}")
