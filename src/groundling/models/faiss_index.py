"""The nearest examples of a large pool by an HNSW graph: a shared module, needs the extra `ann`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from groundling.errors import InputError

NEIGHBOURS = 32
"""Links a node of the graph has (M)."""

_BREADTH = 128
"""Candidates that are kept while searching, at least (efSearch)."""


def approximately_nearest(
    questions: npt.NDArray[np.float32],
    examples: npt.NDArray[np.float32],
    k: int,
    barred: Sequence[frozenset[int]] = (),
) -> list[list[int]]:
    """As `selection.nearest`, but some of the nearest may be missed.

    Raises InputError where faiss is not installed.
    """
    try:
        import faiss
    except ImportError as fault:
        raise InputError("index faiss needs faiss; install groundling[ann]") from fault
    index: Any = faiss.IndexHNSWFlat(examples.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(examples))
    most = min(len(examples), k + max((len(row) for row in barred), default=0))
    index.hnsw.efSearch = max(_BREADTH, 2 * most)
    _, places = index.search(np.ascontiguousarray(questions), most)
    rows = barred or [frozenset[int]()] * len(questions)
    return [
        [int(i) for i in found if i >= 0 and int(i) not in banned][:k]
        for found, banned in zip(places, rows, strict=True)
    ]
