"""A complete, random, tiny OFA checkpoint, and the fairseq names of its tensors."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch import nn

from groundling.models.ofa import OFAConfig, OFAModel, OFATokenizer

SENTENCE = "which region does the text describe left right red blue square on in of a person sign"


def tokenizer(text_tokens: int | None = None, codes: int = 8, bins: int = 1000) -> OFATokenizer:
    """Bytes and a few whole words; padded with tokens that never occur where a number is asked."""
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in SENTENCE.split():
        grown = "Ġ"
        for letter in word:
            pair = (grown, letter)
            grown += letter
            if pair not in merges:
                merges.append(pair)
                vocabulary.append(grown)
    if text_tokens is not None:
        vocabulary += [f"madeup{i}" for i in range(text_tokens - len(vocabulary) - 1)]
    vocabulary.append("<mask>")
    return OFATokenizer({token: i for i, token in enumerate(vocabulary)}, merges, codes, bins)


def config(**changes: object) -> OFAConfig:
    """About 0.4 M parameters; pictures of 64 px, which the bins span."""
    words = tokenizer()
    values: dict[str, object] = {
        "vocab_size": len(words),
        "code_dict_size": words.codes,
        "num_bins": words.bins,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 128,
        "token_bucket_size": 16,
        "image_bucket_size": 8,
        "resnet_type": "resnet18",
        "resnet_width": 8,
        "init_std": 0.2,
        "max_image_size": 64,
        "patch_image_size": 64,
    }
    return OFAConfig(**(values | changes))


def model(seed: int = 0, **changes: object) -> OFAModel:
    """A random model in evaluation mode; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = OFAModel(config(**changes))
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made.eval()


def tiny_ofa(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write a whole checkpoint (configuration, safetensors, vocabulary) and return its folder."""
    model(seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


_FAIRSEQ = (
    (r"^(encoder\S+)\.self_attn_mid_layer_norm", r"\1.attn_ln"),
    (r"^(decoder\S+)\.self_attn_mid_layer_norm", r"\1.self_attn_ln"),
    (r"^(decoder\S+)\.cross_attn_mid_layer_norm", r"\1.cross_attn_ln"),
    (r"\.cross_attn_layer_norm", ".encoder_attn_layer_norm"),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.ffn_layer_norm", ".ffn_layernorm"),
)


def fairseq_state(made: OFAModel) -> dict[str, torch.Tensor]:
    """The state of a model as fairseq would have saved it, index buffers and versions included."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in made.state_dict().items():
        for pattern, replacement in _FAIRSEQ:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    for side in ("encoder", "decoder"):
        state[f"{side}.version"] = torch.tensor([3.0])
        state[f"{side}.token_rp_bucket"] = made.encoder.token_rp_bucket.long()
        state[f"{side}.image_rp_bucket"] = made.encoder.image_rp_bucket.long()
    state["decoder.image_position_idx"] = torch.zeros(1026, dtype=torch.long)
    return state
