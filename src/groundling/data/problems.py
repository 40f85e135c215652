"""What can be wrong with a data set, by kind, and how a reader takes it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from groundling.errors import DataError
from groundling.replies import KINDS as REPLIES

Severity = Literal["error", "warning", "note"]
"""`error`: no reader accepts it. `warning`: read by a documented rule. `note`: harmless."""

KINDS: Mapping[str, tuple[Severity, str]] = {
    **{kind: ("warning", told) for kind, told in REPLIES.items()},
    "not-utf8": ("error", "a line is not UTF-8"),
    "malformed-line": ("error", "a line is neither IMGID:<id> nor token<TAB>tag"),
    "line-outside-post": ("error", "tokens without an IMGID line above them"),
    "missing-blank-line": ("error", "a post starts right after another's last token"),
    "unknown-tag": ("error", "a tag outside BIO over the types of the scheme"),
    "bad-post-id": ("error", "an id that cannot name a file"),
    "duplicate-post": ("error", "an id used twice in one split"),
    "broken-xml": ("error", "an XML file that does not parse, or not as an annotation"),
    "broken-object": ("error", "an object without exactly one name and one box of four numbers"),
    "non-finite-box": ("error", "a coordinate that is NaN or infinite"),
    "inverted-box": ("error", "a box whose second corner lies before its first"),
    "degenerate-box": ("error", "a box without area"),
    "unturned-boxes": ("error", "boxes on stored pixels of an image that cannot be read"),
    "bad-record": ("error", "a JSON value that is not the record it should be"),
    "post-without-entities": ("error", "a post that its entity file does not list"),
    "name-not-in-text": ("error", "an entity whose name does not occur in its text"),
    "crlf": ("warning", "Windows line ends; the \\r is dropped"),
    "orphan-inside": ("warning", "an I- tag that continues nothing; it opens an entity"),
    "empty-post": ("warning", "a post without tokens"),
    "post-in-two-splits": ("warning", "one id in two splits"),
    "no-posts": ("warning", "a file of posts without a post"),
    "duplicate-entity": ("warning", "an entity whose tokens, or name without place, come twice"),
    "overlapping-entities": ("warning", "entities that share tokens; BIO cannot hold the second"),
    "type-conflict": ("warning", "one name with several types in one post"),
    "name-differs": ("warning", "an entity whose name is not its tokens joined by spaces"),
    "name-without-tokens": ("warning", "a name that is no run of tokens; kept as it is"),
    "entities-without-post": ("warning", "listed entities that belong to no post; not used"),
    "unmatched-object": ("warning", "a boxed name that is no entity of its post; its box is lost"),
    "name-whitespace": ("warning", "a boxed name with a newline or outer space; kept as it is"),
    "empty-annotation": ("warning", "an XML file without objects"),
    "xml-without-post": ("warning", "an XML file that belongs to no post"),
    "missing-size": ("warning", "an XML file that does not state the picture's size"),
    "box-outside-image": ("warning", "a box that leaves the picture"),
    "relative-boxes": ("warning", "boxes that look like shares of their images, not pixels"),
    "box-frame": ("warning", "boxes that fit the other frame of their images: see --boxes"),
    "image-missing": ("warning", "a post without a picture"),
    "image-unreadable": ("warning", "a picture that cannot be decoded whole and safely"),
    "image-size-differs": ("warning", "a picture of another size than the XML states"),
    "filename-differs": ("note", "an XML <filename> other than its own name; never used"),
    "odd-character": (
        "note",
        "a zero-width, control or replacement character, or nothing visible; kept",
    ),
}
"""Every kind that `groundling data check` can report, with its severity and meaning."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `file` as it was opened, `line` from 1 where there is one."""

    file: str
    line: int | None
    kind: str
    message: str

    @property
    def severity(self) -> Severity:
        """How a reader takes problems of this kind."""
        return KINDS[self.kind][0]

    def as_json(self) -> dict[str, object]:
        """The object that `groundling data check --json` prints; `line` only where known."""
        found: dict[str, object] = {"file": self.file}
        if self.line is not None:
            found["line"] = self.line
        return found | {"kind": self.kind, "severity": self.severity, "message": self.message}


Report = Callable[[Problem], None]
"""Where the parsers send what they find; one that raises makes the parser strict."""


def refuse_errors(problem: Problem) -> None:
    """Raise DataError for a problem of severity `error`; let the others pass."""
    if problem.severity == "error":
        raise DataError(
            Path(problem.file),
            f"{problem.message}; fix it, or have `groundling data convert --skip-bad` leave such "
            "posts out",
            problem.line,
        )


def keep_errors(kept: list[Problem]) -> Report:
    """A report that adds problems of severity `error` to `kept` and lets the others pass."""

    def report(problem: Problem) -> None:
        if problem.severity == "error":
            kept.append(problem)

    return report


_SMALL, _LARGEST, _DENSEST = 16 << 20, 1 << 30, 100
"""Bytes that any gzip file may unpack to, and the most; and times its size, where text has ten."""


def read_bytes(path: Path) -> bytes:
    """The whole file, unpacked where its name ends in .gz.

    Raises DataError where it is missing, cannot be read, is no whole gzip file or unpacks to far
    more than text does.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        most = max(_SMALL, _DENSEST * path.stat().st_size)
        with gzip.open(path) as stream:
            data = stream.read(min(most, _LARGEST) + 1)
        if len(data) > min(most, _LARGEST):
            raise DataError(
                path,
                f"unpacks to more than {min(most, _LARGEST) >> 20} MiB, which no packed text of "
                "this size does; unpack it with gunzip if it is meant so",
            )
        return data
    except (gzip.BadGzipFile, EOFError, zlib.error) as fault:
        raise DataError(path, f"not a whole gzip file ({fault}); fetch it again") from fault
    except OSError as fault:
        raise DataError(path, f"cannot be read ({fault.strerror}); check the path") from fault
