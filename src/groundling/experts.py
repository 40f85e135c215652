"""Expert expressions (ISR §3.2): the annotator's for what is there, ABSENT for what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groundling.corpus import Case, Corpus
from groundling.data.expressions_check import expression_fault
from groundling.data.expressions_jsonl import read_expressions
from groundling.errors import DataError, ImageError, InputError
from groundling.images import load_image
from groundling.records import ABSENT, Expression


def collect_experts(corpus: Corpus, cases: Sequence[Case], path: Path | None) -> dict[str, str]:
    """The expert expression of each case, by query id.

    From the expressions file at `path`, or from the annotator that the corpus brings along. An
    ungroundable entity's is always ABSENT. Raises InputError where there is neither, and
    DataError where a groundable case has none in the file, or a text that is no expression: a
    refusal, a thought, JSON, words in a fence.
    """
    if path is None:
        if corpus.annotate is None:
            raise InputError("these posts bring no expert expressions; name a file in experts.path")
        return {case.query.id: corpus.annotate(case.query.id).text for case in cases}
    experts, missing = _from_file(cases, path)
    _refuse(missing, path)
    return experts


def check_experts(corpus: Corpus, path: Path | None) -> None:
    """Raise what `collect_experts` would in a run, before it begins.

    A run leaves out cases whose images cannot be read: these need no expression.
    """
    if path is None:
        collect_experts(corpus, [], path)
    else:
        _, missing = _from_file(corpus.cases("train"), path)
        _refuse([case for case in missing if _readable(case)], path)


def _from_file(cases: Sequence[Case], path: Path) -> tuple[dict[str, str], list[Case]]:
    """Expressions by query id, and the groundable cases that have none. Raises DataError."""
    written: dict[tuple[str, str, str], Expression] = {
        (row.post_id, row.name, row.type): row.expression for row in read_expressions(path)
    }
    experts: dict[str, str] = {}
    missing: list[Case] = []
    useless: list[str] = []
    for case in cases:
        found = written.get((case.post_id, case.entity.name, case.entity.type))
        if not case.entity.groundable:
            experts[case.query.id] = ABSENT
        elif found is None or found.absent:
            missing.append(case)
        else:
            experts[case.query.id] = found.text
            if fault := expression_fault(found.text):
                useless.append(f"{case.query.name} in post {case.post_id} ({fault.kind}): {fault}")
    if useless:
        raise DataError(
            path,
            f"{len(useless)} texts are no expressions to learn from, the first of {useless[0]}; "
            f"`groundling data check {path}` lists them all: mend or remove them",
        )
    return experts, missing


def _refuse(missing: Sequence[Case], path: Path) -> None:
    if missing:
        first = missing[0]
        raise DataError(
            path,
            f"{len(missing)} groundable entities have no expression, the first "
            f"{first.query.name} ({first.query.type}) in post {first.post_id}; "
            "collect them with `groundling experts`, or write them in",
        )


def _readable(case: Case) -> bool:
    try:
        load_image(case.query.image)
    except ImageError:
        return False
    return True
