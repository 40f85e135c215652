"""How much sampling gains over `generate`: `python bench/sampling.py [--family qwen3_vl] [--k 4]`.

Both draw K answers of a fixed length to the same prompts from the same random model; `--sharpen`
sets how alike the K answers are (a trained writer's often are the same). Median times and ratios
from one run. Without `--family` it is Qwen2-VL as large as the embedded world's writer, by the path
laid out by hand; with it, a tiny model of that family by the path that all families share.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

import tiny
import tiny_families

from groundling.models.base import Sampling
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.prompts import writer_messages
from groundling.records import Query


def make(prompts: int, sharpen: float, family: str | None) -> tuple[LocalWriter, Any, list[Query]]:
    tiny.SIZES_WH_PX["toy"] = (112, 112)
    if family is None:
        model, processor = tiny.toy_sized(), tiny.processor()
    else:
        model, processor = tiny_families.build(family)
    with torch.no_grad():
        model.lm_head.weight *= sharpen
        model.lm_head.weight[processor.tokenizer.eos_token_id] = 0  # no answer ends early
    writer = LocalWriter.from_parts(
        model,
        processor,
        adapter=Adapter(rank=32, alpha=64),
        resources=Resources(
            open_image=tiny.picture, batch_size=prompts, engine="stock" if family else "auto"
        ),
    )
    tiny.move(writer, size=0.01)
    queries = [Query(f"{n}#0", f"toy-{n}", "Neymar", "PER") for n in range(prompts)]
    writer.prepare([query.image for query in queries])
    return writer, processor, queries


def generate(writer: LocalWriter, processor: Any, queries: list[Query], k: int, tokens: int) -> int:
    """Stock sampling; returns how many distinct answers a prompt got, in all."""
    texts = [
        processor.apply_chat_template(
            writer_messages(query.name, query.type), add_generation_prompt=True, tokenize=False
        )
        for query in queries
    ]
    images = [[tiny.picture(query.image)] for query in queries]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    settings = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=0,
        top_p=1.0,
        num_return_sequences=k,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    with torch.no_grad():
        drawn = writer.model.generate(**inputs, generation_config=settings)
    answers = drawn[:, inputs["input_ids"].shape[1] :].view(len(queries), k, -1).tolist()
    return sum(len(set(map(tuple, row))) for row in answers)


def ours(writer: LocalWriter, _: Any, queries: list[Query], k: int, tokens: int) -> int:
    rows = writer.sample(queries, k, Sampling(0.8, tokens), 0, "bench")
    return sum(len({one.text for one in row}) for row in rows if isinstance(row, list))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--sharpen", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--family", choices=sorted(tiny_families.FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    writer, processor, queries = make(arguments.prompts, arguments.sharpen, arguments.family)
    times: dict[str, list[float]] = {"generate": [], "ours": []}
    distinct: dict[str, int] = {}
    for repeat in range(arguments.repeats + 1):
        for name, way in (("generate", generate), ("ours", ours)):
            start = time.perf_counter()
            distinct[name] = way(writer, processor, queries, arguments.k, arguments.tokens)
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    print(
        f"{arguments.prompts} prompts × {arguments.k} answers × {arguments.tokens} tokens, "
        f"{arguments.threads} thread(s)"
    )
    for name, values in times.items():
        print(
            f"{name:10} {1000 * median(values):8.1f} ms   "
            f"{median(times['generate']) / median(values):5.2f}×   "
            f"{distinct[name] / len(queries):.2f} distinct answers a prompt"
        )


if __name__ == "__main__":
    main()
