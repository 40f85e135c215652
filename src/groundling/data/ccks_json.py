"""The JSON values of the CCKS task's files (see `ccks`), read strictly and written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError, model_validator

from groundling.atomic import write_bytes
from groundling.data.json_lines import (
    Open,
    ParseType,
    Text,
    TypeName,
    box_numbers,
    explained,
)
from groundling.data.problems import Problem, Report, read_bytes
from groundling.data.voc import box_fault
from groundling.errors import DataError, InputError
from groundling.records import CCKS, Box
from groundling.strict_json import parse_json

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class TextValue(Open):
    """What a text file holds for a post."""

    text: str


class Bounds(Open):
    """A box in pixels, corners in order; the area may be 0."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float

    @model_validator(mode="after")
    def _corners_in_order(self) -> Bounds:
        fault = box_fault(self.box.xyxy)
        if fault and fault[0] == "inverted-box":
            raise ValueError(fault[1])
        return self

    @property
    def box(self) -> Box:
        """The same as a record."""
        return Box(self.xmin, self.ymin, self.xmax, self.ymax)


class GoldBounds(Bounds):
    """A box with an area above 0."""

    @model_validator(mode="after")
    def _has_area(self) -> GoldBounds:
        if fault := box_fault(self.box.xyxy):
            raise ValueError(fault[1])
        return self


class PredictedEntry(Open):
    """One predicted entity."""

    name: Text
    label: TypeName
    bnd: Bounds | None

    @property
    def box(self) -> Box | None:
        """Its box, None for "not in the picture"."""
        return None if self.bnd is None else self.bnd.box


class GoldEntry(PredictedEntry):
    """One gold entity."""

    bnd: GoldBounds | None


TEXT = TypeAdapter(TextValue)
GOLD = TypeAdapter(list[GoldEntry])
PREDICTED = TypeAdapter(list[PredictedEntry])
"""What a file holds for a post."""

Value = TypeVar("Value")


def read_values(
    path: Path, shape: TypeAdapter[Value], report: Report, parse_type: ParseType = CCKS.parse
) -> dict[str, Value | None]:
    """What a file holds by post id; None for a value not of `shape`, which is reported.

    Raises DataError where the file cannot be read or holds no object, and whatever `report` raises.
    """
    try:
        raw = parse_json(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except ValueError as fault:
        raise DataError(path, str(fault)) from fault
    if not isinstance(raw, dict):
        raise DataError(path, f"holds a {type(raw).__name__}; wanted an object with posts by id")
    values: dict[str, Value | None] = {}
    for key, value in raw.items():
        try:
            values[key] = shape.validate_python(value, context=parse_type)
        except ValidationError as fault:
            values[key] = None
            report(Problem(str(path), None, "bad-record", f"post {key!r}: {explained(fault)}"))
    return values


def entry(name: str, label: str, box: Box | None) -> dict[str, object]:
    """One entity as a JSON value."""
    bounds = None if box is None else dict(zip(_CORNERS, box_numbers(box), strict=True))
    return {"name": name, "label": label, "bnd": bounds}


def write_values(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file whole or not at all. Raises InputError for text that UTF-8 cannot hold."""
    try:
        data = json.dumps(values, ensure_ascii=False, allow_nan=False, indent=4).encode("utf-8")
    except UnicodeEncodeError as fault:
        raise InputError(f"{path}: a text holds half a surrogate pair; mend it") from fault
    write_bytes(path, data + b"\n")
