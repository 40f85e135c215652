"""How much one DPO step gains from packing: `python bench/packed_dpo.py [--pairs 32]`.

Every way of computing it runs in turn, several times, on the same random model and pairs; what is
printed is the median time of each and its ratio to the plain way, all from one run.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny

from groundling.losses import IGNORE, dpo_loss, sequence_logprobs
from groundling.models.base import Preference
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.models.packing import Row, answer_logprobs, sum_by_answer
from groundling.prompts import writer_messages
from groundling.records import ABSENT, Query

ANSWERS = (
    "the man with red hair on the left of the picture",
    "the woman with black hair on the right of the picture in a yellow shirt",
    ABSENT,
)
BETA = 0.5


def make(pairs: int) -> tuple[LocalWriter, list[Preference]]:
    tiny.SIZES_WH_PX["toy"] = (112, 112)
    writer = LocalWriter.from_parts(
        tiny.toy_sized(),
        tiny.processor(),
        adapter=Adapter(rank=32, alpha=64),
        resources=Resources(open_image=tiny.picture),
    )
    tiny.move(writer, size=0.01)
    batch = [
        Preference(
            Query(f"{place}#0", f"toy-{place}", "Neymar", "PER"),
            ANSWERS[place % 3],
            ANSWERS[(place + 1) % 3],
            -9.0,
            -8.0,
        )
        for place in range(pairs)
    ]
    writer.prepare([example.query.image for example in batch])
    return writer, batch


def plain_logprobs(writer: LocalWriter, batch: list[Preference]) -> torch.Tensor:
    """(2, B): every answer behind its own copy of picture and prompt, by transformers alone."""
    processor = tiny.processor()
    prompts = [
        processor.apply_chat_template(
            writer_messages(example.query.name, example.query.type),
            add_generation_prompt=True,
            tokenize=False,
        )
        for example in batch
    ] * 2
    answers = [example.chosen for example in batch] + [example.rejected for example in batch]
    images = [tiny.picture(example.query.image) for example in batch] * 2
    texts = [f"{prompt}{answer}<|im_end|>" for prompt, answer in zip(prompts, answers, strict=True)]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    labels = inputs["input_ids"].clone()
    for row, answer in enumerate(answers):
        labels[row, : -len(processor.tokenizer(answer)["input_ids"]) - 1] = IGNORE
    return sequence_logprobs(writer.model(**inputs).logits, labels).view(2, -1)


def plain(writer: LocalWriter, batch: list[Preference]) -> torch.Tensor:
    with torch.no_grad():
        reference = plain_logprobs(writer, batch)
    return dpo_loss(*plain_logprobs(writer, batch), *reference, beta=BETA)


def plain_stored_reference(writer: LocalWriter, batch: list[Preference]) -> torch.Tensor:
    stored = torch.tensor([(one.ref_chosen_logp, one.ref_rejected_logp) for one in batch])
    return dpo_loss(*plain_logprobs(writer, batch), *stored.unbind(1), beta=BETA)


def apart(writer: LocalWriter, batch: list[Preference]) -> torch.Tensor:
    """Kept features, shared instruction, but a row for each answer."""
    asks = tiny.asks([one.query for one in batch])
    pairs = writer.chat.rows(asks, [(one.chosen, one.rejected) for one in batch])
    rows = [Row(row.prompt, (answer,)) for row in pairs for answer in row.answers]
    logprobs, owners = answer_logprobs(writer.chat.engine._net, rows)
    chosen, rejected = sum_by_answer(logprobs, owners, len(rows)).view(-1, 2).unbind(1)
    stored = torch.tensor([(one.ref_chosen_logp, one.ref_rejected_logp) for one in batch])
    return dpo_loss(chosen, rejected, *stored.unbind(1), beta=BETA)


def packed(writer: LocalWriter, batch: list[Preference]) -> torch.Tensor:
    return writer.dpo_loss(batch, BETA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    writer, batch = make(arguments.pairs)
    ways = {
        "plain, reference computed": plain,
        "plain, reference stored": plain_stored_reference,
        "a row for each answer": apart,
        "packed": packed,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(arguments.repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(writer, batch).backward()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    slowest = median(times["plain, reference computed"])
    print(f"one step, {arguments.pairs} pairs, forward and backward, {arguments.threads} thread(s)")
    for name, values in times.items():
        print(f"{name:28} {1000 * median(values):8.1f} ms   {slowest / median(values):5.2f}×")


if __name__ == "__main__":
    main()
