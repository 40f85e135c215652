"""Names of fairseq's tensors, written out from its module tree, for every published size."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import tiny_ofa
import torch

from groundling.errors import InputError
from groundling.models.ofa.checkpoints import checked
from groundling.models.ofa.config import SIZES, published
from groundling.models.ofa.fairseq import guess_size, port_name, port_state, recorded_side

SHAPES = {
    "tiny": (256, 4, 4, 4, (3, 4, 6)),
    "medium": (512, 8, 4, 4, (3, 4, 23)),
    "base": (768, 12, 6, 6, (3, 4, 23)),
    "large": (1024, 16, 12, 12, (3, 8, 36)),
    "huge": (1280, 16, 24, 12, (3, 8, 36)),
}
"""Width, heads, encoder layers, decoder layers, blocks of the trunk."""


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def attention(name: str, width: int, heads: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{name}.c_attn": (heads,)}
    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
        found |= linear(f"{name}.{part}", width, width)
    return found


def batch_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    more = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return norm(name, width) | more | {f"{name}.num_batches_tracked": ()}


def trunk(depths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)} | batch_norm("bn1", 64)
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            found |= {
                f"{at}.conv1.weight": (width, channels, 1, 1),
                f"{at}.conv2.weight": (width, width, 3, 3),
                f"{at}.conv3.weight": (4 * width, width, 1, 1),
            }
            for i, size in ((1, width), (2, width), (3, 4 * width)):
                found |= batch_norm(f"{at}.bn{i}", size)
            if block == 0:
                found[f"{at}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                found |= batch_norm(f"{at}.downsample.1", 4 * width)
            channels = 4 * width
    return {f"encoder.embed_images.{name}": shape for name, shape in found.items()}


def fairseq_shapes(size: str) -> dict[str, tuple[int, ...]]:
    width, heads, encoder_layers, decoder_layers, depths = SHAPES[size]
    found = trunk(depths) | linear("encoder.image_proj", 1024, width)
    found["encoder.type_embedding.weight"] = (2, width)
    found["decoder.output_projection.weight"] = (59457, width)
    found |= norm("encoder.patch_layernorm_embedding", width)
    found |= norm("decoder.code_layernorm_embedding", width)
    linears = {
        "encoder": ("pos_q_linear", "pos_k_linear"),
        "decoder": (
            "self_pos_q_linear",
            "self_pos_k_linear",
            "cross_pos_q_linear",
            "cross_pos_k_linear",
        ),
    }
    found["decoder.image_position_idx"] = (1026,)
    for side, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
        found |= {
            f"{side}.version": (1,),
            f"{side}.embed_tokens.weight": (59457, width),
            f"{side}.embed_positions.weight": (1026, width),
            f"{side}.embed_image_positions.weight": (1765, width),
            f"{side}.token_rp_bucket": (1024, 1024),
            f"{side}.image_rp_bucket": (1765, 1765),
        }
        for name in ("layernorm_embedding", "pos_ln", "image_pos_ln", "layer_norm"):
            found |= norm(f"{side}.{name}", width)
        for name in linears[side]:
            found |= linear(f"{side}.{name}", width, width)
        for i in range(layers):
            at = f"{side}.layers.{i}"
            found[f"{side}.token_rel_pos_table_list.{i}.weight"] = (511, heads)
            found[f"{side}.image_rel_pos_table_list.{i}.weight"] = (6892, heads)
            found |= attention(f"{at}.self_attn", width, heads)
            found |= linear(f"{at}.fc1", width, 4 * width) | linear(f"{at}.fc2", 4 * width, width)
            found |= norm(f"{at}.self_attn_layer_norm", width)
            found |= norm(f"{at}.final_layer_norm", width) | norm(f"{at}.ffn_layernorm", 4 * width)
            if side == "encoder":
                found |= norm(f"{at}.attn_ln", width)
            else:
                found |= norm(f"{at}.self_attn_ln", width) | norm(f"{at}.cross_attn_ln", width)
                found |= norm(f"{at}.encoder_attn_layer_norm", width)
                found |= attention(f"{at}.encoder_attn", width, heads)
    return found


def hollow(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that hold one number each."""
    one = torch.zeros(1)
    return {name: one.expand(shape) if shape else torch.tensor(0) for name, shape in shapes.items()}


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_mapped_and_known(size):
    state = hollow(fairseq_shapes(size))
    named = port_state(state)
    assert guess_size(named) == size
    tensors = checked(named, published(size), Path("x.pt"))
    assert len(tensors) == len(state) - 2 * 3 - 1 - 2  # versions, buckets, index; tied twice
    wrong = SIZES[(SIZES.index(size) + 1) % len(SIZES)]
    with pytest.raises(InputError, match="not this OFA"):
        checked(named, published(wrong), Path("x.pt"))


def test_the_two_ways_to_write_the_names_agree():
    made = tiny_ofa.model()
    back = port_state(tiny_ofa.fairseq_state(made))
    assert back.keys() == made.state_dict().keys()


def test_single_names():
    assert port_name("encoder.layers.3.attn_ln.bias") == (
        "encoder.layers.3.self_attn_mid_layer_norm.bias"
    )
    assert port_name("decoder.layers.11.encoder_attn.c_attn") == (
        "decoder.layers.11.cross_attn.c_attn"
    )
    assert port_name("decoder.layers.0.self_attn.k_proj.bias") == (
        "decoder.layers.0.self_attn.k_proj.bias"
    )
    for name in ("decoder.version", "classification_heads.a.dense.weight"):
        assert port_name(name) is None


def test_no_published_size():
    assert guess_size({}) is None
    assert guess_size(tiny_ofa.model().state_dict()) is None


@pytest.mark.parametrize(
    ("checkpoint", "side"),
    [
        ({"cfg": {"task": {"patch_image_size": 480}}}, 480),
        ({"cfg": {"task": Namespace(patch_image_size=256)}}, 256),
        ({"cfg": {"model": Namespace(patch_image_size=384)}}, 384),
        ({"cfg": None, "args": Namespace(patch_image_size=512)}, 512),
        ({"args": Namespace(patch_image_size="512")}, None),
        ({"args": None}, None),
        ({}, None),
    ],
)
def test_the_recorded_square(checkpoint, side):
    assert recorded_side(checkpoint) == side
