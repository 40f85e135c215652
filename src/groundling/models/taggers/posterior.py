"""What a tagger believes of a text: how probable every span is, exactly.

The probability that [s, e) of type t is a mention is the share of all label paths, weighed by
exp(score), in which s has B-t, the words up to e have I-t, and e has not. Forward and backward
sums give it at once; products of single words' marginals, which would count paths with other
borders, are never taken.

Where several distributions speak of one text (passes with dropout, members of an ensemble), the
mentions are those of the path of the largest mean log probability, which Viterbi finds exactly, and
the probability of a span is the mean of its probabilities: what the even mixture of the
distributions gives it (Lakshminarayanan et al. 2017). Of one distribution both are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from groundling.metrics import Floats
from groundling.models.taggers.crf import (
    Lattice,
    backward_sums,
    best_paths,
    forward_sums,
    mean_lattice,
)
from groundling.models.taggers.labels import Labels, Span
from groundling.records import EntityType


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The distribution over the label paths of one text of T words.

    `ahead` and `behind` are the forward and backward sums (T, L), `moves` (L, L), `ends` (L).
    """

    labels: Labels
    emissions: Floats
    ahead: Floats
    behind: Floats
    moves: Floats
    ends: Floats

    def probability(self, start: int, end: int, kind: EntityType) -> float:
        """p([start, end) of type `kind` is a mention with exactly these borders), in [0, 1]."""
        begin, inside = self.labels.begin(kind), self.labels.inside(kind)
        score = self.ahead[start, begin]
        last = begin
        for at in range(start + 1, end):
            score += self.moves[last, inside] + self.emissions[at, inside]
            last = inside
        if end == len(self.emissions):
            rest = self.ends[last]
        else:
            leaving = self.moves[last] + self.emissions[end] + self.behind[end]
            rest = np.logaddexp.reduce(np.delete(leaving, inside))
        log_z = np.logaddexp.reduce(self.ahead[-1] + self.ends)
        return float(np.exp(min(0.0, score + rest - log_z)))


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What one or more distributions over the label paths of a text say together."""

    spans: list[Span]
    members: tuple[Posterior, ...]

    def probability(self, start: int, end: int, kind: EntityType) -> float:
        """The mean over the members of `Posterior.probability`."""
        return float(np.mean([one.probability(start, end, kind) for one in self.members]))

    @property
    def finite(self) -> bool:
        """Whether all scores are numbers."""
        return all(bool(np.isfinite(one.emissions).all()) for one in self.members)


def read_lattices(lattices: Sequence[Lattice], labels: Labels) -> Iterator[Belief]:
    """What lattices of the same texts say of each text; float64 keeps long texts exact."""
    posteriors = zip(*(_read(one, labels) for one in lattices), strict=True)
    for path, members in zip(best_paths(mean_lattice(lattices)), posteriors, strict=True):
        yield Belief(labels.decode(path), members)


def _read(lattice: Lattice, labels: Labels) -> Iterator[Posterior]:
    ahead, behind = forward_sums(lattice).cpu().numpy(), backward_sums(lattice).cpu().numpy()
    emissions, moves = lattice.emissions.cpu().numpy(), lattice.moves.cpu().numpy()
    ends = lattice.ends.cpu().numpy()
    for row, n in enumerate(lattice.lengths.tolist()):
        yield Posterior(labels, emissions[row, :n], ahead[row, :n], behind[row, :n], moves, ends)
