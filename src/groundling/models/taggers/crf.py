"""A linear chain over labels: sums and maxima over all label paths of a text, in log space.

The score of a path y_1 … y_n is starts[y_1] + Σ_t emissions[t, y_t] + Σ_t moves[y_t, y_t+1] +
ends[y_n] (Lafferty et al. 2001). What a tagging may not contain has the score −inf, so it has
probability 0 whatever the weights. Every label must have an allowed label before it, after the
first place, and one after it; BIO gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groundling.models.taggers.labels import Labels


@dataclass(frozen=True, slots=True)
class Lattice:
    """The scores of all label paths of a batch of texts.

    `emissions` (B, T, L), `starts` (L), `moves` (L, L) from row to column, `ends` (L), `lengths`
    (B), each from 1 to T; what lies beyond a text's length does not matter.
    """

    emissions: Tensor
    starts: Tensor
    moves: Tensor
    ends: Tensor
    lengths: Tensor

    def at(self, temperature: float) -> Lattice:
        """The same lattice with every score divided by a temperature above 0."""
        return Lattice(
            self.emissions / temperature,
            self.starts / temperature,
            self.moves / temperature,
            self.ends / temperature,
            self.lengths,
        )


class Transitions(nn.Module):
    """The scores between labels: those of a CRF, or, not `learned`, nothing but the BIO rules."""

    starts: Tensor
    moves: Tensor
    ends: Tensor
    may_start: Tensor
    may_follow: Tensor

    def __init__(self, labels: Labels, learned: bool) -> None:
        super().__init__()
        count = len(labels)
        self.learned = learned
        for name, size in {"starts": (count,), "moves": (count, count), "ends": (count,)}.items():
            if learned:
                self.register_parameter(name, nn.Parameter(torch.zeros(size)))
            else:
                self.register_buffer(name, torch.zeros(size), persistent=False)
        rules = {"may_start": labels.may_start(), "may_follow": labels.may_follow()}
        for name, allowed in rules.items():
            self.register_buffer(name, torch.from_numpy(allowed), persistent=False)

    def lattice(self, emissions: Tensor, lengths: Tensor) -> Lattice:
        """The lattice of a batch."""
        never = float("-inf")
        return Lattice(
            emissions,
            self.starts.masked_fill(~self.may_start, never),
            self.moves.masked_fill(~self.may_follow, never),
            self.ends,
            lengths,
        )


def mean_lattice(lattices: Sequence[Lattice]) -> Lattice:
    """The mean of the scores of several lattices of the same texts.

    A path's score is then the mean of its scores, so the best path is the one of the largest
    product of probabilities, that is, of the largest sum of their logarithms.
    """

    def mean(parts: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(parts)).mean(dim=0)

    return Lattice(
        mean(one.emissions for one in lattices),
        mean(one.starts for one in lattices),
        mean(one.moves for one in lattices),
        mean(one.ends for one in lattices),
        lattices[0].lengths,
    )


def forward_sums(lattice: Lattice) -> Tensor:
    """(B, T, L): log of the summed exp scores of all beginnings that end at t with a label.

    Beyond a text's length the values of its last word are repeated.
    """
    sums = [lattice.starts + lattice.emissions[:, 0]]
    for t in range(1, lattice.emissions.shape[1]):
        arriving = torch.logsumexp(sums[-1][:, :, None] + lattice.moves, dim=1)
        here = (t < lattice.lengths)[:, None]
        sums.append(torch.where(here, arriving + lattice.emissions[:, t], sums[-1]))
    return torch.stack(sums, dim=1)


def backward_sums(lattice: Lattice) -> Tensor:
    """(B, T, L): the same of all continuations after t, given the label at t."""
    ends = lattice.ends.expand(len(lattice.lengths), -1)
    sums = [ends]
    for t in range(lattice.emissions.shape[1] - 1, 0, -1):
        leaving = lattice.moves + (lattice.emissions[:, t] + sums[-1])[:, None, :]
        here = (t < lattice.lengths)[:, None]
        sums.append(torch.where(here, torch.logsumexp(leaving, dim=2), ends))
    return torch.stack(sums[::-1], dim=1)


def log_partition(lattice: Lattice) -> Tensor:
    """(B): log Z, over all allowed paths."""
    return torch.logsumexp(forward_sums(lattice)[:, -1] + lattice.ends, dim=-1)


def path_scores(lattice: Lattice, labels: Tensor) -> Tensor:
    """(B): the scores of one path a text, `labels` (B, T); −inf where it is not allowed."""
    steps = torch.arange(labels.shape[1], device=labels.device)
    here = steps < lattice.lengths[:, None]
    emitted = lattice.emissions.gather(2, labels[:, :, None])[:, :, 0].masked_fill(~here, 0.0)
    moved = lattice.moves[labels[:, :-1], labels[:, 1:]].masked_fill(~here[:, 1:], 0.0)
    last = labels.gather(1, lattice.lengths[:, None] - 1)[:, 0]
    return lattice.starts[labels[:, 0]] + emitted.sum(1) + moved.sum(1) + lattice.ends[last]


def log_likelihood(lattice: Lattice, labels: Tensor) -> Tensor:
    """(B): log p(labels | text)."""
    return path_scores(lattice, labels) - log_partition(lattice)


def best_paths(lattice: Lattice) -> list[list[int]]:
    """The best path of each text (Viterbi), as long as the text."""
    best = lattice.starts + lattice.emissions[:, 0]
    came_from = []
    for t in range(1, lattice.emissions.shape[1]):
        arriving, origin = (best[:, :, None] + lattice.moves).max(dim=1)
        here = (t < lattice.lengths)[:, None]
        best = torch.where(here, arriving + lattice.emissions[:, t], best)
        came_from.append(origin)
    lasts = (best + lattice.ends).argmax(dim=1).tolist()
    origins = torch.stack(came_from, dim=1).tolist() if came_from else [[]] * len(lasts)
    lengths = lattice.lengths.tolist()
    return [
        _trace(last, row[: length - 1])
        for last, row, length in zip(lasts, origins, lengths, strict=True)
    ]


def _trace(last: int, origins: list[list[int]]) -> list[int]:
    """The path that ends with `last`, where `origins[t][label]` is what came before it."""
    path = [last]
    for row in reversed(origins):
        path.append(row[path[-1]])
    return path[::-1]
