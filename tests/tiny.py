"""A tiny random Qwen2-VL, complete with tokenizer and processor, built in memory and seeded.

Small enough for tests (0.1 M parameters by default), yet the real architecture: what holds here
for masks, positions and caches holds for a 7B checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from groundling.models.engines import Ask
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.models.qwen2vl import Qwen2VLProcessor, image_processor
from groundling.prompts import WRITE, entity_phrase
from groundling.records import ABSENT, Query

SPECIALS = ["<pad>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
PICTURES = ["<|image_pad|>", "<|video_pad|>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's layout, but no line feed after a turn: a turn ends with its end token."""

ROUNDING = 100 * torch.finfo(torch.float32).eps
"""What may differ, relative to the largest value, where the same sums are done in another order.

One sum ends at most a few units in the last place (ULPs) apart; a pass through a tiny model chains
a few dozen. Most results are 1 to 20 ULPs apart, the farthest 36, on processors with and without
AVX2 and AVX-512; what these comparisons are to find (a wrong mask, position or weight) moves
results by hundreds of times as much.
"""

CORPUS = [
    WRITE,
    ABSENT,
    "the man with red hair on the left of the picture in a blue shirt",
    "the woman with black hair on the right of the picture in a yellow shirt",
    "Neymar (PER) Paris (LOC) NASA (ORG) iPhone (MISC)",
]


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for rounding."""
    atol = ROUNDING * float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def require_attention(dtype: torch.dtype) -> None:
    """Skip the test where torch's own attention refuses a type of numbers on this processor.

    In bfloat16 torch chooses a kernel by what the processor has, also when it is told by
    ATEN_CPU_CAPABILITY to use less, and that kernel then raises.
    """
    import pytest  # benches use this module too, without it

    rows = torch.zeros(1, 1, 64, 8, dtype=dtype)  # shorter ones go another way
    try:
        torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)
    except RuntimeError as fault:
        pytest.skip(f"torch's attention in {dtype}: {fault}")


def tokenizer(
    controls: Sequence[str] = (*SPECIALS, *PICTURES), **settings: Any
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, up to 800 entries, trained on a few lines: any text survives a round trip."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=list(controls),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    usual = {
        "pad_token": "<pad>",
        "eos_token": "<|im_end|>",
        "extra_special_tokens": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        "padding_side": "left",
    }
    return PreTrainedTokenizerFast(tokenizer_object=core, **{**usual, **settings})


def processor() -> Qwen2VLProcessor:
    """The tokenizer above and Qwen2-VL's image processor at patch size 14."""
    return Qwen2VLProcessor(
        image_processor=image_processor(min_pixels=28 * 28, max_pixels=16 * 28 * 28),
        tokenizer=tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def config(
    words: PreTrainedTokenizerFast, text: dict[str, Any], vision: dict[str, Any]
) -> Qwen2VLConfig:
    """Two layers of each tower and grouped-query attention, but for what `text`, `vision` say."""
    text_config = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "initializer_range": 0.2,
        **text,
    }
    vision_config = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": text_config["hidden_size"],
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": 0.2,
        **vision,
    }
    ids = words.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def model(
    seed: int = 0, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None
) -> Qwen2VLForConditionalGeneration:
    """A random model in evaluation mode, the same for the same seed."""
    settings = config(tokenizer(), text or {}, vision or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2VLForConditionalGeneration(settings).eval()


def toy_sized(seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """As large as the embedded world's writer (2.5 M parameters), with random weights."""
    text = {
        "hidden_size": 192,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 8, 8]},
    }
    return model(seed, text, {"depth": 4, "embed_dim": 128, "num_heads": 4})


SIZES_WH_PX = {"square": (56, 56), "wide": (112, 56), "tall": (56, 84), "odd": (75, 90)}


def picture(path: str) -> Image.Image:
    """Random pixels named `SIZE-SEED`, for example `wide-3`; a stand-in for a file."""
    size, _, seed = path.partition("-")
    width, height = SIZES_WH_PX[size]
    pixels = np.random.default_rng(int(seed)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


QUERIES = [
    Query("a#0", "square-1", "Neymar", "PER"),
    Query("a#1", "square-1", "Paris Saint Germain", "ORG"),
    Query("b#0", "wide-2", "NASA", "ORG"),
    Query("c#0", "tall-3", "the Golden Gate Bridge", "LOC"),
    Query("d#0", "odd-4", "iPhone 4", "MISC"),
    Query("e#0", "square-5", "X", "PER"),
]
"""Mixed prompt lengths, picture sizes, and two queries of one picture."""


def writer(seed: int = 0, **resources: Any) -> LocalWriter:
    """A writer with a fresh adapter of rank 4, whose pictures are made in memory."""
    return LocalWriter.from_parts(
        model(seed),
        processor(),
        adapter=Adapter(rank=4, alpha=8, seed=seed),
        resources=Resources(open_image=picture, **resources),
    )


def move(made: LocalWriter, seed: int = 1, size: float = 0.05) -> None:
    """Push a writer's adapter away from where it is, as training would."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.trainable().values():
            parameter += size * torch.randn(parameter.shape, generator=draws)


def asks(queries: Sequence[Query]) -> list[Ask]:
    """Queries as a writer puts them."""
    return [Ask(query.image, entity_phrase(query.name, query.type)) for query in queries]


def rows(made: LocalWriter, queries: Sequence[Query], text: str = "a") -> list[Any]:
    """Queries and one answer to each as laid-out tokens."""
    return made.chat.rows(asks(queries), [(text,)] * len(queries))


def prompts(made: LocalWriter, queries: Sequence[Query]) -> list[Any]:
    """Queries as prompts of the writer's engine."""
    return made.chat.engine.prompts(asks(queries))
