from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from groundling.models.taggers.crf import (
    Lattice,
    Transitions,
    backward_sums,
    best_paths,
    forward_sums,
    log_likelihood,
    log_partition,
    path_scores,
)
from groundling.models.taggers.labels import Labels

LABELS = Labels(("PER", "LOC"))
LENGTHS = (4, 1, 3)


def random_lattice(seed: int = 0, learned: bool = True, temperature: float = 1.0) -> Lattice:
    """Three texts of 4, 1 and 3 words; what lies beyond them is noise that must not matter."""
    draws = torch.Generator().manual_seed(seed)
    transitions = Transitions(LABELS, learned).double().requires_grad_(False)
    for parameter in transitions.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
    emissions = 2 * torch.randn(3, 4, len(LABELS), generator=draws, dtype=torch.float64)
    return transitions.lattice(emissions, torch.tensor(LENGTHS)).at(temperature)


def paths(length: int) -> list[tuple[int, ...]]:
    """All label paths, also those that BIO does not allow."""
    return list(product(range(len(LABELS)), repeat=length))


def allowed(path: tuple[int, ...]) -> bool:
    """The BIO rules, written once more: I comes after B or I of its own type."""
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    told = ["O", *(names[label] for label in path)]
    return all(now[0] != "I" or before[1:] == now[1:] for before, now in pairwise(told))


def score(lattice: Lattice, row: int, path: tuple[int, ...]) -> float:
    """The definition, word by word."""
    if not allowed(path):
        return float("-inf")
    total = lattice.starts[path[0]] + lattice.ends[path[-1]]
    for t, label in enumerate(path):
        total = total + lattice.emissions[row, t, label]
        if t:
            total = total + lattice.moves[path[t - 1], label]
    return float(total)


def all_scores(lattice: Lattice, row: int) -> dict[tuple[int, ...], float]:
    return {path: score(lattice, row, path) for path in paths(LENGTHS[row])}


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_the_partition_sums_all_allowed_paths(learned: bool, temperature: float) -> None:
    lattice = random_lattice(1, learned, temperature)
    for row, log_z in enumerate(log_partition(lattice)):
        scores = torch.tensor(list(all_scores(lattice, row).values()))
        assert float(log_z) == pytest.approx(float(torch.logsumexp(scores, 0)), abs=1e-5)


@pytest.mark.parametrize("learned", [True, False])
def test_path_scores_are_the_definition(learned: bool) -> None:
    lattice = random_lattice(2, learned)
    for row, length in enumerate(LENGTHS):
        for path in paths(length):
            labels = torch.zeros(3, 4, dtype=torch.long)
            labels[row, :length] = torch.tensor(path)
            found = float(path_scores(lattice, labels)[row])
            assert found == pytest.approx(score(lattice, row, path), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("learned", [True, False])
def test_viterbi_finds_the_best_of_all_paths(seed: int, learned: bool) -> None:
    lattice = random_lattice(seed, learned)
    for row, path in enumerate(best_paths(lattice)):
        scores = all_scores(lattice, row)
        assert tuple(path) == max(scores, key=scores.__getitem__)


def test_probabilities_of_all_allowed_paths_sum_to_one_and_the_others_have_none() -> None:
    lattice = random_lattice(3)
    batch = Lattice(
        lattice.emissions[:1, :3].expand(125, -1, -1),
        lattice.starts,
        lattice.moves,
        lattice.ends,
        torch.full((125,), 3),
    )
    probabilities = log_likelihood(batch, torch.tensor(paths(3))).exp()
    assert float(probabilities.sum()) == pytest.approx(1.0)
    for path, probability in zip(paths(3), probabilities.tolist(), strict=True):
        assert (probability > 0) == allowed(path), path


def test_forward_and_backward_agree_at_every_word() -> None:
    lattice = random_lattice(4)
    both = torch.logsumexp(forward_sums(lattice) + backward_sums(lattice), dim=-1)
    for row, length in enumerate(LENGTHS):
        expected = log_partition(lattice)[row].expand(length)
        torch.testing.assert_close(both[row, :length], expected)


def test_what_lies_beyond_a_text_does_not_matter() -> None:
    lattice = random_lattice(5)
    noise = lattice.emissions.clone()
    for row, length in enumerate(LENGTHS):
        noise[row, length:] = 1e6
    other = Lattice(noise, lattice.starts, lattice.moves, lattice.ends, lattice.lengths)
    assert torch.equal(log_partition(other), log_partition(lattice))
    assert best_paths(other) == best_paths(lattice)
    assert list(map(len, best_paths(other))) == list(LENGTHS)


def test_gradients_are_right_and_finite_in_spite_of_forbidden_moves() -> None:
    transitions = Transitions(LABELS, learned=True).double()
    draws = torch.Generator().manual_seed(6)
    labels = torch.tensor([[1, 2, 0, 3], [3, 0, 0, 0], [0, 1, 2, 0]])

    def loss(
        emissions: torch.Tensor, starts: torch.Tensor, moves: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        never = float("-inf")
        lattice = Lattice(
            emissions,
            starts.masked_fill(~transitions.may_start, never),
            moves.masked_fill(~transitions.may_follow, never),
            ends,
            torch.tensor(LENGTHS),
        )
        return log_likelihood(lattice, labels)

    inputs = tuple(
        torch.randn(shape, generator=draws, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 4, 5), (5,), (5, 5), (5,))
    )
    assert torch.autograd.gradcheck(loss, inputs)
    gradients = torch.autograd.grad(loss(*inputs).sum(), inputs)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[2][~transitions.may_follow] == 0).all()


def test_float32_is_exact_enough_over_a_long_text() -> None:
    draws = torch.Generator().manual_seed(7)
    emissions = 5 * torch.randn(2, 400, 5, generator=draws)
    transitions, lengths = Transitions(LABELS, learned=True), torch.tensor([400, 250])
    with torch.no_grad():
        single = log_partition(transitions.lattice(emissions, lengths))
        double = log_partition(transitions.double().lattice(emissions.double(), lengths))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


def test_it_agrees_with_pytorch_crf() -> None:
    torchcrf = pytest.importorskip("torchcrf", reason="pytorch-crf is not installed")
    reference = torchcrf.CRF(5, batch_first=True).double()
    draws = torch.Generator().manual_seed(8)
    emissions = torch.randn(3, 6, 5, generator=draws, dtype=torch.float64)
    lengths = torch.tensor([6, 1, 4])
    mask = torch.arange(6) < lengths[:, None]
    labels = torch.randint(0, 5, (3, 6), generator=draws)
    lattice = Lattice(
        emissions,
        reference.start_transitions.detach(),
        reference.transitions.detach(),
        reference.end_transitions.detach(),
        lengths,
    )
    expected = reference(emissions, labels, mask=mask, reduction="none")
    torch.testing.assert_close(log_likelihood(lattice, labels), expected)
    assert best_paths(lattice) == reference.decode(emissions, mask=mask)
