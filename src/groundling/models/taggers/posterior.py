"""What a tagger believes of a text: how probable every span is, exactly.

The probability that [s, e) of type t is a mention is the share of all label paths, weighed by
exp(score), in which s has B-t, the words up to e have I-t, and e has not. Forward and backward
sums give it at once; products of single words' marginals, which would count paths with other
borders, are never taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from groundling.metrics import Floats
from groundling.models.taggers.crf import Lattice, backward_sums, best_paths, forward_sums
from groundling.models.taggers.labels import Labels, Span
from groundling.records import EntityType


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The distribution over the label paths of one text of T words, and its best path's spans.

    `ahead` and `behind` are the forward and backward sums (T, L), `moves` (L, L), `ends` (L).
    """

    labels: Labels
    spans: list[Span]
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


def read_lattice(lattice: Lattice, labels: Labels) -> Iterator[Posterior]:
    """The posterior of each text of a lattice; float64 keeps long texts exact."""
    ahead, behind = forward_sums(lattice).cpu().numpy(), backward_sums(lattice).cpu().numpy()
    emissions, moves = lattice.emissions.cpu().numpy(), lattice.moves.cpu().numpy()
    ends = lattice.ends.cpu().numpy()
    for row, path in enumerate(best_paths(lattice)):
        n = len(path)
        yield Posterior(
            labels,
            labels.decode(path),
            emissions[row, :n],
            ahead[row, :n],
            behind[row, :n],
            moves,
            ends,
        )
