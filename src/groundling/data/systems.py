"""Predictions of other systems, by the name of their format.

jsonl   our own lines (`jsonl`)
ccks    the CCKS task's entity files (`ccks`)
conll   tags in columns (`tagger_output`)
riveg   RiVEG's table (`riveg`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from groundling.data.ccks_predictions import read_ccks_predictions, write_ccks_predictions
from groundling.data.gmner import Split
from groundling.data.jsonl import read_predictions, write_predictions
from groundling.data.problems import Report
from groundling.data.riveg import read_riveg
from groundling.data.tagger_output import read_tagger_output
from groundling.records import PostPrediction, Scheme

Source = Literal["jsonl", "ccks", "conll", "riveg"]
Target = Literal["jsonl", "ccks"]
SOURCES: tuple[Source, ...] = get_args(Source)
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read predictions.

    `column` is where a tagger's tags are (from 1; None: the last). `perfect_boxes` gives RiVEG's
    groundable entities gold boxes. `keep_unknown` keeps types that are none of the scheme's.
    """

    form: Source
    scheme: Scheme
    column: int | None = None
    perfect_boxes: bool = False
    keep_unknown: bool = False


def read_system(path: Path, gold: Split, how: Reading, report: Report) -> Sequence[PostPrediction]:
    """Read predictions for the posts of a split; names without tokens go to `report`.

    Raises DataError for a file that is not of its format or not of these posts.
    """
    posts, scheme = gold.posts, how.scheme
    if how.form == "conll":
        return read_tagger_output(path, posts, scheme, column=how.column)
    if how.form == "riveg":
        return read_riveg(path, posts, report, scheme, perfect_boxes=how.perfect_boxes)
    if how.form == "ccks":
        return read_ccks_predictions(path, posts, report, scheme, keep_unknown=how.keep_unknown)
    return read_predictions(path, scheme, keep_unknown=how.keep_unknown)


def write_system(
    path: Path, form: Target, predictions: Sequence[PostPrediction], gold: Split, how: Reading
) -> int:
    """Write predictions; returns how many failures the format has no word for, left out.

    Raises InputError for what the format cannot hold.
    """
    if form == "ccks":
        return write_ccks_predictions(path, predictions, gold.posts, gold.source_texts, how.scheme)
    write_predictions(path, predictions, how.scheme, keep_unknown=how.keep_unknown)
    return 0
