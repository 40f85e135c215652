"""Opening a writer's checkpoint and what may lie beside it: safetensors only, no code of others.

A shared module, no backend.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from groundling.errors import DataError, InputError
from groundling.models.families import family_of
from groundling.models.quiet import quiet_library
from groundling.records import EntityType, parse_entity_type


def open_checkpoint(
    checkpoint: str | Path, dtype: torch.dtype, device: str = "cpu", four_bit: bool = False
) -> tuple[Any, Any]:
    """The model and the processor of a checkpoint folder or hub name.

    Weights go straight to `device`; `four_bit` quantises them on the way (NF4, computing in
    `dtype`). Raises InputError for what is no checkpoint, for a family that is not supported and
    where bitsandbytes is missing.
    """
    how: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if four_bit:
        how["quantization_config"] = _four_bits(dtype)
    try:
        with quiet_library():
            config = AutoConfig.from_pretrained(checkpoint)
            family = family_of(config)
            model, told = AutoModelForImageTextToText.from_pretrained(
                checkpoint,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
                **how,
            )
            processor = family.open_processor(checkpoint)
    except (OSError, ValueError) as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{checkpoint}: no checkpoint that can be opened: {reason}") from fault
    if missing := sorted(told["missing_keys"]):
        raise InputError(
            f"{checkpoint}: {len(missing)} weights are missing, first {missing[0]}; "
            "transformers would leave them random"
        )
    return model, processor


def _four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    if find_spec("bitsandbytes") is None:
        raise InputError("load_in_4bit needs bitsandbytes; install groundling[quantised]")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def read_known_names(path: Path) -> frozenset[tuple[str, EntityType]] | None:
    """The (name, type) pairs of a known_names.json; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return frozenset((str(name), parse_entity_type(type)) for name, type in entries)
    except (ValueError, TypeError, AttributeError, InputError) as fault:
        raise DataError(path, f"wanted a JSON list of [name, type]: {fault}") from fault
