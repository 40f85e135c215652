"""What vLLM itself answered, token by token, beside what the sampler made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tiny
import torch

from groundling.models.local import LocalWriter
from groundling.models.packing import Row
from groundling.models.vllm_sampler import VllmSampler
from groundling.records import Query


class Overheard:
    """Keeps vLLM's own outputs of every sampling while it is installed in a sampler."""

    def __init__(self, sampler: VllmSampler, monkeypatch: Any) -> None:
        self.outputs: list[Any] = []
        wait = sampler._llm.wait_for_completion

        def listen(**settings: Any) -> list[Any]:
            found = wait(**settings)
            self.outputs.extend(found)
            return found

        monkeypatch.setattr(sampler._llm, "wait_for_completion", listen)

    def prompts(self) -> list[tuple[int, ...]]:
        """The prompts' tokens, the pictures' in their places."""
        return [tuple(output.prompt_token_ids) for output in self.outputs]

    def answers(self) -> list[list[tuple[tuple[int, ...], float]]]:
        """Each query's answers: tokens as drawn, and their log-probability."""
        return [
            [(tuple(one.token_ids), one.cumulative_logprob) for one in output.outputs]
            for output in self.outputs
        ]


def distances(writer: LocalWriter, queries: Sequence[Query], heard: Overheard) -> list[float]:
    """How far each of vLLM's log-probabilities is from the writer's for the same tokens, in nats.

    Answers that hold a control token are left out: for that of a picture the writer would look for
    one.
    """
    found = []
    for prompt, answers in zip(tiny.prompts(writer, queries), heard.answers(), strict=True):
        for tokens, logprob in answers:
            if all(writer.chat.wording.text((token,)) for token in tokens[:-1]):
                found.append(abs(_logprob(writer, prompt, tokens) - logprob))
    return found


def _logprob(writer: LocalWriter, prompt: Any, tokens: tuple[int, ...]) -> float:
    with torch.no_grad():
        logprobs, _ = writer.chat.engine.answer_logprobs([Row(prompt, (tokens,))])
    return float(logprobs.double().sum())
