"""Preference pairs as Parquet, in the columns that TRL's DPOTrainer reads.

    query_id  images [{bytes, path}]  prompt [{role, content}]  chosen [{role, content}]
    rejected [{role, content}]  chosen_source  ref_chosen_logps  ref_rejected_logps

`datasets.load_dataset("parquet", …)` decodes `images` to pictures. They are inside the file, byte
for byte as on disk, so that it can be moved and trained on elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groundling.errors import DataError
from groundling.prompts import writer_messages
from groundling.records import Pair, Query

_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_PART))]))
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _text(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def _list(feature: Any) -> dict[str, Any]:
    return {"feature": feature, "_type": "List"}


_TURNS = _list(
    {
        "role": _text("string"),
        "content": _list({"type": _text("string"), "text": _text("string")}),
    }
)
_FEATURES = {
    "query_id": _text("string"),
    "images": _list({"_type": "Image"}),
    "prompt": _TURNS,
    "chosen": _TURNS,
    "rejected": _TURNS,
    "chosen_source": _text("string"),
    "ref_chosen_logps": _text("float64"),
    "ref_rejected_logps": _text("float64"),
}
PAIRS_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("chosen_source", pa.string()),
        ("ref_chosen_logps", pa.float64()),
        ("ref_rejected_logps", pa.float64()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def pair_rows(pairs: Sequence[Pair], queries: Sequence[Query]) -> list[dict[str, Any]]:
    """Rows for `PAIRS_SCHEMA`; `queries` are the pairs' own, in the same order."""
    return [_row(pair, query) for pair, query in zip(pairs, queries, strict=True)]


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, pictures left aside. Raises DataError where it is not one of ours."""
    columns = [name for name in PAIRS_SCHEMA.names if name not in ("images", "prompt")]
    rows = read_rows(path, columns, "preference pairs")
    try:
        return [
            Pair(
                row["query_id"],
                row["chosen"][0]["content"][0]["text"],
                row["rejected"][0]["content"][0]["text"],
                row["chosen_source"],
                row["ref_chosen_logps"],
                row["ref_rejected_logps"],
            )
            for row in rows
        ]
    except (LookupError, TypeError) as fault:
        raise DataError(path, f"not a file of preference pairs ({fault!r})") from fault


def read_rows(path: Path, columns: Sequence[str], what: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file that has these columns. Raises DataError for anything else."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns)).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise DataError(path, f"not a file of {what}: {reason}") from fault
    if rows and (missing := [name for name in columns if name not in rows[0]]):
        raise DataError(path, f"not a file of {what}: no column {missing[0]}")
    return rows


def _row(pair: Pair, query: Query) -> dict[str, Any]:
    if pair.query_id != query.id:
        raise ValueError(f"pair of {pair.query_id} beside query {query.id}; wanted the same order")
    path = Path(query.image)
    return {
        "query_id": pair.query_id,
        "images": [{"bytes": path.read_bytes(), "path": path.name}],
        "prompt": writer_messages(query.name, query.type),
        "chosen": _answer(pair.chosen),
        "rejected": _answer(pair.rejected),
        "chosen_source": pair.chosen_source,
        "ref_chosen_logps": pair.ref_chosen_logp,
        "ref_rejected_logps": pair.ref_rejected_logp,
    }


def _answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
