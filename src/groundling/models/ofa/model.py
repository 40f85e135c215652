"""OFA as a transformers model: published checkpoints load by name, files are safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import Seq2SeqLMOutput

from groundling.models.ofa.config import OFAConfig
from groundling.models.ofa.decoder import OFADecoder
from groundling.models.ofa.encoder import OFAEncoder, OFAEncoding
from groundling.models.ofa.layers import (
    Attention,
    DecoderCache,
    FeedForward,
)


class OFAModel(PreTrainedModel):  # type: ignore[misc]
    """Encoder, decoder and one embedding shared by both and by the output projection.

    Source: Wang et al. 2022 (arXiv 2202.03052). Parameters bear the published names. Index
    buffers are never stored: they follow from the configuration.
    """

    config_class = OFAConfig
    config: OFAConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("EncoderLayer", "DecoderLayer", "Bottleneck")
    _keys_to_ignore_on_load_unexpected = (r"_rp_bucket$", r"image_position_idx$", r"\.version$")
    _tied_weights_keys = {  # noqa: RUF012 - the library's own convention
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "decoder.output_projection.weight": "encoder.embed_tokens.weight",
    }

    def __init__(self, config: OFAConfig) -> None:
        """Raises ValueError for a configuration that no published model has."""
        super().__init__(config)
        problems = config.unsupported()
        if problems:
            raise ValueError(f"not an OFA model of a published kind: {'; '.join(problems)}")
        self.encoder = OFAEncoder(config)
        self.decoder = OFADecoder(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, source: str | Path, *args: Any, **options: Any) -> OFAModel:
        """As the library's, but in float32 unless `dtype` says otherwise, whatever is stored."""
        if "torch_dtype" not in options:
            options.setdefault("dtype", torch.float32)
        model: OFAModel = super().from_pretrained(source, *args, **options)
        return model

    @classmethod
    def load_with_report(
        cls, folder: Path, config: OFAConfig, dtype: torch.dtype
    ) -> tuple[OFAModel, dict[str, Any]]:
        """Load safetensors and say what is amiss.

        `missing_keys` and `mismatched_keys` (of another shape) were left random,
        `unexpected_keys` were left out.
        """
        model, report = super().from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        return model, report

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Attention):
            init.ones_(module.c_attn)
        elif isinstance(module, OFAEncoder | OFADecoder):
            for name, values in module.buckets().items():
                init.copy_(getattr(module, name), values)

    def get_input_embeddings(self) -> nn.Embedding:
        """The shared embedding."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the shared embedding on both sides."""
        self.encoder.embed_tokens = value
        self.decoder.embed_tokens = value

    def set_drop_path(self, rate: float) -> None:
        """Drop-path of the transformer layers: 0 in the first of a stack, `rate` in the last."""
        for layers in (self.encoder.layers, self.decoder.layers):
            for layer, own in zip(
                layers, torch.linspace(0, rate, len(layers)).tolist(), strict=True
            ):
                assert isinstance(layer, FeedForward)
                layer.drop_path.rate = own

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Whether training computes each transformer layer twice instead of keeping its inside.

        The trunk is never computed twice: its batch norms would count every batch twice.
        """
        self.encoder.gradient_checkpointing = on
        self.decoder.gradient_checkpointing = on

    def encode(
        self,
        input_ids: torch.Tensor,
        patch_images: torch.Tensor | None = None,
        patch_masks: torch.Tensor | None = None,
    ) -> OFAEncoding:
        """Tokens (B, L) and pictures (B, 3, H, W) → what the decoder attends to."""
        patches = None if patch_images is None else self.encoder.patches(patch_images)
        encoding: OFAEncoding = self.encoder(input_ids, patches, patch_masks)
        return encoding

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        patch_images: torch.Tensor | None = None,
        patch_masks: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: OFAEncoding | None = None,
        past_key_values: DecoderCache | None = None,
        use_cache: bool = False,
    ) -> Seq2SeqLMOutput:
        """Logits (N, T, V) of the tokens after `decoder_input_ids` (N, T).

        Either `input_ids` (B, L; padded with `pad_token_id`) with `patch_images` (B, 3, H, W; mean
        and standard deviation 0.5; sides multiples of 16) or `encoder_outputs`; `patch_masks` (B,)
        is false where a row has no picture. With a cache, `decoder_input_ids` are the tokens that
        it has not seen. Raises ValueError where inputs are missing or too long.
        """
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("neither input_ids nor encoder_outputs given")
            encoder_outputs = self.encode(input_ids, patch_images, patch_masks)
        if decoder_input_ids is None:
            raise ValueError("decoder_input_ids missing: begin with decoder_start_token_id")
        if use_cache and past_key_values is None:
            past_key_values = self.decoder.new_cache()
        logits = self.decoder(decoder_input_ids, encoder_outputs, past_key_values)
        return Seq2SeqLMOutput(
            logits=logits,
            past_key_values=past_key_values,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )
