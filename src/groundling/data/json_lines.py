"""JSON lines, strictly: each line is one object of a declared shape, or a DataError says why not.

Refused everywhere: bytes that are not UTF-8, NaN and Infinity, a key given twice in one object,
half a surrogate pair, values of another type than declared (no coercion). Blank lines count for
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from groundling.atomic import write_bytes
from groundling.data.problems import Problem, Report, read_bytes
from groundling.data.voc import box_fault
from groundling.errors import DataError, InputError
from groundling.records import TWITTER, Box, EntityType, Scheme
from groundling.strict_json import parse_json

_LINE_END_ALIKE = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Characters that some readers take for line ends; escaped on writing."""


class Closed(BaseModel):
    """An object in which an unknown key is an error: a misspelt one would change the gold."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class Open(BaseModel):
    """An object in which unknown keys are ignored: systems may add what they like."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


ParseType: TypeAlias = Callable[[str], EntityType]
"""Says which type a text names, or raises InputError: the context in which types are read."""


def keep_unknown_types(scheme: Scheme) -> ParseType:
    """A reader of types that leaves what is none of the scheme's as it stands."""

    def parse(text: str) -> EntityType:
        try:
            return scheme.parse(text)
        except InputError:
            return text

    return parse


def _entity_type(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    try:
        return (info.context or TWITTER.parse)(value)
    except InputError as fault:
        raise ValueError(str(fault)) from fault


def _corners_in_order(xyxy_px: list[float]) -> list[float]:
    fault = box_fault(xyxy_px)
    if fault and fault[0] == "inverted-box":
        raise ValueError(f"{fault[1]}; a box is [x1, y1, x2, y2], not [x, y, width, height]")
    return xyxy_px


def _with_area(xyxy_px: list[float]) -> list[float]:
    if fault := box_fault(xyxy_px):
        raise ValueError(fault[1])
    return xyxy_px


Text = Annotated[str, Field(min_length=1)]
TypeName = Annotated[EntityType, BeforeValidator(_entity_type)]
AnyBox = Annotated[
    list[float], Field(min_length=4, max_length=4), AfterValidator(_corners_in_order)
]
"""Four pixel coordinates, corners in order; the area may be 0."""
GoldBox = Annotated[AnyBox, AfterValidator(_with_area)]
"""Four pixel coordinates, with an area above 0."""

Shape = TypeVar("Shape", bound=BaseModel)


def read_json_lines(
    path: Path, shape: type[Shape], report: Report, parse_type: ParseType = TWITTER.parse
) -> Iterator[tuple[int, Shape]]:
    """The objects of a file with their line numbers (from 1).

    A line that is not of `shape` is reported as `bad-record` and left out. Raises DataError where
    the file cannot be read, and whatever `report` raises.
    """
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    for number, raw in enumerate(data.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            yield number, shape.model_validate(parse_json(raw), context=parse_type)
        except ValidationError as fault:
            report(Problem(str(path), number, "bad-record", explained(fault)))
        except ValueError as fault:
            report(Problem(str(path), number, "bad-record", str(fault)))


def refuse(problem: Problem) -> None:
    """Raise DataError for any problem: the strict `report`, for files without lines to spare."""
    raise DataError(problem.file, problem.message, problem.line)


def write_json_lines(
    path: Path,
    lines: Iterable[dict[str, object]],
    shape: type[BaseModel],
    *,
    unique_ids: bool = False,
    parse_type: ParseType = TWITTER.parse,
) -> None:
    """Write one object a line, UTF-8, the file whole or not at all.

    An object that `shape` refuses, or an `id` that comes twice where `unique_ids`, raises
    InputError before anything is written.
    """
    seen: set[object] = set()
    chunks: list[bytes] = []
    for line in lines:
        key = line["id"]
        if unique_ids and key in seen:
            raise InputError(f"{path}: id {key!r} comes twice; ids must differ within a file")
        seen.add(key)
        try:
            shape.model_validate(line, context=parse_type)
            text = json.dumps(line, ensure_ascii=False, allow_nan=False)
            chunks.append(text.translate(_LINE_END_ALIKE).encode("utf-8") + b"\n")
        except ValidationError as fault:
            raise InputError(f"{path}: {key!r} cannot be written: {explained(fault)}") from fault
        except UnicodeEncodeError as fault:
            raise InputError(f"{path}: {key!r} holds half a surrogate pair; mend it") from fault
    write_bytes(path, b"".join(chunks))


def box_numbers(box: Box) -> list[float]:
    """A box for JSON: whole coordinates without a decimal point."""
    values = map(float, box.xyxy)
    return [int(v) if v.is_integer() and abs(v) < 2**53 else v for v in values]


def answer_box(box: Box) -> Box:
    """A model's box as it is written: hundredths of a pixel, unless an area is thinner than that.

    Annotated boxes are written as they stand.
    """
    x1, x2 = _hundredths(box.x1, box.x2)
    y1, y2 = _hundredths(box.y1, box.y2)
    return Box(x1, y1, x2, y2)


def _hundredths(low: float, high: float) -> tuple[float, float]:
    rounded = round(low, 2) + 0.0, round(high, 2) + 0.0  # no -0.0
    return rounded if (rounded[0] < rounded[1]) == (low < high) else (low, high)


def explained(fault: ValidationError, limit: int = 3) -> str:
    """The first faults in one line: where in the object, what was wanted, what was found."""
    parts = []
    for error in fault.errors(include_url=False)[:limit]:
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"])
        message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if error["type"] == "extra_forbidden":
            message = "unknown key"
        elif error["type"] == "missing":
            message = "missing"
        elif error["type"] != "value_error":
            found = repr(error["input"])
            message = f"wanted {message}, got {found if len(found) < 60 else found[:57] + '…'}"
        parts.append(f"{where.lstrip('.')}: {message}" if where else message)
    more = fault.error_count() - limit
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
