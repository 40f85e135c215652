"""Box annotations in the VOC-like XML of Twitter-GMNER.

An `<object>` is a name and one `<bndbox>` of pixel coordinates, kept as they stand (the release
counts from 1). Names are what the parser returns, never unescaped again: a token may be the
literal `&amp`. Document types, entities and external references are refused (defusedxml).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.sax.saxutils import escape

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError

from groundling.data.problems import Problem, Report, read_bytes
from groundling.errors import InputError
from groundling.records import Box

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ILLEGAL_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.A | re.I)


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A name, its box in pixels, and the line its `<object>` starts on (from 1; None: no line)."""

    name: str
    box: Box
    line: int | None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One XML file.

    `filename` is what its <filename> says, empty where there is none. `size_wh_px` is None where
    the file does not state a positive width and height.
    """

    filename: str
    filename_line: int | None
    size_wh_px: tuple[int, int] | None
    objects: tuple[NamedBox, ...]

    def boxes(self, name: str) -> tuple[Box, ...]:
        """The boxes of objects called exactly `name`, in the order of the file."""
        return tuple(item.box for item in self.objects if item.name == name)


def read_annotation(path: Path, report: Report) -> Annotation | None:
    """Read one XML file; None where it is broken, each fault sent to `report`.

    Raises DataError where the file cannot be read, and whatever `report` raises.
    """
    try:
        root, lines = _parse(read_bytes(path))
    except _AnnotationError as fault:
        report(Problem(str(path), fault.line, fault.kind, fault.message))
        return None
    elements = root.findall("object")
    objects = []
    for element in elements:
        try:
            objects.append(_named_box(element, lines))
        except _AnnotationError as fault:
            report(Problem(str(path), fault.line, fault.kind, fault.message))
    if len(objects) < len(elements):
        return None
    named = root.find("filename")
    filename, at = ("", None) if named is None else (named.text or "", lines[named])
    return Annotation(filename, at, _size(root), tuple(objects))


def format_annotation(
    filename: str, size_wh_px: tuple[int, int] | None, objects: Iterable[tuple[str, Box]]
) -> bytes:
    """The XML file, UTF-8 with `\\n` line ends, that `read_annotation` reads back as given.

    `<size>` is left out where the size is None. Raises InputError for a name that XML cannot
    hold and for a box that is not made of whole numbers with an area above 0.
    """
    lines = ["<annotation>", f"\t<filename>{_escaped(filename)}</filename>"]
    if size_wh_px is not None:
        width, height = size_wh_px
        lines += ["\t<size>", f"\t\t<width>{width}</width>", f"\t\t<height>{height}</height>"]
        lines += ["\t\t<depth>3</depth>", "\t</size>"]
    for name, box in objects:
        if not all(float(value).is_integer() for value in box.xyxy) or box.area <= 0:
            raise InputError(
                f"box {box.xyxy} of {name!r} does not fit the layout; "
                "wanted whole pixels with x1 < x2 and y1 < y2"
            )
        lines += ["\t<object>", f"\t\t<name>{_escaped(name)}</name>", "\t\t<bndbox>"]
        for corner, value in zip(_CORNERS, box.xyxy, strict=True):
            lines.append(f"\t\t\t<{corner}>{int(value)}</{corner}>")
        lines += ["\t\t</bndbox>", "\t</object>"]
    return "\n".join([*lines, "</annotation>", ""]).encode("utf-8")


def box_fault(xyxy_px: Sequence[float]) -> tuple[str, str] | None:
    """The kind of fault of four box coordinates and its description, or None for a sound box."""
    for corner, value in zip(_CORNERS, xyxy_px, strict=True):
        if not math.isfinite(value):
            return "non-finite-box", f"{corner} is {value}; wanted a finite number"
    x1, y1, x2, y2 = xyxy_px
    for low, high, axis in ((x1, x2, "x"), (y1, y2, "y")):
        if high < low:
            return "inverted-box", f"{axis}max {high:.15g} < {axis}min {low:.15g}"
        if high == low:
            return "degenerate-box", f"{axis}max = {axis}min = {low:.15g}; wanted an area above 0"
    return None


Lines = dict[Element, int]
"""The line of every start tag, from 1."""


class _AnnotationError(Exception):
    """Why a file or an object of it is not an annotation, and where."""

    def __init__(self, kind: str, message: str, line: int | None) -> None:
        super().__init__(message)
        self.kind, self.message, self.line = kind, message, line


class _LineBuilder(TreeBuilder):
    """Builds the tree and notes the line of every start tag."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Lines = {}
        self.expat: Any = None

    def start(self, tag: Any, attrs: Any, /) -> Element:
        element = super().start(tag, attrs)
        self.lines[element] = self.expat.CurrentLineNumber
        return element


def _parse(data: bytes) -> tuple[Element, Lines]:
    builder = _LineBuilder()
    parser: Any = DefusedXMLParser(target=builder, forbid_dtd=True)
    builder.expat = parser.parser
    try:
        parser.feed(data)
        root: Element = parser.close()
    except ParseError as fault:
        message = f"the XML does not parse ({str(fault).partition(': line')[0]})"
        raise _AnnotationError("broken-xml", message, fault.position[0]) from fault
    except DefusedXmlException as fault:
        message = f"a document type or entity is declared and refused ({type(fault).__name__})"
        raise _AnnotationError("broken-xml", message, builder.expat.CurrentLineNumber) from fault
    except (LookupError, ValueError) as fault:
        raise _AnnotationError("broken-xml", f"the XML cannot be decoded ({fault})", 1) from fault
    if root.tag != "annotation":
        message = f"the root is <{root.tag}>; wanted <annotation>"
        raise _AnnotationError("broken-xml", message, builder.lines[root])
    return root, builder.lines


def _named_box(element: Element, lines: Lines) -> NamedBox:
    names, boxes = element.findall("name"), element.findall("bndbox")
    if len(names) != 1 or not names[0].text or len(names[0]):
        message = "the object does not have exactly one <name> with text"
        raise _AnnotationError("broken-object", message, lines[element])
    name = names[0].text
    if len(boxes) != 1:
        message = f"object {name!r} has {len(boxes)} <bndbox>; wanted 1"
        raise _AnnotationError("broken-object", message, lines[element])
    line = lines[boxes[0]]
    values: list[float] = []
    for corner in _CORNERS:
        text = (boxes[0].findtext(corner) or "").strip()
        if len(boxes[0].findall(corner)) != 1 or not _NUMBER.fullmatch(text):
            message = f"<{corner}> of {name!r} is {text!r}; wanted one number in pixels"
            raise _AnnotationError("broken-object", message, line)
        values.append(float(text))
    if wrong := box_fault(values):
        raise _AnnotationError(wrong[0], f"box of {name!r}: {wrong[1]}", line)
    return NamedBox(name, Box(*values), lines[element])


def _size(root: Element) -> tuple[int, int] | None:
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    if not all(re.fullmatch(r"[0-9]{1,9}", side) and int(side) for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def _escaped(text: str) -> str:
    if bad := _ILLEGAL_IN_XML.search(text):
        raise InputError(f"{text!r} holds {bad.group()!r}, which XML cannot; take it out")
    return escape(text, {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})
