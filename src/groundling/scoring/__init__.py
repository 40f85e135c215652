"""Scores: one rule a file, the intervals and tests around them, and the floors below them."""

from __future__ import annotations

from groundling.scoring import refineg, riveg, span
from groundling.scoring.compare import Comparison, compare_isr, compare_triples
from groundling.scoring.floors import (
    FLOORS,
    Floor,
    floor_predictions,
    mean_person_norm,
    score_floors,
)
from groundling.scoring.isr import IsrScore, Judgement, isr_correct, judge, score_isr
from groundling.scoring.rule import TripleRule
from groundling.scoring.triples import TaskScore, TripleScore, score_triples

TRIPLE_RULES: dict[str, TripleRule] = {
    rule.name: rule for rule in (riveg.RULE, refineg.RULE, span.RULE)
}
"""The rules for (name, type, box) triples, by name."""

RULES = ("isr", *TRIPLE_RULES)
"""Every rule name that `groundling score --rule` takes."""

__all__ = [
    "FLOORS",
    "RULES",
    "TRIPLE_RULES",
    "Comparison",
    "Floor",
    "IsrScore",
    "Judgement",
    "TaskScore",
    "TripleRule",
    "TripleScore",
    "compare_isr",
    "compare_triples",
    "floor_predictions",
    "isr_correct",
    "judge",
    "mean_person_norm",
    "score_floors",
    "score_isr",
    "score_triples",
]
