from __future__ import annotations

import pytest
import tiny
import torch
from stock import logprob

from groundling.losses import dpo_loss
from groundling.models.base import Demonstration, Preference
from groundling.models.packing import shared_length

CHOSEN = [
    "the man with red hair",
    "The entity does not appear in the image",
    "a",
    "the woman on the left of the picture",
    "",
    "the shirt in blue",
]
REJECTED = ["the woman", "the man", "The entity does not appear in the image", "b", "red", "the"]
REFERENCE = [(-9.0, -8.0), (-20.0, -7.5), (-3.0, -30.0), (-21.0, -4.0), (-2.0, -5.0), (-8.0, -3.0)]


def preferences() -> list[Preference]:
    return [
        Preference(query, chosen, rejected, *reference)
        for query, chosen, rejected, reference in zip(
            tiny.QUERIES, CHOSEN, REJECTED, REFERENCE, strict=True
        )
    ]


def plain(writer, processor, texts):
    """Every text in a sequence of its own, by transformers alone."""
    return torch.stack(
        [logprob(writer.model, processor, *pair) for pair in zip(tiny.QUERIES, texts, strict=True)]
    )


def gradients(writer, loss):
    parameters = writer.trainable()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert theirs[name].abs().max() > 0, f"{name} has no gradient to compare"
        tiny.assert_near(ours[name], theirs[name])


def test_prompts_share_their_instruction(writer):
    rows = tiny.rows(writer, tiny.QUERIES)
    shared = shared_length([row.prompt for row in rows])
    assert shared == rows[0].prompt.image_start
    assert len({row.prompt.ids[:shared] for row in rows}) == 1


def test_a_prompt_is_never_shared_whole(writer):
    row = tiny.rows(writer, tiny.QUERIES[:1])[0]
    assert shared_length([row.prompt, row.prompt]) == row.prompt.image_start


def test_scores_equal_independent_sequences(writer, processor):
    ours = torch.tensor(writer.score(tiny.QUERIES, CHOSEN))
    with torch.no_grad():
        theirs = plain(writer, processor, CHOSEN)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)


def test_packed_pairs_equal_independent_sequences(writer, processor):
    ours = torch.tensor(writer.score_pairs(tiny.QUERIES, CHOSEN, REJECTED))
    with torch.no_grad():
        theirs = torch.stack([plain(writer, processor, side) for side in (CHOSEN, REJECTED)], dim=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)


def test_batch_size_and_order_do_not_matter(writer):
    alone = tiny.writer(batch_size=1)
    tiny.move(alone)
    backwards = writer.score_pairs(tiny.QUERIES[::-1], CHOSEN[::-1], REJECTED[::-1])[::-1]
    for other in (alone.score_pairs(tiny.QUERIES, CHOSEN, REJECTED), backwards):
        torch.testing.assert_close(
            torch.tensor(writer.score_pairs(tiny.QUERIES, CHOSEN, REJECTED)),
            torch.tensor(other),
            rtol=1e-6,
            atol=1e-5,
        )


def test_packed_dpo_loss_and_gradients_equal_the_plain_ones(writer, processor):
    ours = writer.dpo_loss(preferences(), beta=0.5)
    theirs = dpo_loss(
        plain(writer, processor, CHOSEN),
        plain(writer, processor, REJECTED),
        *torch.tensor(REFERENCE).unbind(1),
        beta=0.5,
    )
    assert abs(ours.item() - 0.6931) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert_same(gradients(writer, ours), gradients(writer, theirs))


def test_sft_loss_and_gradients_equal_the_plain_ones(writer, processor):
    batch = [Demonstration(*pair) for pair in zip(tiny.QUERIES, CHOSEN, strict=True)]
    ours = writer.sft_loss(batch)
    tokens = sum(len(processor.tokenizer(text)["input_ids"]) + 1 for text in CHOSEN)
    theirs = -plain(writer, processor, CHOSEN).sum() / tokens
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert_same(gradients(writer, ours), gradients(writer, theirs))


def test_gradient_checkpointing_changes_nothing(writer):
    thrifty = tiny.writer(checkpointing=True)
    tiny.move(thrifty)
    ours, theirs = (one.dpo_loss(preferences(), beta=0.5) for one in (thrifty, writer))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert_same(gradients(thrifty, ours), gradients(writer, theirs))


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_does_not_see_the_other(writer, side):
    """The packed score of one side stays put when the other side changes."""
    keep = CHOSEN if side == "chosen" else REJECTED
    other = ["something else altogether, and longer than before"] * 6
    before = writer.score_pairs(tiny.QUERIES, CHOSEN, REJECTED)
    after = writer.score_pairs(
        tiny.QUERIES, *((keep, other) if side == "chosen" else (other, keep))
    )
    place = 0 if side == "chosen" else 1
    for first, second in zip(before, after, strict=True):
        assert first[place] == pytest.approx(second[place], abs=1e-5)
        assert first[1 - place] != pytest.approx(second[1 - place], abs=1e-2)
