"""A tiny random model of every family of writers, complete with tokenizer and processor.

Each is the real class over the real processor, small enough for tests; `build(NAME)` returns model
and processor, the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tiny
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    MllamaConfig,
    MllamaProcessor,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3_5Config,
    Qwen3VLConfig,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.models.families.internvl import StillInternVLProcessor
from groundling.models.families.qwen2_5_vl import Qwen25VL
from groundling.models.families.qwen3_vl import Qwen3VL


def chat_template(picture: str, begin: str = "") -> str:
    """One layout for all families, but for how a picture is written."""
    template = tiny.CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", picture)
    return begin + template


def text_sizes(words: Any) -> dict[str, Any]:
    """Two layers with grouped-query attention."""
    return {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def _qwen_tokens(words: Any) -> dict[str, Any]:
    ids = words.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": False,
    }


def qwen2_vl() -> tuple[Any, Any]:
    """As in `tiny`."""
    words = tiny.tokenizer()
    return tiny.config(words, {}, {}), tiny.processor()


def qwen2_5_vl() -> tuple[Any, Any]:
    """Windowed attention in the first layer of the tower, full in the second."""
    words = tiny.tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            **text_sizes(words),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        **_qwen_tokens(words),
    )
    pixels = tiny.image_processor(min_pixels=28 * 28, max_pixels=16 * 28 * 28)
    made = Qwen25VL.processor_class(pixels, words, chat_template=tiny.CHAT_TEMPLATE)
    return config, made


def _qwen3(kind: type, text: dict[str, Any], vision: dict[str, Any]) -> tuple[Any, Any]:
    words = tiny.tokenizer()
    config = kind(
        text_config={
            **text_sizes(words),
            "head_dim": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 36,
            "initializer_range": 0.2,
            **vision,
        },
        **_qwen_tokens(words),
    )
    pixels = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 16 * 32 * 32}, patch_size=16
    )
    return config, Qwen3VL.processor_class(pixels, words, chat_template=tiny.CHAT_TEMPLATE)


def qwen3_vl() -> tuple[Any, Any]:
    """With one deepstack layer."""
    return _qwen3(Qwen3VLConfig, {}, {"deepstack_visual_indexes": [0]})


def qwen3_5() -> tuple[Any, Any]:
    """One layer of linear attention, one of full attention."""
    linear = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "partial_rotary_factor": 1.0,
    }
    return _qwen3(Qwen3_5Config, linear, {})


def llava_next() -> tuple[Any, Any]:
    """Over a Llama; pictures of up to four tiles of 28 pixels."""
    words = tiny.tokenizer(
        [*tiny.SPECIALS, "<s>", "<image>"],
        bos_token="<s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        text_config=LlamaConfig(**text_sizes(words)),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            initializer_range=0.2,
        ),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=4,
    )
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=pinpoints,
    )
    made = LlavaNextProcessor(
        pixels,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat_template("<image>\n"),
        num_additional_image_tokens=1,
    )
    return config, made


def mllama() -> tuple[Any, Any]:
    """Three layers, the middle one of cross-attention; pictures of up to four tiles."""
    words = tiny.tokenizer(
        [*tiny.SPECIALS, "<|begin_of_text|>", "<|image|>", "<|python_tag|>"],
        bos_token="<|begin_of_text|>",
        extra_special_tokens={"image_token": "<|image|>"},
    )
    config = MllamaConfig(
        text_config=MllamaTextConfig(
            **{**text_sizes(words), "num_hidden_layers": 3},
            cross_attention_layers=[1],
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        ),
        vision_config=MllamaVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=2,
            intermediate_size=48,
            vision_output_dim=64,
            image_size=28,
            patch_size=14,
            max_num_tiles=4,
            intermediate_layers_indices=[0],
            initializer_range=0.2,
        ),
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    pixels = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4)
    made = MllamaProcessor(
        pixels, words, chat_template=chat_template("<|image|>", "<|begin_of_text|>")
    )
    return config, made


def internvl() -> tuple[Any, Any]:
    """Over a Qwen2; pictures of up to four tiles of 28 pixels."""
    extra = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    words = tiny.tokenizer(
        [*tiny.SPECIALS, *extra],
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    config = InternVLConfig(
        text_config=Qwen2Config(**text_sizes(words)),
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=[28, 28],
            patch_size=[7, 7],
            initializer_range=0.2,
        ),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    pixels = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    made = StillInternVLProcessor(
        pixels, words, image_seq_length=4, chat_template=chat_template("<IMG_CONTEXT>\n")
    )
    return config, made


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    made.__name__: made
    for made in (qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, llava_next, mllama, internvl)
}


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A random model of the family in evaluation mode, and its processor."""
    config, processor = FAMILIES[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForImageTextToText.from_config(config).eval(), processor
