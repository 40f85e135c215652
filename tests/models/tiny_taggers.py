"""Tiny random encoders with tokenizers of both usual kinds, taggers on them, and posts to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from groundling.config_gmner import TaggerConfig
from groundling.models.taggers.bilstm import BilstmTagger
from groundling.models.taggers.encoder import EncoderTagger
from groundling.models.taggers.sequence import SequenceTagger
from groundling.records import TWITTER, Entity, Post

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789#@.:"


def wordpiece(max_length: int = 64) -> PreTrainedTokenizerFast:
    """BERT's: lower-cased word pieces of one or two letters; zero-width characters are dropped."""
    pieces = [*LETTERS, *(f"##{one}" for one in LETTERS), "pa", "##ul", "the"]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    numbers = {piece: i for i, piece in enumerate([*specials, *pieces])}
    core = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=999))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bytelevel(max_length: int = 64, **settings: Any) -> PreTrainedTokenizerFast:
    """RoBERTa's: bytes with a mark for the space before, two separators between texts."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {piece: i for i, piece in enumerate([*specials, *alphabet])}
    core = Tokenizer(models.BPE(numbers, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{"unk_token": "<unk>", "pad_token": "<pad>", **settings},
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
"""Sizes of every encoder here."""


def bert(seed: int = 0) -> BertModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(BertConfig(**SHAPE, vocab_size=len(wordpiece())))


def roberta(seed: int = 0) -> RobertaModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"vocab_size": len(bytelevel()), "pad_token_id": 1, "type_vocab_size": 1}
        return RobertaModel(RobertaConfig(**SHAPE, **sizes))


def post(text: str, knowledge: str = "", number: int = 0) -> Post:
    """`Paul/PER visits New/LOC York/LOC`: words with types; neighbours of a type are one entity."""
    tokens, entities = [], []
    for word in text.split(" "):
        token, _, kind = word.partition("/")
        if kind and entities and entities[-1][1:] == (len(tokens), kind):
            entities[-1] = (entities[-1][0], len(tokens) + 1, kind)
        elif kind:
            entities.append((len(tokens), len(tokens) + 1, kind))
        tokens.append(token)
    marked = [Entity(" ".join(tokens[a:b]), kind, a, b) for a, b, kind in entities]
    return Post(f"p{number}", tuple(tokens), tuple(marked), knowledge=knowledge)


POSTS = [
    post(text, number=number)
    for number, text in enumerate(
        [
            "Paul/PER visits New/LOC York/LOC",
            "the band plays in York/LOC today",
            "Mary/PER Ann/PER and Paul/PER sing",
            "NASA/ORG calls",
            "no name here at all",
            "@ Paul/PER : the Oscars/MISC by NASA/ORG in New/LOC York/LOC",
        ]
    )
]


def config(**changes: Any) -> TaggerConfig:
    small = {"word_size": 12, "hidden_size": 16, "max_length": 64, "batch_size": 4}
    return TaggerConfig.model_validate({**small, **changes})


def encoder_tagger(seed: int = 0, **changes: Any) -> EncoderTagger:
    return EncoderTagger.from_parts(
        bert(seed), wordpiece(), TWITTER, config(**changes), seed=seed, posts=POSTS
    )


def bilstm_tagger(seed: int = 0, **changes: Any) -> BilstmTagger:
    made = config(backend="bilstm", **changes)
    return BilstmTagger.fresh(TWITTER, made, "cpu", seed, POSTS)


KINDS = {"encoder": encoder_tagger, "bilstm": bilstm_tagger}


def sharpened(tagger: SequenceTagger[Any], factor: float = 20.0) -> SequenceTagger[Any]:
    """The same tagger with larger weights in its projection: it finds something, and is sure."""
    with torch.no_grad():
        tagger.net.projection.weight *= factor  # type: ignore[operator]
    return tagger


def spans(mentions: object) -> Sequence[tuple[int, int, str]]:
    assert isinstance(mentions, list), mentions
    return [(one.start, one.end, one.type) for one in mentions]


def gold(posts: Sequence[Post]) -> list[list[tuple[int, int, str]]]:
    return [[(e.start, e.end, e.type) for e in one.entities] for one in posts]
