"""Expressions as JSON lines: what experts, people and writers called an entity.

    {"id", "entity", "type", "expression", "source", "verdict"?}

`id` is the post's, `source` is `expert:MODEL`, `human` or `writer:RUN/ROUND`. One entity may have
many lines. Unknown keys are ignored; `json_lines` says what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from groundling.data.json_lines import (
    Open,
    Text,
    TypeName,
    read_json_lines,
    refuse,
    write_json_lines,
)
from groundling.data.problems import Report
from groundling.records import TWITTER, EntityType, Expression, Scheme

_SOURCE = re.compile(r"human|expert:.+|writer:.+/.+", re.S)


@dataclass(frozen=True, slots=True)
class EntityExpression:
    """An expression written for one entity of one post; `verdict` is a reviewer's word on it."""

    post_id: str
    name: str
    type: EntityType
    expression: Expression
    verdict: str | None = None


def _known_source(source: str) -> str:
    if not _SOURCE.fullmatch(source):
        raise ValueError(f"{source!r}; wanted expert:MODEL, human or writer:RUN/ROUND")
    return source


class _ExpressionLine(Open):
    id: Text
    entity: Text
    type: TypeName
    expression: Text
    source: Annotated[str, AfterValidator(_known_source)]
    verdict: str | None = None


def read_expressions(path: Path | str, scheme: Scheme = TWITTER) -> tuple[EntityExpression, ...]:
    """Read expressions in file order; one entity may have many. A bad line raises DataError."""
    return tuple(line for _, line in read_numbered_expressions(Path(path), refuse, scheme))


def read_numbered_expressions(
    path: Path, report: Report, scheme: Scheme = TWITTER
) -> Iterator[tuple[int, EntityExpression]]:
    """The sound expressions of a file with their lines (from 1); the others go to `report`."""
    for number, line in read_json_lines(path, _ExpressionLine, report, scheme.parse):
        said = Expression(line.expression, line.source)
        yield number, EntityExpression(line.id, line.entity, line.type, said, line.verdict)


def write_expressions(
    path: Path | str, expressions: Iterable[EntityExpression], scheme: Scheme = TWITTER
) -> None:
    """Write one line an expression (without its log-probability), the file whole or not at all.

    Raises InputError for an expression that `read_expressions` would refuse.
    """
    lines = map(_expression_line, expressions)
    write_json_lines(Path(path), lines, _ExpressionLine, parse_type=scheme.parse)


def _expression_line(item: EntityExpression) -> dict[str, object]:
    line: dict[str, object] = {"id": item.post_id, "entity": item.name, "type": item.type}
    line |= {"expression": item.expression.text, "source": item.expression.source}
    return line if item.verdict is None else line | {"verdict": item.verdict}
