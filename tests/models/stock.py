"""The plain computation, by transformers alone: what every fast path is held against."""

from __future__ import annotations

import tiny
import torch

from groundling.losses import IGNORE, sequence_logprobs
from groundling.prompts import writer_messages
from groundling.records import Query


def inputs(processor, queries: list[Query], endings: list[str]) -> dict[str, torch.Tensor]:
    """The stock processor's left-padded batch of prompts, each with text after it."""
    texts = [
        processor.apply_chat_template(
            writer_messages(query.name, query.type), add_generation_prompt=True, tokenize=False
        )
        + ending
        for query, ending in zip(queries, endings, strict=True)
    ]
    images = [tiny.picture(query.image) for query in queries]
    return processor(text=texts, images=images, padding=True, return_tensors="pt")


def logprob(model, processor, query: Query, text: str) -> torch.Tensor:
    """log π(text + end | query) from one sequence of its own, with gradient."""
    prompt = inputs(processor, [query], [""])["input_ids"].shape[1]
    batch = inputs(processor, [query], [text + "<|im_end|>"])
    labels = batch["input_ids"].clone()
    labels[:, :prompt] = IGNORE
    return sequence_logprobs(model(**batch).logits, labels)[0]
