"""OFA's decoder, for text and bins; what it has for image codes is loaded and kept, never used."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from groundling.models.ofa.config import OFAConfig
from groundling.models.ofa.encoder import OFAEncoding
from groundling.models.ofa.layers import DecoderCache, DecoderLayer, LayerCache, split_heads
from groundling.models.ofa.positions import (
    TOKEN_POSITIONS,
    image_table_rows,
    look_up,
    masked,
    token_buckets,
)

CODE_ONLY = (
    "code_layernorm_embedding",
    "embed_image_positions",
    "image_pos_ln",
    "image_rel_pos_table_list",
)
"""Modules that only the generation of image codes uses: part of every published checkpoint."""


class OFADecoder(nn.Module):
    """Embeddings, layers and the output projection; see `OFAModel` for its use."""

    token_rp_bucket: torch.Tensor

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        width, heads, layers = config.d_model, config.decoder_attention_heads, config.decoder_layers
        self.heads = heads
        self.max_tokens = min(config.max_position_embeddings, TOKEN_POSITIONS)
        self.token_bucket_size = config.token_bucket_size
        self.scale = float(width / heads * config.attn_scale_factor) ** -0.5
        self.gradient_checkpointing = False

        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.layernorm_embedding = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.pos_ln = nn.LayerNorm(width)
        self.self_pos_q_linear = nn.Linear(width, width)
        self.self_pos_k_linear = nn.Linear(width, width)
        self.cross_pos_q_linear = nn.Linear(width, width)
        self.cross_pos_k_linear = nn.Linear(width, width)
        self.token_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(2 * config.token_bucket_size - 1, heads) for _ in range(layers)
        )
        self.register_buffer(
            "token_rp_bucket", token_buckets(config.token_bucket_size), persistent=False
        )

        if config.code_layernorm_embedding:
            self.code_layernorm_embedding = nn.LayerNorm(width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.image_pos_ln = nn.LayerNorm(width)
        rows = image_table_rows(config.image_bucket_size)
        self.image_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(rows, heads) for _ in range(layers)
        )

        rates = torch.linspace(0, config.decoder_drop_path_rate, layers, device="cpu").tolist()
        self.layers = nn.ModuleList(DecoderLayer(config, rate) for rate in rates)
        self.layer_norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)

    def buckets(self) -> dict[str, torch.Tensor]:
        """The index buffer, computed afresh from the configuration."""
        return {"token_rp_bucket": token_buckets(self.token_bucket_size)}

    def new_cache(self) -> DecoderCache:
        """An empty cache."""
        return DecoderCache([LayerCache() for _ in self.layers])

    def forward(
        self, input_ids: torch.Tensor, encoding: OFAEncoding, cache: DecoderCache | None = None
    ) -> torch.Tensor:
        """Tokens (N, T), those after the cache's → logits (N, T, V).

        N may be a multiple of the encoding's B: the rows of one example stand together. The cache
        is brought up to date.
        """
        seen = 0 if cache is None else cache.length
        total = seen + input_ids.shape[1]
        if total > self.max_tokens:
            raise ValueError(f"{total} tokens; at most {self.max_tokens} can be written")
        own, cross = self._absolute(seen, total, encoding, cache)
        if encoding.keep is not None:
            cross = masked(cross, encoding.keep[:, None, None, :])
        cross = cross.repeat(1, 1, len(input_ids) // len(encoding.last_hidden_state), 1)
        index = self.token_rp_bucket[seen:total, :total]
        past = torch.ones(total, total, dtype=torch.bool, device=input_ids.device).tril()[seen:]

        states = self.dropout(self.layernorm_embedding(self.embed_tokens(input_ids)))
        for i in range(len(self.layers)):
            arguments = (states, encoding.last_hidden_state, own, cross, index, past)
            if cache is None and self.gradient_checkpointing and self.training:
                states = checkpoint(self._layer, i, *arguments, use_reentrant=False)
            else:
                states = self._layer(i, *arguments, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.length = total
        logits: torch.Tensor = self.output_projection(self.layer_norm(states))
        return logits

    def _layer(
        self,
        i: int,
        states: torch.Tensor,
        encoded: torch.Tensor,
        own: torch.Tensor,
        cross: torch.Tensor,
        index: torch.Tensor,
        past: torch.Tensor,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        own = masked(own + look_up(index, self.token_rel_pos_table_list[i]), past)
        out: torch.Tensor = self.layers[i](states, encoded, own, cross, cache)
        return out

    def _absolute(
        self, seen: int, total: int, encoding: OFAEncoding, cache: DecoderCache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Biases of absolute positions: (1, heads, T, total) and (1, heads, T, S)."""
        positions = self.pos_ln(self.embed_positions.weight[:total])[None]
        cross_keys = None if cache is None else cache.cross_positions
        if cross_keys is None:
            cross_keys = split_heads(self.cross_pos_k_linear(encoding.positions), self.heads)
            if cache is not None:
                cache.cross_positions = cross_keys
        own_keys = split_heads(self.self_pos_k_linear(positions), self.heads)
        new = positions[:, seen:]
        own = split_heads(self.self_pos_q_linear(new), self.heads) * self.scale
        cross = split_heads(self.cross_pos_q_linear(new), self.heads) * self.scale
        return own @ own_keys.transpose(2, 3), cross @ cross_keys.transpose(2, 3)
