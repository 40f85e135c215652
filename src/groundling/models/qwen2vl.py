"""What is particular to the Qwen2-VL family: its pixels, its vision tower, its positions.

A shared module, no backend: it turns pictures into image tokens and runs the language model on
tokens that the caller lays out, with an attention that the caller brings. The layers, and so the
adapter inside them, are those of transformers; only the order of work is ours. Everything here
equals the stock forward pass and is tested against it. The vision tower is batched over pictures
of one size, which the stock one attends to one at a time where FlashAttention is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen2_vl import processing_qwen2_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from groundling.errors import ImageError, InputError
from groundling.models.coordinates import Size
from groundling.models.still import without_video

MODEL_TYPE = "qwen2_vl"
"""The `model_type` of the checkpoints this module can run."""


TOWER_PATCHES = 1 << 14
"""Patches that go through the vision tower together at most: what bounds its memory."""

Qwen2VLProcessor: Any = without_video(processing_qwen2_vl.Qwen2VLProcessor)
"""The stock processor without its video half."""


def image_processor(min_pixels: int, max_pixels: int) -> Any:
    """A stock PIL image processor that keeps a picture's area between the two limits, in pixels."""
    return Qwen2VLImageProcessorPil(size={"shortest_edge": min_pixels, "longest_edge": max_pixels})


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """A picture as the language model sees it: features (n, hidden), n = rows × columns."""

    features: torch.Tensor
    grid: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """The memory of the features, in bytes."""
        return self.features.nbytes


class Attention(Protocol):
    """Lets tokens look at one another; it alone knows which tokens are whose."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attend in layer number `layer`; each argument (B, T, its heads, head size).

        In the last layer the queries may be fewer than the keys: the kept columns. Returns the
        mixed values in the shape of the queries.
        """
        ...


def fitted_wh_px(size_wh_px: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """The size that `smart_resize` gives a picture: sides of whole `factor`s, area within limits.

    Raises ValueError for a picture over 200 times longer than wide, or the reverse, and for one so
    thin that its shorter side, kept at one `factor`, would carry it over `max_pixels`: the stock
    processor lets that pass. Where both limits are one number, as in the packaged writer, rounding
    up to the lower one may pass the upper one a little; that is the checkpoint's own choice.
    """
    width, height = size_wh_px
    rows, columns = smart_resize(
        height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels
    )
    if min(rows, columns) == factor and rows * columns > max_pixels:
        raise ValueError(
            f"too long and thin: given to the model as {columns} × {rows} px it would exceed the "
            f"{max_pixels} pixels allowed; crop it, or raise max_pixels to {rows * columns}"
        )
    return columns, rows


class PictureRules:
    """How pictures become patches: sizes in pixels, normalisation; read off an image processor.

    Resizing is Pillow's where the processor is the stock one over Pillow. Where it is another, as
    on a machine with torchvision, the processor itself resizes, so that pixels are those of the
    stock forward pass on that machine.
    """

    def __init__(self, processor: Any, max_pixels: int | None = None) -> None:
        self._other = None if type(processor) is Qwen2VLImageProcessorPil else processor
        self.patch_px = int(processor.patch_size)
        self.merge = int(processor.merge_size)
        self.min_pixels = int(processor.size["shortest_edge"])
        self.max_pixels = max_pixels or int(processor.size["longest_edge"])
        self._resample = Image.Resampling(int(processor.resample))
        scale = float(processor.rescale_factor)
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std)
        )
        self._gain, self._offset = scale / std, mean / std

    def fit(self, picture: Image.Image) -> Image.Image:
        """Resize to whole merged patches within the pixel limits, as the processor does (bicubic).

        Raises ImageError where `fitted_wh_px` finds no such size.
        """
        try:
            columns, rows = fitted_wh_px(
                picture.size, self.patch_px * self.merge, self.min_pixels, self.max_pixels
            )
        except ValueError as fault:
            width, height = picture.size
            raise ImageError(f"picture of {width}×{height} px: {fault}") from fault
        if (columns, rows) == picture.size:
            return picture
        if self._other is not None:
            return self._resized_by(self._other, picture, rows, columns)
        return picture.resize((columns, rows), self._resample)

    def _resized_by(
        self, processor: Any, picture: Image.Image, rows: int, columns: int
    ) -> Image.Image:
        """What a processor makes of a picture but for its normalisation, put together again."""
        made = processor(
            images=[picture],
            size={"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            do_rescale=False,
            do_normalize=False,
            return_tensors="pt",
        )
        block, patch = self.merge, self.patch_px
        grid = (rows // (patch * block), columns // (patch * block), block, block)
        tiles = made["pixel_values"].reshape(*grid, 3, -1, patch, patch)[:, :, :, :, :, 0]
        pixels = tiles.permute(0, 2, 5, 1, 3, 6, 4).reshape(rows, columns, 3)
        return Image.fromarray(pixels.float().round().clamp(0, 255).byte().numpy())

    def patches(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """N fitted pictures of one size as patches (N, S, 3 · patch²), in merged-block order."""
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        values = pixels.permute(0, 3, 1, 2).float() * self._gain - self._offset
        count, _, height, width = values.shape
        block, patch = self.merge, self.patch_px
        rows, columns = height // (patch * block), width // (patch * block)
        tiles = values.view(count, 3, rows, block, patch, columns, block, patch)
        tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)
        return tiles.reshape(count, rows * columns * block * block, 3 * patch * patch)


def runs_by_hand(config: Any) -> bool:
    """Whether a model's layers are the ones laid out here; the others run as they are."""
    if config.model_type != MODEL_TYPE:
        return False
    text = config.text_config
    return (
        "sliding_attention" not in text.layer_types
        and text.rope_parameters.get("rope_type") not in ("dynamic", "longrope")
        and len(text.rope_parameters["mrope_section"]) % 3 == 0
    )


class Qwen2VL:
    """A Qwen2-VL model with its parts in reach; the weights stay those of `model`.

    Raises InputError for a model that `runs_by_hand` refuses.
    """

    def __init__(self, model: Any, rules: PictureRules) -> None:
        if not runs_by_hand(model.config):
            raise InputError(f"{model.config.model_type}: wanted a full-attention Qwen2-VL")
        sections = torch.tensor(model.config.text_config.rope_parameters["mrope_section"])
        self._language = model.model.language_model
        self._visual = model.model.visual
        self._head = model.lm_head
        self.rules = rules
        self.device: torch.device = self._language.embed_tokens.weight.device
        self.dtype: torch.dtype = self._language.embed_tokens.weight.dtype
        axes = torch.arange(len(sections)) % 3
        self._axes = torch.repeat_interleave(axes, sections).to(self.device)

    @torch.no_grad()
    def look(self, pictures: Sequence[Image.Image]) -> list[ImageTokens]:
        """The image tokens of fitted pictures; those of one size go through the tower together.

        At most TOWER_PATCHES patches at once, but always one picture.
        """
        sizes = [picture.size for picture in pictures]
        seen: dict[int, ImageTokens] = {}
        for size_wh_px in dict.fromkeys(sizes):
            places = [place for place, size in enumerate(sizes) if size == size_wh_px]
            columns, rows = (
                side // (self.rules.patch_px * self.rules.merge) for side in size_wh_px
            )
            together = max(1, TOWER_PATCHES // (rows * columns * self.rules.merge**2))
            for start in range(0, len(places), together):
                part = places[start : start + together]
                patches = self.rules.patches([pictures[place] for place in part])
                features = self.tower(patches.to(self.device, self.dtype), (rows, columns))
                for place, feature in zip(part, features, strict=True):
                    seen[place] = ImageTokens(feature.clone(), (rows, columns))
        return [seen[place] for place in range(len(pictures))]

    def tower(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The stock vision transformer on (N, S, 3 · patch²), attention within each picture.

        Returns (N, S / merge², hidden). The patch convolution has its stride for a kernel, so it
        is a matrix product; a still picture fills all its time steps alike, so they are summed.
        """
        visual = self._visual
        kernel = visual.patch_embed.proj.weight
        states = patches @ kernel.sum(dim=2).flatten(1).T
        turn = self._vision_rotation(grid)
        for block in visual.blocks:
            states = states + _vision_attention(block.attn, block.norm1(states), turn)
            states = states + block.mlp(block.norm2(states))
        merged: torch.Tensor = visual.merger(states)
        return merged.view(len(patches), -1, merged.shape[-1])

    def _vision_rotation(self, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine (S, 1, head size) of the tower's rotary embedding, block by block."""
        merge = self.rules.merge
        rows, columns = (torch.arange(side * merge, device=self.device) for side in grid)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        places = places.view(grid[0], merge, grid[1], merge, 2).transpose(1, 2).reshape(-1, 2)
        angles = (places[..., None] * self._visual.rotary_pos_emb.inv_freq.float()).flatten(1)
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return angles.cos(), angles.sin()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) as input embeddings (B, T, hidden); image tokens are put in after."""
        return cast(torch.Tensor, self._language.embed_tokens(ids))

    def run(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        kept: torch.Tensor | None = None,
        checkpointing: bool = False,
    ) -> torch.Tensor:
        """Last hidden states of embeddings (B, T, hidden) at M-RoPE positions (3, B, T).

        `kept` (B, R) names the columns whose states are wanted: the last layer computes no
        others, and (B, R, hidden) comes back. `checkpointing` recomputes each layer in the
        backward pass instead of storing it; `attention` must then keep nothing.
        """
        turn = self._rotation(positions)
        states = embeddings
        last = len(self._language.layers) - 1
        for index, layer in enumerate(self._language.layers):
            block = partial(_block, layer, index, attention, kept if index == last else None)
            states = (
                checkpoint(block, states, turn, use_reentrant=False)
                if checkpointing
                else block(states, turn)
            )
        return cast(torch.Tensor, self._language.norm(states))

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine (B, T, 1, head size) of M-RoPE positions (3, B, T).

        Each frequency turns with the axis (time, row or column) that its section names.
        """
        rotary = self._language.rotary_emb
        angles = positions[..., None].float() * rotary.inv_freq.float()
        angles = angles.gather(0, self._axes.expand(1, *angles.shape[1:]))[0]
        angles = torch.cat([angles, angles], dim=-1)[:, :, None]
        scale = rotary.attention_scaling
        return (angles.cos() * scale).to(self.dtype), (angles.sin() * scale).to(self.dtype)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (…, hidden) to vocabulary logits (…, V), in the model's precision."""
        return cast(torch.Tensor, self._head(hidden))


def _block(
    layer: Any,
    index: int,
    attention: Attention,
    kept: torch.Tensor | None,
    states: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """One decoder layer on (B, T, hidden); only the `kept` columns (B, R) go past its keys."""
    parts = layer.self_attn
    seen = layer.input_layernorm(states)
    key = _rotate(_heads(parts.k_proj(seen), parts.head_dim), turn)
    value = _heads(parts.v_proj(seen), parts.head_dim)
    if kept is not None:
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        seen, states, turn = seen[rows, kept], states[rows, kept], _at(turn, rows, kept)
    query = _rotate(_heads(parts.q_proj(seen), parts.head_dim), turn)
    states = states + parts.o_proj(attention(index, query, key, value).flatten(2))
    return cast(torch.Tensor, states + layer.mlp(layer.post_attention_layernorm(states)))


def _heads(projected: torch.Tensor, size: int) -> torch.Tensor:
    return projected.view(*projected.shape[:-1], -1, size)


def _at(
    turn: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return turn[0][rows, kept], turn[1][rows, kept]


def _vision_attention(
    layer: Any, states: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    count, length, width = states.shape
    parts = layer.qkv(states).view(count, length, 3, layer.num_heads, -1)
    query, key, value = parts.unbind(2)
    query, key = (_rotate(part.float(), turn).to(part.dtype) for part in (query, key))
    mixed = scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return cast(torch.Tensor, layer.proj(mixed.transpose(1, 2).reshape(count, length, width)))


def _rotate(vectors: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn vectors (…, heads, head size) by cosine and sine (…, 1, head size)."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]


@lru_cache(maxsize=4096)
def prompt_positions(length: int, image_start: int, grid: tuple[int, int]) -> NDArray[np.int64]:
    """M-RoPE positions (3, length): time, row, column of a prompt with one still picture.

    Text counts on along all three axes; the picture's tokens share one time and spread over rows
    and columns; what follows goes on from the largest position so far (Qwen2-VL, arXiv:2409.12191,
    §2.1). The result is cached: do not write to it.
    """
    rows, columns = grid
    image_end = image_start + rows * columns
    positions = np.tile(np.arange(length, dtype=np.int64), (3, 1))
    positions[0, image_start:image_end] = image_start
    positions[1, image_start:image_end] = image_start + np.repeat(np.arange(rows), columns)
    positions[2, image_start:image_end] = image_start + np.tile(np.arange(columns), rows)
    positions[:, image_end:] += max(rows, columns) - rows * columns
    positions.flags.writeable = False
    return positions
