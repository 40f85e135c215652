"""Whether a sampler draws from the policy that it is told to follow (ISR eq. 6).

A server that does not know an adapter, or has lost it, may answer from the base model without a
word; the expressions look alike, and DPO then learns from another policy than its reference. What
tells them apart is log-probabilities: the sampler's own of an answer, and the writer's of the same
text. They differ by rounding, or by the Kullback-Leibler divergence of two policies.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from groundling.errors import RunError
from groundling.models.base import ExpressionSampler, Sampling, Writer
from groundling.records import Expression, Failure, Query

COMPARED = 16
"""Answers of each chunk of prompts that are compared."""

FEWEST = 4
"""With fewer answers nothing is said: one may be off, such as a text of odd tokens."""

ROUNDING = {"float32": 0.01, "float16": 0.15, "bfloat16": 0.15}
"""Most that two computations of one policy differ by, in nats per square root of tokens.

Rounding errors of tokens are independent, so those of a sum grow with the root of their number.
bfloat16 keeps 8 bits: a logit near 20 is off by 2⁻⁹ · 20 = 0.04, the difference of two computations
by about 0.08 a token; we allow twice that. In float32 vLLM was 1e-4 off over 24 tokens, which is
2e-5 a root; 0.01 leaves room for TF32. With a wrong adapter it was 30 nats off (docs/vllm.md).
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy that a sampler should follow: its writer, and where its draws are kept.

    `dtype` is the coarser precision of both; `tell` takes what a person should know, `note` the
    figures of a comparison for the record.
    """

    writer: Writer
    dtype: str
    scratch: Path
    tell: Callable[[str], None]
    note: Callable[..., None]


class CheckedSampler:
    """A sampler (`models.base.ExpressionSampler`) whose every chunk is compared with the writer."""

    def __init__(self, sampler: ExpressionSampler, policy: Policy) -> None:
        self._sampler, self._policy = sampler, policy

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """As the sampler's own. Raises RunError, with all draws dropped, for another policy's."""
        rows = self._sampler.sample(queries, k, sampling, seed, source)
        drawn = [
            (query, expression)
            for query, row in zip(queries, rows, strict=True)
            if not isinstance(row, Failure)
            for expression in row
        ]
        known = [(query, one) for query, one in drawn if one.logprob is not None]
        if len(known) >= FEWEST:
            step = len(known) / min(COMPARED, len(known))
            self._compare([known[int(place * step)] for place in range(min(COMPARED, len(known)))])
        elif len(drawn) >= FEWEST:
            self._policy.tell(
                "the sampler gives no log-probabilities: nothing shows that it draws from the "
                "adapter of the round"
            )
        return rows

    def _compare(self, answers: Sequence[tuple[Query, Expression]]) -> None:
        writer, most = self._policy.writer, ROUNDING[self._policy.dtype]
        texts = [one.text for _, one in answers]
        scores = writer.score([query for query, _ in answers], texts)
        off, roots = [], []
        for (_, one), score in zip(answers, scores, strict=True):
            if not isinstance(score, Failure) and one.logprob is not None:
                off.append(abs(one.logprob - score))
                roots.append(math.sqrt(writer.answer_tokens(one.text)))
        if len(off) < FEWEST:
            return
        found = median(gap / root for gap, root in zip(off, roots, strict=True))
        told = {"answers": len(off), "nats": round(median(off), 6), "per_root": round(found, 6)}
        self._policy.note(**told, most=most)
        if not found <= most:  # NaN is no agreement either
            shutil.rmtree(self._policy.scratch, ignore_errors=True)
            raise RunError(
                f"the sampler's log-probabilities of {len(off)} answers differ from the writer's "
                f"by {median(off):.3g} nats (median), {found:.2g} per square root of tokens; "
                f"wanted at most {most:g}, which rounding explains: it draws from another policy, "
                "such as the base model, or holds weights in fewer bits; see that it loads the "
                "adapter of the round over the writer's own weights, then run again"
            )
