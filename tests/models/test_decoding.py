from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from stock import inputs
from transformers import GenerationConfig

from groundling.models import decoding, tree
from groundling.models.decoding import Drawn, Noise, draw

STEPS = 12


@pytest.fixture
def writer(writer):
    """Sharpened: a distribution with favourites, as trained models have."""
    with torch.no_grad():
        writer.model.get_base_model().lm_head.weight *= 3
    return writer


@pytest.fixture
def prompts(writer):
    return tiny.prompts(writer, tiny.QUERIES)


@pytest.fixture
def noise():
    source = Noise(seed=3, steps=STEPS)
    return np.stack([source.of(query.id, 8) for query in tiny.QUERIES])


@pytest.fixture
def often(writer, prompts, noise) -> int:
    """A token that sampled answers often hold: standing in for the end, it cuts some short."""
    with torch.no_grad():
        drawn = draw(writer.chat.engine._net, prompts, noise, 1.0, STEPS, ends=(-1,))
    return Counter(token for row in drawn for one in row for token in one.tokens).most_common(1)[0][
        0
    ]


def run(writer, prompts, noise, temperature=0.8, end=-1) -> list[list[Drawn]]:
    with torch.no_grad():
        return draw(writer.chat.engine._net, prompts, noise, temperature, STEPS, (end,))


def test_greedy_equals_generate(writer, processor, prompts):
    end = run(writer, prompts, None)[2][0].tokens[4]
    ours = run(writer, prompts, None, end=end)
    neutral = GenerationConfig(
        do_sample=False,
        max_new_tokens=STEPS,
        eos_token_id=end,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    batch = inputs(processor, tiny.QUERIES, [""] * 6)
    theirs = writer.model.generate(**batch, generation_config=neutral)
    for (one,), answer in zip(ours, theirs[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
        cut = answer.index(end) if end in answer else STEPS
        assert list(one.tokens) == answer[:cut]
    assert {len(one.tokens) for (one,) in ours} > {STEPS}, "some answers end early, some do not"


@pytest.mark.parametrize("thin", [0.0, 0.7, 1.1], ids=["never", "as shipped", "always"])
def test_a_batch_gives_what_each_prompt_gives_alone(
    writer, prompts, noise, often, thin, monkeypatch
):
    monkeypatch.setattr(decoding, "THIN", thin)
    together = run(writer, prompts, noise, end=often)
    lengths = {len(one.tokens) for row in together for one in row}
    assert len(lengths) > 3, "answers of many lengths, or nothing is tested"
    for place, prompt in enumerate(prompts):
        alone = run(writer, [prompt], noise[place : place + 1], end=often)[0]
        for first, second in zip(together[place], alone, strict=True):
            assert first.tokens == second.tokens
            # 16 units in the last place (3.8e-6) of sums that reach 60
            assert first.logprob == pytest.approx(second.logprob, abs=6e-5)


def test_an_answer_does_not_depend_on_how_many_are_drawn(writer, prompts, noise, often):
    eight = run(writer, prompts, noise, end=often)
    two = run(writer, prompts, noise[:, :2], end=often)
    assert [[one.tokens for one in row[:2]] for row in eight] == [
        [one.tokens for one in row] for row in two
    ]


def test_logprobs_are_the_models_own_at_temperature_one(writer, processor, prompts, noise, often):
    checked = 0
    for query, row in zip(tiny.QUERIES, run(writer, prompts, noise, 1.7, often), strict=True):
        batch = inputs(processor, [query], [""])
        for one in row:
            if one.logprob is None:
                assert len(one.tokens) == STEPS
                continue
            answer = torch.tensor([[*one.tokens, often]])
            whole = {
                **batch,
                "input_ids": torch.cat([batch["input_ids"], answer], dim=1),
                "attention_mask": torch.ones(1, batch["input_ids"].shape[1] + answer.shape[1]),
                "mm_token_type_ids": torch.nn.functional.pad(
                    batch["mm_token_type_ids"], (0, answer.shape[1])
                ),
            }
            with torch.no_grad():
                logits = writer.model(**whole).logits[0, -answer.shape[1] - 1 : -1]
            stock = logits.log_softmax(-1).gather(-1, answer[0][:, None]).sum()
            assert one.logprob == pytest.approx(stock.item(), abs=1e-4)
            checked += 1
    assert checked >= 5


def test_ending_on_the_last_step_counts_as_ended(writer, prompts):
    first = run(writer, prompts[:1], None)[0][0].tokens
    with torch.no_grad():
        cut = draw(writer.chat.engine._net, prompts[:1], None, 0.0, 3, (first[2],))[0][0]
    assert cut.tokens == first[:2]
    assert cut.logprob is not None


def test_noise_depends_on_seed_and_key_only():
    few, many = Noise(7, 5).of("a#0", 2), Noise(7, 5).of("a#0", 4)
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(few, Noise(7, 5).of("a#1", 2))
    assert not np.array_equal(few, Noise(8, 5).of("a#0", 2))
    assert few.min() >= 0
    assert few.max() < 1


def test_the_cache_grows_past_its_first_block(writer, prompts, noise, monkeypatch):
    whole = run(writer, prompts, noise)
    monkeypatch.setattr(tree, "_ROOM", 1)
    assert [[one.tokens for one in row] for row in run(writer, prompts, noise)] == [
        [one.tokens for one in row] for row in whole
    ]


def test_prompts_and_common_beginnings_are_computed_once(writer, prompts, noise, monkeypatch):
    """Four answers that draw alike cost what one answer costs."""
    computed: list[int] = []
    embed = writer.chat.engine._net.embed

    def counting(ids):
        computed.append(ids.numel())
        return embed(ids)

    monkeypatch.setattr(writer.chat.engine._net, "embed", counting)
    run(writer, prompts, noise[:, :1])
    one = sum(computed)
    computed.clear()
    alike = run(writer, prompts, noise[:, :1].repeat(4, axis=1))
    assert sum(computed) == one
    assert all(len(set(row)) == 1 for row in alike)
    computed.clear()
    run(writer, prompts, noise)
    assert sum(computed) > one
