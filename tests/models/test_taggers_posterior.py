from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from test_taggers_crf import LABELS, LENGTHS, all_scores, random_lattice

from groundling.models.taggers.crf import Transitions
from groundling.models.taggers.labels import Labels
from groundling.models.taggers.posterior import Belief, read_lattices


def enumerated(lattice, row: int) -> dict[tuple[int, int, str], float]:  # type: ignore[no-untyped-def]
    """p(span is a mention) by adding up the probability of every path that spells it."""
    found: dict[tuple[int, int, str], float] = {}
    scores = all_scores(lattice, row)
    total = np.logaddexp.reduce(list(scores.values()))
    for path, score in scores.items():
        for span in LABELS.decode(path) if np.isfinite(score) else []:
            found[span] = found.get(span, 0.0) + float(np.exp(score - total))
    return found


def all_spans(length: int) -> list[tuple[int, int, str]]:
    return [
        (start, end, kind)
        for start, end in combinations(range(length + 1), 2)
        for kind in LABELS.types
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.5])
def test_span_probabilities_are_those_of_enumeration(
    seed: int, learned: bool, temperature: float
) -> None:
    lattice = random_lattice(seed, learned, temperature)
    beliefs = list(read_lattices([lattice], LABELS))
    for row, belief in enumerate(beliefs):
        expected = enumerated(lattice, row)
        for span in all_spans(LENGTHS[row]):
            assert belief.probability(*span) == pytest.approx(expected[span], abs=1e-9), span


def test_the_spans_are_those_of_the_best_path() -> None:
    lattice = random_lattice(11)
    beliefs = list(read_lattices([lattice], LABELS))
    for row, belief in enumerate(beliefs):
        scores = all_scores(lattice, row)
        assert belief.spans == LABELS.decode(max(scores, key=scores.__getitem__))


def read_one(emissions: list[list[float]], kinds: tuple[str, ...] = ("PER",)) -> Belief:
    labels = Labels(kinds)
    scores = torch.tensor([emissions], dtype=torch.float64)
    transitions = Transitions(labels, learned=False).double()
    lattice = transitions.lattice(scores, torch.tensor([len(emissions)]))
    (belief,) = read_lattices([lattice], labels)
    return belief


def test_independent_words_by_hand() -> None:
    """Two words, O B I; the paths OO OB BO BB BI weigh 1·1, 1·1, 2·1, 2·1, 2·4."""
    belief = read_one([[0.0, np.log(2), 9.0], [0.0, 0.0, np.log(4)]])
    assert belief.probability(0, 2, "PER") == pytest.approx(8 / 14)
    assert belief.probability(0, 1, "PER") == pytest.approx(4 / 14)
    assert belief.probability(1, 2, "PER") == pytest.approx(3 / 14)
    assert belief.spans == [(0, 2, "PER")]


def test_certainty_neither_overflows_nor_exceeds_one() -> None:
    belief = read_one([[0.0, 2000.0, 0.0], [0.0, 0.0, 2000.0], [2000.0, 0.0, 0.0]])
    assert belief.probability(0, 2, "PER") == 1.0
    assert belief.probability(0, 1, "PER") == 0.0
    assert belief.probability(0, 3, "PER") == 0.0


def test_it_is_not_the_product_of_the_words_marginals() -> None:
    """OO, BO and BI weigh the same: marginals of B and I would multiply to 2/3 · 1/3."""
    belief = read_one([[0.0, 0.0, 0.0], [0.0, -50.0, 0.0]])
    assert belief.probability(0, 2, "PER") == pytest.approx(1 / 3)
    assert belief.probability(0, 1, "PER") == pytest.approx(1 / 3)
