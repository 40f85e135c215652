"""From judged expressions to a preference s_w ≻ s_l (ISR §3.4.2, eq. 6–7, Figure 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Strategy = Literal["full", "no-success", "no-expert"]
ChosenSource = Literal["sample", "expert"]
DropReason = Literal[
    "no failure", "no success", "no expert", "same text", "nothing judged", "unscored"
]
"""`unscored`: its log-probabilities under the reference could not be computed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A preference for one prompt, before its reference log-probabilities are known."""

    chosen: str
    rejected: str
    chosen_source: ChosenSource


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a prompt gives no pair."""

    reason: DropReason


def choose_pair(
    texts: Sequence[str],
    rewards: Sequence[int | None],
    expert: str | None,
    strategy: Strategy,
    rng: np.random.Generator,
) -> Choice | Drop:
    """The pair of one prompt from its K texts and their rewards (None: could not be judged).

    s_l is a random text of reward 0; without one the prompt is discarded. s_w is, by `strategy`:
    `full`, a random text of reward 1, else the expert's; `no-success`, always the expert's;
    `no-expert`, a random text of reward 1, else the prompt is discarded. A pair of equal texts
    teaches nothing and is discarded.
    """
    lost = [text for text, r in zip(texts, rewards, strict=True) if r == 0]
    won = [text for text, r in zip(texts, rewards, strict=True) if r == 1]
    if not lost:
        return Drop("no failure" if won else "nothing judged")
    rejected = lost[int(rng.integers(len(lost)))]
    source: ChosenSource = "sample" if won and strategy != "no-success" else "expert"
    if source == "sample":
        chosen = won[int(rng.integers(len(won)))]
    elif strategy == "no-expert":
        return Drop("no success")
    elif expert is None:
        return Drop("no expert")
    else:
        chosen = expert
    return Drop("same text") if chosen == rejected else Choice(chosen, rejected, source)


def pair_generator(seed: int, round_: int, query_id: str) -> np.random.Generator:
    """The generator that chooses the pair of one prompt; it depends on nothing else."""
    digest = hashlib.blake2b(f"{seed}\n{round_}\n{query_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def round_prompts(count: int, size: int | None, seed: int, round_: int) -> list[int]:
    """Indices of D_PL that round 1, 2, … asks: `size` of `count` (None: all), sorted.

    Rounds draw without replacement; when all are used up a new seeded order begins, so every
    prompt is asked k times before any is asked k + 1 times. No round asks a prompt twice: what a
    round has asked already waits in the new order until the next round.
    """
    size = count if size is None else min(size, count)
    waiting: list[int] = []
    drawn: list[int] = []
    lap = 0
    for _ in range(round_):
        drawn, waiting = waiting[:size], waiting[size:]
        if len(drawn) < size:
            order = np.random.default_rng([seed, 31, lap]).permutation(count).tolist()
            lap += 1
            asked = set(drawn)
            fresh = [index for index in order if index not in asked][: size - len(drawn)]
            drawn += fresh
            taken = set(fresh)
            waiting = [index for index in order if index not in taken]
    return sorted(drawn)
