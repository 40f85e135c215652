"""A writer and a grounder of published shapes with random weights, as folders that open offline.

Configurations come with the package (`groundling.models.meta`); weights are drawn where the model
will run and written as safetensors, so that a run opens them as it opens published ones. The
tokenizers are stand-ins of the published size: byte-level BPE in which the common words of
`paper_shapes_data` are a token each, and every other number decodes to one of those words. So what
a random model draws is text of as many words as tokens, which both models read again as such.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from paper_shapes_data import NAMES, WORDS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from groundling.errors import InputError
from groundling.models.meta import Facts, find_facts
from groundling.models.ofa import OFAConfig, OFAModel, OFATokenizer
from groundling.models.ofa.inputs import PROMPT
from groundling.models.quiet import quiet_library
from groundling.models.qwen2vl import (
    MODEL_TYPE,
    ImageTokens,
    Qwen2VLProcessor,
    image_processor,
)
from groundling.models.wording import Wording
from groundling.planning.pictures import RULES
from groundling.prompts import WRITE, ask_for_expression, entity_phrase
from groundling.records import ABSENT, Failure

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PICTURES = ("<|image_pad|>", "<|video_pad|>")

SYSTEM = "Answer in one sentence."
CHAT_TEMPLATE = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As many turns and control tokens as Qwen2-VL's own."""

BEGINNINGS = ("Given", "Image", "Entity", "Answer", "The", "PER", "system", "user", "assistant")
"""Words of prompts and answers that no space comes before."""

SMALL_WRITER: Facts = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
}
SMALL_TOWER: Facts = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32}
SMALL_GROUNDER: Facts = {
    "vocab_size": 2048,
    "code_dict_size": 8,
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
    "max_image_size": 64,
    "patch_image_size": 64,
}
"""What makes the published configurations small enough for a dry run."""


def writer_facts(path: str, small: bool) -> Facts:
    """The configuration of a published Qwen2-VL, or of a small one. Raises InputError."""
    facts = _published(path, MODEL_TYPE, "writer")
    if small:
        return facts | SMALL_WRITER | {"vision_config": facts["vision_config"] | SMALL_TOWER}
    return facts


def grounder_facts(path: str, small: bool) -> Facts:
    """The configuration of a published OFA, or of a small one. Raises InputError."""
    return _published(path, "ofa", "grounder") | (SMALL_GROUNDER if small else {})


def _published(path: str, wanted: str, kind: str) -> Facts:
    facts = {key: value for key, value in find_facts(path).items() if key[:1] != "_"}
    if facts["model_type"] != wanted:
        raise InputError(f"{path}: a {kind} of type {facts['model_type']}; wanted {wanted}")
    return facts


def write_writer(folder: Path, facts: Facts, dtype: str, device: str, seed: int = 0) -> None:
    """A checkpoint of random weights, drawn on `device`; made whole or not at all."""
    processor = writer_processor(facts)
    config = writer_config(facts, processor.tokenizer)
    with quiet_library():
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(seed)
            model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
        with _whole(folder) as draft:
            model.save_pretrained(draft, max_shard_size="4GB")
            processor.save_pretrained(draft)


def write_grounder(folder: Path, facts: Facts, seed: int = 0) -> None:
    """The same for OFA, in float32."""
    config = OFAConfig(**facts)
    with quiet_library():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = OFAModel(config)
        with _whole(folder) as draft:
            model.save_pretrained(draft)
            grounder_tokenizer(config).save_pretrained(draft)


def writer_config(facts: Facts, words: PreTrainedTokenizerFast) -> Any:
    """The configuration of the facts, with the tokenizer's own control tokens."""
    ids = words.convert_tokens_to_ids
    own = {key: value for key, value in facts.items() if key != "model_type"}
    return AutoConfig.for_model(
        facts["model_type"],
        **own,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def writer_processor(facts: Facts) -> Any:
    """Pixel limits as published, and a tokenizer with an entry for every row of the embedding."""
    controls = [*CONTROLS, *PICTURES]
    spaced = [*WORDS, *NAMES, *_words(WRITE), *_words(ABSENT), *_words(SYSTEM)]
    tokens, merges = byte_pairs([*(f" {word}" for word in spaced), *BEGINNINGS])
    vocabulary = _numbered([*controls, *tokens], int(facts["vocab_size"]))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.add_special_tokens(controls)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.Sequence([decoders.Replace(Regex("~[0-9]+"), ""), decoders.ByteLevel()])
    words = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        padding_side="left",
    )
    rule, unit = RULES[MODEL_TYPE], (14 * 2) ** 2
    pixels = image_processor(rule.least * unit, rule.most * unit)
    return Qwen2VLProcessor(pixels, words, chat_template=CHAT_TEMPLATE)


def prompt_tokens(processor: Any) -> int:
    """Tokens of the writer's prompt beside its picture."""
    wording = Wording(processor, ask_for_expression)
    nothing = ImageTokens(torch.empty(0, 1), (0, 0))
    prompt = wording.prompt(entity_phrase(" ".join(NAMES[:2]), "PER"), nothing)
    assert not isinstance(prompt, Failure)
    return len(prompt.ids)


def grounder_tokenizer(config: OFAConfig) -> OFATokenizer:
    """As many text tokens as the published vocabulary has beside codes and bins."""
    text = config.vocab_size - config.code_dict_size - config.num_bins
    tokens, merges = byte_pairs(f" {word}" for word in [*WORDS, *_words(PROMPT)])
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>", *tokens], text)
    return OFATokenizer(vocabulary, merges, config.code_dict_size, config.num_bins)


def byte_pairs(words: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a byte-level BPE in which each of the words is one token.

    A word is given as it stands in a text, so most begin with a space; earlier ones take
    precedence.
    """
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], str] = {}
    for word in words:
        grown, *letters = word.replace(" ", "Ġ")  # a space, in the alphabet of bytes
        for letter in letters:
            merges[(grown, letter)] = grown + letter
            grown += letter
    return [*tokens, *dict.fromkeys(merges.values())], list(merges)


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def _numbered(tokens: list[str], size: int) -> dict[str, int]:
    """Tokens by number, filled up to `size` with numbered copies of the common words."""
    if len(tokens) > size:
        raise InputError(f"a vocabulary of {size}; wanted room for {len(tokens)} tokens")
    copies = (f"Ġ{WORDS[n % len(WORDS)]}~{n}" for n in range(size - len(tokens)))
    return {token: number for number, token in enumerate([*tokens, *copies])}


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to fill beside `folder`, which takes that name when the block ends well."""
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    draft.rename(folder)
