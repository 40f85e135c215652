"""Complete, random, tiny checkpoints of Grounding DINO, MM-Grounding-DINO and Florence-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AddedToken,
    BartConfig,
    BartTokenizer,
    BertConfig,
    BertTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)

from groundling.models.quiet import quiet_library

WORDS = ["the", "a", "red", "blue", "square", "circle", "on", "left", "right", "of", "in", "person"]
WORDS += ["man", "beside", "##s", ",", "mr", "bean", "3", "5"]
_FIXED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
"""Numbers of BERT's uncased vocabulary that Grounding DINO is built on."""

_SCORED = ("decoder.layer_norm.weight", "enc_output_norm.weight")
"""Norms of what is scored against tokens: at 1, fresh scores would be ±8 and slow to unlearn."""


def bert_tokenizer() -> BertTokenizer:
    """Whole words after 1030 numbers that are unused, but for BERT's own."""
    tokens = [f"[unused{number}]" for number in range(1030)] + WORDS
    for token, number in _FIXED.items():
        tokens[number] = token
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def tiny_dino(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Grounding DINO with 0.5 M parameters; pictures of 40 to 60 px. Returns the folder."""
    return _dino(folder, GroundingDinoConfig, GroundingDinoForObjectDetection, seed, changes)


def tiny_mm_dino(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """MM-Grounding-DINO, the same size. Returns the folder."""
    return _dino(folder, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection, seed, changes)


def _dino(folder: Path, config: Any, model: Any, seed: int, changes: dict[str, Any]) -> Path:
    tokenizer = bert_tokenizer()
    values: dict[str, Any] = {
        "backbone_config": SwinConfig(
            image_size=40,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            out_indices=[2, 3, 4],
            drop_path_rate=0.0,
        ),
        "text_config": BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        "num_queries": 20,
        "encoder_layers": 1,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "d_model": 64,
        "num_feature_levels": 3,
        "max_text_len": 32,
        "dropout": 0.0,
        "fusion_droppath": 0.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = model(config(**(values | changes)))
        for name, parameter in made.named_parameters():
            if name.endswith(("vision_param", "text_param")):  # 1e-4 in a fresh model: hardly fused
                torch.nn.init.ones_(parameter)
            if name.endswith("layers.2.weight"):  # 0 in a fresh model: no box leaves its cell
                torch.nn.init.normal_(parameter, std=0.05)
            if model is GroundingDinoForObjectDetection and name.endswith(_SCORED):
                torch.nn.init.constant_(parameter, 0.1)
    with quiet_library():
        made.save_pretrained(folder)
    pictures = GroundingDinoImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 60})
    GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def tiny_florence2(folder: Path, seed: int = 0) -> Path:
    """Florence-2 with 0.3 M parameters; pictures of 32 × 32 px. Returns the folder."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    tokenizer = BartTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    locations = [f"<loc_{number}>" for number in range(1000)]
    special = ["<od>", "</od>", *locations, "<sep>", "<poly>", "</poly>"]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special])
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    vision = Florence2VisionConfig(
        depths=(1, 1),
        patch_size=(7, 3),
        patch_stride=(4, 2),
        patch_padding=(3, 1),
        patch_prenorm=(False, True),
        embed_dim=(8, 16),
        num_heads=(2, 2),
        num_groups=(2, 2),
        window_size=4,
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Florence2ForConditionalGeneration(
            Florence2Config(
                text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id
            )
        )
    with quiet_library():
        made.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False, default_to_square=True
    )
    pictures.image_seq_length = 17
    rules = {"description_with_bboxes_or_polygons": {}, "phrase_grounding": {}}
    Florence2Processor(pictures, tokenizer, post_processor_config=rules).save_pretrained(folder)
    return folder
