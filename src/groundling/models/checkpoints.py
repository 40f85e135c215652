"""Opening a Qwen2-VL checkpoint and what may lie beside it: safetensors only, no code of others.

A shared module, no backend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen2VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from groundling.errors import DataError, InputError
from groundling.models.qwen2vl import Qwen2VLProcessor, check_family
from groundling.records import EntityType, parse_entity_type


def open_checkpoint(checkpoint: str | Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model (on the CPU) and the processor of a checkpoint folder or hub name.

    Raises InputError for what is no checkpoint and for a family that is not supported.
    """
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        check_family(config)
        model = Qwen2VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True, attn_implementation="sdpa"
        )
        return model, Qwen2VLProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{checkpoint}: no checkpoint that can be opened: {reason}") from fault
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def read_known_names(path: Path) -> frozenset[tuple[str, EntityType]] | None:
    """The (name, type) pairs of a known_names.json; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return frozenset((str(name), parse_entity_type(type)) for name, type in entries)
    except (ValueError, TypeError, AttributeError, InputError) as fault:
        raise DataError(path, f"wanted a JSON list of [name, type]: {fault}") from fault
