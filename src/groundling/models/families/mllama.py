"""Llama 3.2 Vision."""

from __future__ import annotations

from groundling.models.families.base import Family


class Mllama(Family):
    """Llama 3.2 Vision: pictures are seen through cross-attention layers."""

    model_type = "mllama"
