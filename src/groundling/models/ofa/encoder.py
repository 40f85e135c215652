"""OFA's encoder: a picture's patches and a text in one sequence, patches first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from groundling.models.ofa.config import OFAConfig
from groundling.models.ofa.layers import EncoderLayer, split_heads
from groundling.models.ofa.positions import (
    TOKEN_POSITIONS,
    image_buckets,
    image_table_rows,
    look_up,
    masked,
    patch_positions,
    token_buckets,
)
from groundling.models.ofa.resnet import ResNet


@dataclass(frozen=True, slots=True)
class Patches:
    """The trunk's cells of some pictures: `cells` (B, P, C), their `positions` (P,) in the grid."""

    cells: torch.Tensor
    positions: torch.Tensor

    def select(self, rows: torch.Tensor) -> Patches:
        """The patches of some pictures, each as often as it is named."""
        return Patches(self.cells.index_select(0, rows), self.positions)


@dataclass(frozen=True, slots=True)
class OFAEncoding:
    """What a decoder attends to: `last_hidden_state` (B, S, D), S = patches + tokens.

    `positions` (1, S, D) are the position embeddings, which examples share; `keep` (B, S) is false
    for padding, None where there is none.
    """

    last_hidden_state: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor | None


class OFAEncoder(nn.Module):
    """Trunk, embeddings and layers; see `OFAModel` for its use."""

    token_rp_bucket: torch.Tensor
    image_rp_bucket: torch.Tensor

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        width, heads, layers = config.d_model, config.encoder_attention_heads, config.encoder_layers
        self.heads = heads
        self.padding_idx = 1 if config.pad_token_id is None else config.pad_token_id
        self.max_tokens = min(config.max_position_embeddings, TOKEN_POSITIONS)
        self.image_bucket_size = config.image_bucket_size
        self.token_bucket_size = config.token_bucket_size
        self.scale = float(width / heads * config.attn_scale_factor) ** -0.5
        self.gradient_checkpointing = False

        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.layernorm_embedding = nn.LayerNorm(width)
        self.type_embedding = nn.Embedding(2, width)
        self.embed_images = ResNet(
            config.trunk_depths, config.resnet_width, config.resnet_drop_path_rate
        )
        self.image_proj = nn.Linear(self.embed_images.channels, width)
        self.patch_layernorm_embedding = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        self.token_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(2 * config.token_bucket_size - 1, heads) for _ in range(layers)
        )
        rows = image_table_rows(config.image_bucket_size)
        self.image_rel_pos_table_list = nn.ModuleList(
            nn.Embedding(rows, heads) for _ in range(layers)
        )
        self.register_buffer(
            "token_rp_bucket", token_buckets(config.token_bucket_size), persistent=False
        )
        self.register_buffer(
            "image_rp_bucket", image_buckets(config.image_bucket_size), persistent=False
        )

        rates = torch.linspace(0, config.encoder_drop_path_rate, layers, device="cpu").tolist()
        self.layers = nn.ModuleList(EncoderLayer(config, rate) for rate in rates)
        self.layer_norm = nn.LayerNorm(width)

    def buckets(self) -> dict[str, torch.Tensor]:
        """The two index buffers, computed afresh from the configuration."""
        return {
            "token_rp_bucket": token_buckets(self.token_bucket_size),
            "image_rp_bucket": image_buckets(self.image_bucket_size),
        }

    def patches(self, pictures: torch.Tensor) -> Patches:
        """Pictures (B, 3, H, W), sides multiples of 16 → their patches, H / 16 × W / 16 each."""
        cells = self.embed_images(pictures.to(self.embed_images.conv1.weight.dtype))
        height, width = cells.shape[-2:]
        positions = patch_positions(height, width, self.image_bucket_size, cells.device)
        return Patches(cells.flatten(2).transpose(1, 2), positions)

    def forward(
        self,
        input_ids: torch.Tensor,
        patches: Patches | None = None,
        patch_masks: torch.Tensor | None = None,
    ) -> OFAEncoding:
        """Tokens (B, L), padded at the end; `patch_masks` (B,) is false for a missing picture."""
        if input_ids.shape[1] > self.max_tokens:
            raise ValueError(f"{input_ids.shape[1]} tokens; at most {self.max_tokens} can be read")
        keep = self._keep(input_ids, patches, patch_masks)
        states = self._embed(input_ids, patches)
        positions = self._positions(input_ids.shape[1], patches)
        absolute = torch.matmul(
            split_heads(self.pos_q_linear(positions), self.heads) * self.scale,
            split_heads(self.pos_k_linear(positions), self.heads).transpose(2, 3),
        )
        token_index = self.token_rp_bucket[: input_ids.shape[1], : input_ids.shape[1]]
        image_index = None
        if patches is not None:
            image_index = self.image_rp_bucket[patches.positions][:, patches.positions]
        if keep is not None:
            states = states * keep[..., None].to(states.dtype)
        for i in range(len(self.layers)):
            if self.gradient_checkpointing and self.training:
                states = checkpoint(
                    self._layer,
                    i,
                    states,
                    absolute,
                    token_index,
                    image_index,
                    keep,
                    use_reentrant=False,
                )
            else:
                states = self._layer(i, states, absolute, token_index, image_index, keep)
        return OFAEncoding(self.layer_norm(states), positions, keep)

    def _layer(
        self,
        i: int,
        states: torch.Tensor,
        absolute: torch.Tensor,
        token_index: torch.Tensor,
        image_index: torch.Tensor | None,
        keep: torch.Tensor | None,
    ) -> torch.Tensor:
        """One layer with its own bias; only this layer's bias exists at a time."""
        bias = absolute.clone()
        count = bias.shape[-1] - len(token_index)
        bias[..., count:, count:] += look_up(token_index, self.token_rel_pos_table_list[i])
        if image_index is not None:
            bias[..., :count, :count] += look_up(image_index, self.image_rel_pos_table_list[i])
        if keep is not None:
            bias = masked(bias, keep[:, None, None, :])
        out: torch.Tensor = self.layers[i](states, bias)
        return out

    def _keep(
        self, input_ids: torch.Tensor, patches: Patches | None, patch_masks: torch.Tensor | None
    ) -> torch.Tensor | None:
        keep = input_ids.ne(self.padding_idx)
        if patches is not None:
            there = torch.ones_like(keep[:, :1]) if patch_masks is None else patch_masks[:, None]
            keep = torch.cat([there.expand(-1, patches.cells.shape[1]), keep], 1)
        return None if bool(keep.all()) else keep

    def _embed(self, input_ids: torch.Tensor, patches: Patches | None) -> torch.Tensor:
        text_type, picture_type = self.type_embedding.weight
        text: torch.Tensor = self.embed_tokens(input_ids) + text_type
        text = self.dropout(self.layernorm_embedding(text))
        if patches is None:
            return text
        cells = self.patch_layernorm_embedding(self.image_proj(patches.cells) + picture_type)
        return torch.cat([self.dropout(cells), text], 1)

    def _positions(self, tokens: int, patches: Patches | None) -> torch.Tensor:
        text: torch.Tensor = self.pos_ln(self.embed_positions.weight[:tokens])[None]
        if patches is None:
            return text
        cells = self.image_pos_ln(self.embed_image_positions(patches.positions))[None]
        return torch.cat([cells, text], 1)
