"""Which labelled examples to show beside a question (ReFineG's selection across modalities).

An example is as near as a weighted sum of three cosine similarities says: of the posts' texts, of
their pictures, and of the entities' names. The authors scale each of the three over all pairs of
question and example to [0, 1] first. That is an affine map, so the sum is one inner product of
longer vectors, and whatever searches for large inner products, exactly or not, finds the examples.

Arithmetic only: no files, no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_BLOCK = 1024
"""Questions whose similarities are held at once."""


@dataclass(frozen=True, slots=True)
class View:
    """One modality: vectors of the questions (n, d) and of the examples (m, d), and its weight.

    A row of zeros stands for what is missing or could not be read: it is similar to nothing.
    """

    weight: float
    questions: Vectors
    examples: Vectors


def normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return rows


def joined(views: Sequence[View]) -> tuple[Vectors, Vectors]:
    """Vectors (n, D) and (m, D) whose inner products are the weighted sums of scaled similarities.

    Each view's similarities are scaled to [0, 1] over all pairs; those with something missing are
    0, and so are all of a view in which every pair is equally similar.
    """
    left, right = [], []
    for view in views:
        questions, examples = normalised(view.questions), normalised(view.examples)
        low, high = _range(questions, examples)
        scale = np.float32(view.weight / (high - low) if high > low else 0.0)
        left += [questions * scale, _there(questions) * scale]
        right += [examples, _there(examples) * np.float32(-low)]
    return np.concatenate(left, axis=1), np.concatenate(right, axis=1)


def _there(vectors: Vectors) -> Vectors:
    """1 for each row that is not zeros, (n, 1)."""
    there: Vectors = np.any(vectors != 0, axis=1, keepdims=True).astype(np.float32)
    return there


def nearest(
    questions: Vectors, examples: Vectors, k: int, barred: Sequence[frozenset[int]] = ()
) -> list[list[int]]:
    """The `k` examples of largest inner product for each question, the nearest first; exact.

    Of equally near ones the first comes first. `barred` names, for each question, examples that it
    may not be shown (its own post). Fewer than `k` where there are no more.
    """
    found: list[list[int]] = []
    for start in range(0, len(questions), _BLOCK):
        scores = questions[start : start + _BLOCK] @ examples.T
        for row, values in enumerate(scores, start=start):
            banned = barred[row] if barred else frozenset()
            most = min(len(values), k + len(banned))
            edge = np.partition(values, len(values) - most)[len(values) - most] if most else 0.0
            candidates = np.flatnonzero(values >= edge)
            ranked = candidates[np.argsort(-values[candidates], kind="stable")]
            found.append([int(i) for i in ranked if int(i) not in banned][:k])
    return found


def at_random(
    count: int, pool: int, k: int, seed: int, barred: Sequence[frozenset[int]] = ()
) -> list[list[int]]:
    """`k` examples drawn for each of `count` questions, each from a generator of its own."""
    found = []
    for row in range(count):
        drawn = np.random.default_rng([seed, 53, row]).permutation(pool).tolist()
        banned = barred[row] if barred else frozenset()
        found.append([i for i in drawn if i not in banned][:k])
    return found


def _range(questions: Vectors, examples: Vectors) -> tuple[float, float]:
    """The smallest and largest similarity of any pair in which nothing is missing."""
    there, known = (rows[_there(rows)[:, 0] > 0] for rows in (questions, examples))
    if not len(there) or not len(known):
        return 0.0, 0.0
    blocks = [there[start : start + _BLOCK] @ known.T for start in range(0, len(there), _BLOCK)]
    return float(min(block.min() for block in blocks)), float(max(b.max() for b in blocks))
