"""The tensors of a fairseq OFA checkpoint under the names that this port has."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch

from groundling.models.ofa.config import SIZES, published

_RENAMED = (
    (r"^(encoder\.layers\.\d+)\.attn_ln\.", r"\1.self_attn_mid_layer_norm."),
    (r"^(decoder\.layers\.\d+)\.self_attn_ln\.", r"\1.self_attn_mid_layer_norm."),
    (r"^(decoder\.layers\.\d+)\.cross_attn_ln\.", r"\1.cross_attn_mid_layer_norm."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.cross_attn_layer_norm."),
    (r"^(decoder\.layers\.\d+)\.encoder_attn\.", r"\1.cross_attn."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffn_layernorm\.", r"\1.ffn_layer_norm."),
)
"""Patterns of fairseq's names and what takes their place; other names are the same in both."""

_LEFT_OUT = re.compile(
    r"^(classification_heads\.|(en|de)coder\.(version|\w+_rp_bucket|image_position_idx)$)"
)
"""Format versions, index buffers that follow from the configuration, and classifiers' heads."""


def port_name(name: str) -> str | None:
    """This port's name of a fairseq tensor, None for one it has no use for."""
    if _LEFT_OUT.search(name):
        return None
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def port_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A fairseq state by this port's names; nothing is copied."""
    renamed = {port_name(name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in renamed.items() if name is not None}


def guess_size(state: Mapping[str, torch.Tensor]) -> str | None:
    """The published size whose width, layers and trunk a renamed state has, None for another."""
    embedding = state.get("encoder.embed_tokens.weight")
    if embedding is None or embedding.dim() != 2:
        return None
    found = (
        embedding.shape[-1],
        _count(state, r"encoder\.layers\.(\d+)\."),
        _count(state, r"decoder\.layers\.(\d+)\."),
        tuple(_count(state, rf"encoder\.embed_images\.layer{i}\.(\d+)\.") for i in (1, 2, 3)),
    )
    for size in SIZES:
        config = published(size)
        if found == (
            config.d_model,
            config.encoder_layers,
            config.decoder_layers,
            config.trunk_depths,
        ):
            return size
    return None


def _count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    numbers = [int(match.group(1)) for name in state if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def recorded_side(checkpoint: Mapping[str, Any]) -> int | None:
    """The side of the square that the checkpoint was trained with, where its settings say."""
    cfg = checkpoint.get("cfg")
    for settings in (_part(cfg, "task"), _part(cfg, "model"), checkpoint.get("args")):
        side = _part(settings, "patch_image_size")
        if type(side) is int and side > 0:
            return side
    return None


def _part(settings: Any, name: str) -> Any:
    """An entry of settings that are a table or a namespace; None where there is none."""
    if isinstance(settings, Namespace):
        return getattr(settings, name, None)
    return settings.get(name) if isinstance(settings, Mapping) else None
