"""Beam search against brute force over a tiny set of tokens."""

from __future__ import annotations

from itertools import product

import pytest
import tiny_ofa
import torch

from groundling.models.ofa import OFAModel
from groundling.models.ofa.encoder import OFAEncoding
from groundling.models.ofa.search import beam_search

STEPS = 4


@pytest.fixture(scope="module")
def model() -> OFAModel:
    return tiny_ofa.model(seed=3)


@pytest.fixture(scope="module")
def encoding(model: OFAModel) -> OFAEncoding:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(4, 200, (5, 7), generator=generator)
    tokens[1, -3:] = 1
    pictures = torch.rand(5, 3, 64, 64, generator=generator) * 2 - 1
    with torch.no_grad():
        return model.encode(tokens, pictures)


@torch.no_grad()
def scored(model, encoding, answers):
    """Log-probability of every answer and the end, by whole forward passes: (B, answers)."""
    count = len(encoding.last_hidden_state)
    rows = torch.tensor(answers).repeat(count, 1)
    given = torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), rows], 1)
    target = torch.cat([rows, torch.full((len(rows), 1), 2)], 1)
    logits = model(encoder_outputs=encoding, decoder_input_ids=given).logits
    logprobs = logits.log_softmax(-1).gather(2, target[..., None])[..., 0]
    return logprobs.view(count, len(answers), STEPS + 1)


@pytest.mark.parametrize("allowed", [(300, 301, 302), (305, 20, 999)])
def test_a_wide_beam_is_exhaustive(model, encoding, allowed):
    answers = list(product(allowed, repeat=STEPS))
    wanted = scored(model, encoding, answers).sum(-1)
    found = beam_search(model, encoding, steps=STEPS, beams=100, allowed=torch.tensor(allowed))
    assert found.tokens.shape == (5, 81, STEPS)
    order = wanted.argsort(1, descending=True)
    torch.testing.assert_close(found.logprobs, wanted.gather(1, order), rtol=1e-5, atol=1e-5)
    for row in range(5):
        assert tuple(found.tokens[row, 0].tolist()) == answers[order[row, 0]]


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_a_narrow_beam_is_a_beam(model, encoding, beams):
    """Against a beam written out over the scores of all answers."""
    allowed = (300, 301, 302, 303)
    answers = list(product(allowed, repeat=STEPS))
    steps = scored(model, encoding, answers)
    found = beam_search(model, encoding, steps=STEPS, beams=beams, allowed=torch.tensor(allowed))
    for row in range(5):
        prefix = {
            answer[:n]: steps[row, i, :n].sum().item()
            for i, answer in enumerate(answers)
            for n in range(STEPS + 1)
        }
        end = {answer: steps[row, i].sum().item() for i, answer in enumerate(answers)}
        kept: list[tuple[int, ...]] = [()]
        for _ in range(STEPS):
            grown = [(*answer, token) for answer in kept for token in allowed]
            kept = sorted(grown, key=lambda a: -prefix[a])[:beams]
        best = sorted(kept, key=lambda a: -end[a])
        assert [tuple(a) for a in found.tokens[row].tolist()] == best
        assert found.logprobs[row].tolist() == pytest.approx([end[a] for a in best], abs=1e-4)


def test_company_changes_nothing(model, encoding):
    allowed = torch.arange(300, 700)
    together = beam_search(model, encoding, steps=STEPS, beams=5, allowed=allowed)
    for row in range(5):
        part = OFAEncoding(
            encoding.last_hidden_state[row : row + 1],
            encoding.positions,
            None if encoding.keep is None else encoding.keep[row : row + 1],
        )
        alone = beam_search(model, part, steps=STEPS, beams=5, allowed=allowed)
        assert torch.equal(alone.tokens[0], together.tokens[row])


def test_only_padding_and_an_early_end_are_forbidden(model, encoding):
    found = beam_search(model, encoding, steps=STEPS, beams=3)
    assert not set(found.tokens.flatten().tolist()) & {1, 2}
    whole = beam_search(
        model,
        encoding,
        steps=STEPS,
        beams=3,
        allowed=torch.tensor([0, *range(3, model.config.vocab_size)]),
    )
    assert torch.equal(found.tokens, whole.tokens)
