"""Beam search over answers of a fixed number of tokens, all requests of a batch together.

OFA's published decoding of a box is a beam of 5 over exactly four tokens and the end: nothing but
padding and an early end is forbidden, so a token need not be a bin. Here `allowed` may confine the
search. Either way an answer's score is the model's own log-probability over its whole vocabulary;
confining it does not scale it up. The end counts, as it does in fairseq's search; transformers'
`generate` leaves out an end that it forces, which `end=False` does too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from groundling.models.ofa.encoder import OFAEncoding
from groundling.models.ofa.model import OFAModel


@dataclass(frozen=True, slots=True)
class Beams:
    """The best answers, best first: `tokens` (B, K, steps), `logprobs` (B, K) in nats."""

    tokens: torch.Tensor
    logprobs: torch.Tensor


@torch.no_grad()
def beam_search(
    model: OFAModel,
    encoding: OFAEncoding,
    *,
    steps: int,
    beams: int,
    allowed: torch.Tensor | None = None,
    end: bool = True,
) -> Beams:
    """The best `beams` answers of `steps` tokens and the end, greedy where `beams` is 1.

    `allowed` (A,) are the tokens an answer may consist of; None allows all but padding and end.
    K is smaller than `beams` where fewer answers exist.
    """
    config, device = model.config, encoding.last_hidden_state.device
    assert config.eos_token_id is not None
    if allowed is None:
        every = torch.arange(config.vocab_size, device=device)
        allowed = every[(every != config.pad_token_id) & (every != config.eos_token_id)]
    count = len(encoding.last_hidden_state)
    cache = model.decoder.new_cache()
    start = config.decoder_start_token_id
    last = torch.full((count, 1), 0 if start is None else start, device=device)
    scores = torch.zeros(count, 1, device=device)
    tokens = torch.empty(count, 1, 0, dtype=torch.long, device=device)
    first_row = torch.arange(count, device=device)[:, None]
    for _ in range(steps):
        kept = scores.shape[1]
        logits = model.decoder(last, encoding, cache)[:, -1].float()
        logprobs = logits[:, allowed] - logits.logsumexp(-1, keepdim=True)
        total = (scores[..., None] + logprobs.view(count, kept, -1)).flatten(1)
        scores, best = total.topk(min(beams, total.shape[1]), dim=1)
        beam, choice = best // len(allowed), allowed[best % len(allowed)]
        earlier = tokens.gather(1, beam[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([earlier, choice[..., None]], 2)
        cache.select((first_row * kept + beam).flatten())
        last = choice.flatten()[:, None]
    if not end:
        return Beams(tokens, scores)
    logits = model.decoder(last, encoding, cache)[:, -1].float()
    ending = logits[:, config.eos_token_id] - logits.logsumexp(-1)
    scores, order = (scores + ending.view(scores.shape)).sort(dim=1, descending=True, stable=True)
    return Beams(tokens.gather(1, order[..., None].expand_as(tokens)), scores)
