"""The parts of the tiny writer before it has learned anything: tokenizer, processor, network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from groundling import prompts
from groundling.models.qwen2vl import Qwen2VLProcessor, image_processor
from groundling.records import ABSENT, ENTITY_TYPES
from groundling.toyworld import identities as who
from groundling.toyworld.annotator import write_expert
from groundling.toyworld.lessons import BROAD, draw_lesson
from groundling.toyworld.posts import draw_post
from groundling.toyworld.scene import draw_scene

SIZE_PX = 112
"""Side of the square that the writer resizes its pictures to; 8 × 8 patches, 4 × 4 tokens."""

VOCABULARY = 1024
SECTIONS = [1] * 24
"""Which axis (time, row, column, time, …) each rotary frequency turns with. In three blocks, the
slowest third would be the columns' own, and 4 columns would look all the same; in turns, as newer
models of the family have it, every axis has fast frequencies."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PICTURES = ("<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus(seed: int) -> Iterator[str]:
    """Text to learn a vocabulary from: names, lessons, posts, expressions and the prompts."""
    yield from (prompts.EXPERT, prompts.WRITE, prompts.GROUND_DIRECTLY, ABSENT) * 40
    for name, (entity_type, _) in who.NAMES.items():
        yield from (f"Entity: {name} ({entity_type})", f"{name} is here") * 4
    yield from (f"Entity: ({t})" for t in ENTITY_TYPES)
    rng = np.random.default_rng([seed, 5])
    for i in range(1500):
        scene = draw_scene(rng, "pretraining")
        for _ in range(4):
            _, lesson = draw_lesson(scene, rng, BROAD)
            yield from (lesson.question, lesson.answer)
        yield draw_post(str(i), scene, rng, mention_share=0.55).post.text
        yield from (write_expert(scene, referent, rng) for referent in scene.referents())


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus: any text can be written, common words are one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIALS, *PICTURES],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(corpus(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        padding_side="left",
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """The stock Qwen2-VL processor, set to SIZE_PX² pixels a picture."""
    return Qwen2VLProcessor(
        image_processor=image_processor(min_pixels=SIZE_PX**2, max_pixels=SIZE_PX**2),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2VLForConditionalGeneration:
    """A randomly initialised `Qwen2VLForConditionalGeneration` of about 2.7 M parameters."""
    ids = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": SECTIONS},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
    }
    vision = {
        "depth": 4,
        "embed_dim": 128,
        "hidden_size": 192,
        "num_heads": 4,
        "mlp_ratio": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return Qwen2VLForConditionalGeneration(config)
