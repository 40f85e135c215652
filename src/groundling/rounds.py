"""The records of one ISR round on their way through Parquet: drawn, judged, paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from groundling.corpus import Case
from groundling.data.pairs_parquet import read_rows
from groundling.errors import RunError
from groundling.preferences import Choice, Drop
from groundling.records import PASSING, Expression, Failure, Grounded, Verdict


@dataclass(frozen=True, slots=True)
class Drawn:
    """One of the K expressions of a query (eq. 6)."""

    query_id: str
    k: int
    text: str
    source: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """Its reward (eq. 5; None where the grounder failed), its box and what it means."""

    query_id: str
    k: int
    reward: int | None
    x1: float | None
    y1: float | None
    x2: float | None
    y2: float | None
    score: float | None
    verdict: str | None
    failure: str | None


DRAWN_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("k", pa.int32()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("logprob", pa.float64()),
    ]
)
JUDGED_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("k", pa.int32()),
        ("reward", pa.int8()),
        *((name, pa.float64()) for name in ("x1", "y1", "x2", "y2", "score")),
        ("verdict", pa.string()),
        ("failure", pa.string()),
    ]
)


def judged_row(
    query_id: str,
    k: int,
    outcome: int | Failure,
    grounded: Grounded | Failure | None,
    verdict: Verdict | None,
) -> Judged:
    """The record of one judgement."""
    x1, y1, x2, y2 = grounded.box.xyxy if isinstance(grounded, Grounded) else (None,) * 4
    score = grounded.score if isinstance(grounded, Grounded) else None
    value, failure = (None, outcome.reason) if isinstance(outcome, Failure) else (outcome, None)
    return Judged(query_id, k, value, x1, y1, x2, y2, score, verdict, failure)


def refuse_losses(rows: Sequence[list[Expression] | Failure], tolerate: float, stage: str) -> None:
    """Raise RunError where more than a share `tolerate` of the queries failed at an endpoint.

    Such failures pass, unlike a picture that cannot be read, so the stage is better run again. So
    too where nothing was drawn at all, for whatever reason.
    """
    failed = [row for row in rows if isinstance(row, Failure)]
    lost = [row for row in failed if row.stage in PASSING]
    if len(lost) > tolerate * len(rows):
        raise RunError(
            f"{stage}: {len(lost)} of {len(rows)} prompts failed at the endpoint, first: "
            f"{lost[0].reason}; run again to ask for these alone, or raise sampler.tolerate "
            f"({tolerate:g})"
        )
    if failed and len(failed) == len(rows):
        raise RunError(
            f"{stage}: none of {len(rows)} prompts got an expression, first: {failed[0].reason}; "
            "see to what draws them and run again"
        )


def read_drawn(path: Path) -> dict[str, list[Expression]]:
    """The K expressions of each query that has any, in the order drawn."""
    found: dict[str, list[Expression]] = {}
    for row in read_rows(path, ["query_id", "text", "source", "logprob"], "expressions"):
        expression = Expression(row["text"], row["source"], row["logprob"])
        found.setdefault(row["query_id"], []).append(expression)
    return found


def read_rewards(path: Path) -> dict[str, list[int | None]]:
    """The K rewards of each query, in the order drawn."""
    found: dict[str, list[int | None]] = {}
    for row in read_rows(path, ["query_id", "reward"], "rewards"):
        found.setdefault(row["query_id"], []).append(row["reward"])
    return found


def summarise(
    cases: Sequence[Case],
    judged: Sequence[Judged],
    choices: Mapping[str, Choice | Drop],
) -> dict[str, Any]:
    """What a round's metrics.json says: rewards, what expressions meant, where pairs came from."""
    groundable = {case.query.id: case.entity.groundable for case in cases}
    rewards = [row for row in judged if row.reward is not None]
    by_query: dict[str, list[int]] = {}
    for row in rewards:
        by_query.setdefault(row.query_id, []).append(row.reward or 0)
    drops = Counter(c.reason for c in choices.values() if isinstance(c, Drop))
    sources = Counter(c.chosen_source for c in choices.values() if isinstance(c, Choice))
    return {
        "prompts": len(cases),
        "prompts_unwritten": len(cases) - len({row.query_id for row in judged}),
        "expressions": len(judged),
        "expressions_unjudged": len(judged) - len(rewards),
        "mean_reward": {
            "all": _mean([row.reward or 0 for row in rewards]),
            "groundable": _mean([r.reward or 0 for r in rewards if groundable[r.query_id]]),
            "ungroundable": _mean([r.reward or 0 for r in rewards if not groundable[r.query_id]]),
        },
        "any_success": _mean([int(any(row)) for row in by_query.values()]),
        "all_success": _mean([int(all(row)) for row in by_query.values()]),
        "verdicts": dict(sorted(Counter(r.verdict for r in judged if r.verdict).items())),
        "pairs": {"from_sample": sources["sample"], "from_expert": sources["expert"]},
        "dropped": dict(sorted(drops.items())),
    }


def _mean(values: Sequence[int]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
