"""Opening a writer's checkpoint and what may lie beside it: safetensors only, no code of others.

A shared module, no backend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from groundling.errors import DataError, InputError
from groundling.models import lora
from groundling.models.families import Family, family_of
from groundling.models.opening import OPENING_FAULTS, usable_device
from groundling.models.quiet import quiet_library
from groundling.models.weights import demand_numbers, demand_sizes
from groundling.records import EntityType, parse_entity_type
from groundling.strict_json import parse_json


def open_checkpoint(
    checkpoint: str | Path, dtype: torch.dtype, device: str = "cpu", four_bit: bool = False
) -> tuple[Any, Any]:
    """The model and the processor of a checkpoint folder or hub name.

    Weights go straight to `device`; `four_bit` packs the family's `linear_layers` on the way (NF4,
    computing in `dtype`) and leaves vision, embeddings and head whole. Raises InputError for what
    is no checkpoint, for a family that is not supported and where bitsandbytes is missing.
    """
    how: dict[str, Any] = {"dtype": dtype, "device_map": {"": usable_device(device)}}
    try:
        with quiet_library():
            config = AutoConfig.from_pretrained(checkpoint)
            family = family_of(config)
            demand_sizes(checkpoint)
            if four_bit:
                how["quantization_config"] = _four_bits(family, dtype)
            model, told = AutoModelForImageTextToText.from_pretrained(
                checkpoint,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
                **how,
            )
            processor = family.open_processor(checkpoint)
    except OPENING_FAULTS as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{checkpoint}: no checkpoint that can be opened: {reason}") from fault
    if missing := sorted(told["missing_keys"]):
        raise InputError(
            f"{checkpoint}: {len(missing)} weights are missing, first {missing[0]}; "
            "transformers would leave them random"
        )
    demand_numbers(checkpoint, model.named_parameters())
    if four_bit:
        _keep_exact(lora.linear_layers(model, family.linear_layers))
    return model, processor


def _four_bits(family: Family, dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation (QLoRA, arXiv:2305.14314, §3) for the family's linear layers."""
    if not is_bitsandbytes_available():
        raise InputError("load_in_4bit needs bitsandbytes; install groundling[quantised]")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[rf"(?!(?:{family.linear_layers})$).*"],
    )


def _keep_exact(layers: dict[str, Any]) -> None:
    """Refuse or avoid what bitsandbytes (0.50) gets wrong on a CPU; raises InputError.

    It scales by the wrong blocks of 64 weights where a row does not hold whole blocks. And with
    AVX512-BF16 the first pass without gradients would lay weights out anew, for a product in
    bfloat16 that gradients do not go back through.
    """
    for name, layer in layers.items():
        if layer.weight.device.type == "cpu" and layer.in_features % 64:
            raise InputError(
                f"{name}: {layer.in_features} inputs; wanted a multiple of 64 for load_in_4bit on "
                "a CPU; use a GPU or leave it out"
            )
        layer.support_avx512bf16_for_cpu = False


def read_known_names(path: Path) -> frozenset[tuple[str, EntityType]] | None:
    """The (name, type) pairs of a known_names.json; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        entries = parse_json(path.read_bytes())
        if not isinstance(entries, list):
            raise TypeError(f"got {type(entries).__name__}")
        return frozenset((str(name), parse_entity_type(type)) for name, type in entries)
    except (ValueError, TypeError, AttributeError, InputError) as fault:
        raise DataError(path, f"wanted a JSON list of [name, type]: {fault}") from fault
