from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.preferences import (
    Choice,
    Drop,
    Strategy,
    choose_pair,
    pair_generator,
    round_prompts,
)

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
TEXTS = ("a", "b", "c", "d")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("rewards", "expert", "full", "no_success", "no_expert"),
    [
        # a success and a failure
        (
            (1, 0),
            "x",
            Choice("a", "b", "sample"),
            Choice("x", "b", "expert"),
            Choice("a", "b", "sample"),
        ),
        (
            (0, 1),
            "x",
            Choice("b", "a", "sample"),
            Choice("x", "a", "expert"),
            Choice("b", "a", "sample"),
        ),
        # failures alone: the expert steps in
        ((0,), "x", Choice("x", "a", "expert"), Choice("x", "a", "expert"), Drop("no success")),
        # nothing to reject
        ((1, 1), "x", Drop("no failure"), Drop("no failure"), Drop("no failure")),
        ((1, None), "x", Drop("no failure"), Drop("no failure"), Drop("no failure")),
        # what could not be judged is neither chosen nor rejected
        ((None, None), "x", *[Drop("nothing judged")] * 3),
        ((), "x", *[Drop("nothing judged")] * 3),
        ((None, 0), "x", *[Choice("x", "b", "expert")] * 2, Drop("no success")),
        ((0, None, 1), "x", Choice("c", "a", "sample"), Choice("x", "a", "expert"),
         Choice("c", "a", "sample")),
        # no expert expression
        ((0,), None, Drop("no expert"), Drop("no expert"), Drop("no success")),
        ((1, 0), None, Choice("a", "b", "sample"), Drop("no expert"), Choice("a", "b", "sample")),
        # a pair of equal texts teaches nothing
        ((0,), "a", Drop("same text"), Drop("same text"), Drop("no success")),
    ],
)  # fmt: skip
def test_every_strategy(
    rewards: tuple[int | None, ...],
    expert: str | None,
    full: Choice | Drop,
    no_success: Choice | Drop,
    no_expert: Choice | Drop,
) -> None:
    texts = TEXTS[: len(rewards)]
    found = [choose_pair(texts, rewards, expert, strategy, rng()) for strategy in STRATEGIES]
    assert STRATEGIES == ("full", "no-success", "no-expert")
    assert found == [full, no_success, no_expert]


def test_equal_texts_of_unequal_reward_are_dropped() -> None:
    """A grounder that is asked once cannot cause it, but stored rewards may say anything."""
    assert choose_pair(["a", "a"], [1, 0], "x", "full", rng()) == Drop("same text")


def test_as_many_rewards_as_texts() -> None:
    with pytest.raises(ValueError, match="shorter"):
        choose_pair(["a", "b"], [1], "x", "full", rng())


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from([0, 1, None])), max_size=8),
    st.sampled_from([None, "x", "a"]),
    st.sampled_from(STRATEGIES),
    st.integers(0, 99),
)
def test_a_pair_is_what_its_strategy_allows(
    samples: list[tuple[str, int | None]], expert: str | None, strategy: Strategy, seed: int
) -> None:
    texts, rewards = [text for text, _ in samples], [reward for _, reward in samples]
    found = choose_pair(texts, rewards, expert, strategy, np.random.default_rng(seed))
    won = {text for text, reward in samples if reward == 1}
    lost = {text for text, reward in samples if reward == 0}
    if isinstance(found, Drop):
        assert found.reason in {"no failure", "nothing judged"} or lost
        return
    assert found.rejected in lost
    assert found.chosen != found.rejected
    if found.chosen_source == "expert":
        assert found.chosen == expert
        assert strategy == "no-success" or (strategy == "full" and not won)
    else:
        assert found.chosen in won
        assert strategy != "no-success"


def test_choices_are_uniform_over_what_was_drawn() -> None:
    """Identical samples weigh as drawn: of rejected a, a, b the first text comes twice as often."""
    generator = np.random.default_rng(1)
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(6000):
        found = choose_pair(["a", "a", "b", "p", "q"], [0, 0, 0, 1, 1], "x", "full", generator)
        assert isinstance(found, Choice)
        counts[found.rejected, found.chosen] += 1
    expected = {("a", "p"): 2000, ("a", "q"): 2000, ("b", "p"): 1000, ("b", "q"): 1000}
    assert counts.keys() == expected.keys()
    for pair, count in expected.items():
        assert abs(counts[pair] - count) < 130  # four standard deviations


def test_the_pair_of_a_prompt_hangs_on_its_seed_round_and_id_alone() -> None:
    def draws(seed: int, round_: int, query_id: str) -> list[int]:
        return pair_generator(seed, round_, query_id).integers(1000, size=8).tolist()

    first = draws(1, 2, "p#0")
    assert draws(1, 2, "p#0") == first
    others = [draws(2, 2, "p#0"), draws(1, 3, "p#0"), draws(1, 2, "p#1"), draws(12, 0, "p#0")]
    assert first not in others


# ------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(("count", "size"), [(12, 3), (12, 5), (7, 6), (5, 5), (10, 9), (3, 1)])
def test_rounds_draw_without_replacement_until_all_are_used_up(count: int, size: int) -> None:
    asked: Counter[int] = Counter()
    for round_ in range(1, 30):
        prompts = round_prompts(count, size, seed=4, round_=round_)
        assert prompts == sorted(set(prompts))  # no prompt twice in a round
        assert len(prompts) == size
        asked.update(prompts)
        times = [asked[index] for index in range(count)]
        # within a round that begins a new order, some are asked again while others catch up
        assert max(times) - min(times) <= 1
        assert sum(times) == round_ * size


def test_all_prompts_or_more_than_there_are() -> None:
    for size in (None, 5, 50):
        assert round_prompts(5, size, 0, 1) == [0, 1, 2, 3, 4]
        assert round_prompts(5, size, 0, 3) == [0, 1, 2, 3, 4]
    assert round_prompts(0, 3, 0, 1) == []


def test_prompts_are_seeded_and_rounds_differ() -> None:
    first = round_prompts(100, 20, 1, 1)
    assert round_prompts(100, 20, 1, 1) == first
    assert round_prompts(100, 20, 2, 1) != first
    assert not set(round_prompts(100, 20, 1, 2)) & set(first)
    later = round_prompts(100, 20, 1, 6)  # the next order is another one
    assert later != first
    assert first != list(range(20))


def test_prompts_are_drawn_uniformly() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        counts.update(round_prompts(10, 3, seed, 1))
    assert all(abs(counts[index] - 600) < 90 for index in range(10))
