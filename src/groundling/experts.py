"""Expert expressions (ISR §3.2): the annotator's for what is there, ABSENT for what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groundling.corpus import Case, Corpus
from groundling.data.expressions_jsonl import read_expressions
from groundling.errors import DataError, InputError
from groundling.records import ABSENT, Expression


def collect_experts(corpus: Corpus, cases: Sequence[Case], path: Path | None) -> dict[str, str]:
    """The expert expression of each case, by query id.

    From the expressions file at `path`, or from the annotator that the corpus brings along. An
    ungroundable entity's is always ABSENT. Raises InputError where there is neither, and
    DataError where a groundable case has none in the file.
    """
    if path is not None:
        return _from_file(cases, path)
    if corpus.annotate is None:
        raise InputError("these posts bring no expert expressions; name a file in experts.path")
    return {case.query.id: corpus.annotate(case.query.id).text for case in cases}


def _from_file(cases: Sequence[Case], path: Path) -> dict[str, str]:
    written: dict[tuple[str, str, str], Expression] = {
        (row.post_id, row.name, row.type): row.expression for row in read_expressions(path)
    }
    experts: dict[str, str] = {}
    missing: list[str] = []
    for case in cases:
        post_id = case.post_id
        found = written.get((post_id, case.entity.name, case.entity.type))
        if not case.entity.groundable:
            experts[case.query.id] = ABSENT
        elif found is None or found.absent:
            missing.append(f"{case.query.name} ({case.query.type}) in post {post_id}")
        else:
            experts[case.query.id] = found.text
    if missing:
        raise DataError(
            path,
            f"{len(missing)} groundable entities have no expression, the first {missing[0]}; "
            "collect them with `groundling experts`, or write them in",
        )
    return experts
