"""The configuration of an OFA model, and the five published sizes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

SIZES = ("tiny", "medium", "base", "large", "huge")
"""The published sizes, smallest first; a configuration each in `assets/configs/ofa`."""

_TRUNKS = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}

_TELLING = (
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "resnet_type",
)
"""The fields that tell the published sizes apart."""


class OFAConfig(PreTrainedConfig):  # type: ignore[misc]
    """The fields of the published `config.json` files, with the published defaults.

    Three groups are ours, named as in OFA's training code and absent from some published files:
    the vocabulary's layout (`code_dict_size` image codes, then `num_bins` bins, at its end), the
    grounding convention (`max_image_size`, the pixels that the bins span; `patch_image_size`, the
    side of the square that pictures are squeezed to, None where the file does not say) and
    `resnet_width`, the channels of the trunk's stem, always 64 in published models.
    """

    model_type = "ofa"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {  # noqa: RUF012 - a class attribute of the library, not a field
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 59457
    max_position_embeddings: int = 1024
    d_model: int = 768
    encoder_layers: int = 6
    encoder_ffn_dim: int = 3072
    encoder_attention_heads: int = 12
    decoder_layers: int = 6
    decoder_ffn_dim: int = 3072
    decoder_attention_heads: int = 12
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    normformer: bool = True
    activation_function: str = "gelu"
    scale_embedding: bool = False
    layernorm_embedding: bool = True
    patch_layernorm_embedding: bool = True
    code_layernorm_embedding: bool = True
    add_type_embedding: bool = True
    entangle_position_embedding: bool = False
    share_decoder_input_output_embed: bool = True
    attn_scale_factor: float = 2.0
    token_bucket_size: int = 256
    image_bucket_size: int = 42
    code_image_size: int = 128
    resnet_type: str = "resnet101"
    resnet_width: int = 64
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    encoder_drop_path_rate: float = 0.0
    decoder_drop_path_rate: float = 0.0
    resnet_drop_path_rate: float = 0.0
    init_std: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    decoder_start_token_id: int | None = 0
    forced_eos_token_id: int | None = 2
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    code_dict_size: int = 8192
    num_bins: int = 1000
    max_image_size: int = 512
    patch_image_size: int | None = None

    @property
    def trunk_depths(self) -> tuple[int, int, int]:
        """Blocks in the three stages of the residual trunk; raises ValueError for another trunk."""
        if self.resnet_type not in _TRUNKS:
            raise ValueError(
                f"resnet_type {self.resnet_type!r}; wanted one of {', '.join(_TRUNKS)}"
            )
        return _TRUNKS[self.resnet_type]

    def unsupported(self) -> list[str]:
        """What this configuration asks for that no published model uses and none here has."""
        wanted = {
            "scale_embedding": False,
            "layernorm_embedding": True,
            "patch_layernorm_embedding": True,
            "add_type_embedding": True,
            "entangle_position_embedding": False,
            "share_decoder_input_output_embed": True,
            "encoder_normalize_before": True,
            "decoder_normalize_before": True,
            "normformer": True,
            "activation_function": "gelu",
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
        }
        return [
            f"{name} {getattr(self, name)!r} (wanted {value!r})"
            for name, value in wanted.items()
            if getattr(self, name) != value
        ]


def published(size: str) -> OFAConfig:
    """The configuration of a published size; raises KeyError for another name."""
    return OFAConfig(**_facts(size))


def size_of(config: OFAConfig) -> str | None:
    """Which published size a configuration has, None for a model of another shape."""
    for size in SIZES:
        facts = _facts(size)
        if all(getattr(config, name) == facts[name] for name in _TELLING):
            return size
    return None


def _facts(size: str) -> dict[str, Any]:
    if size not in SIZES:
        raise KeyError(size)
    folder = Path(str(resources.files("groundling"))) / "assets" / "configs" / "ofa"
    facts: dict[str, Any] = json.loads((folder / f"{size}.json").read_text(encoding="utf-8"))
    return facts
