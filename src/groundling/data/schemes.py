"""Type schemes by name, or from a small file: a domain of one's own needs no code.

name: birds
types:
  species: a species of bird, by its common or Latin name
  place: where a bird was seen
written:        # how the files spell a type, where that differs
  place: LOC
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from groundling.errors import InputError
from groundling.records import SCHEMES, Scheme
from groundling.settings import Section, load_config

_COLUMNS = ("all", "largest", "groundable", "ungroundable")
"""Names that stand beside those of the types in scores."""


class SchemeFile(Section):
    """A scheme as a YAML or JSON file has it."""

    name: str
    """What the scheme is called in messages."""
    types: dict[str, str]
    """The types in order, each with a description of what it covers."""
    written: dict[str, str] = Field(default_factory=dict)
    """How files spell a type, where that is not its own name."""

    @model_validator(mode="after")
    def _types_can_be_told_apart(self) -> SchemeFile:
        if not self.types:
            raise ValueError("types: wanted one type at least")
        if unknown := [kind for kind in self.written if kind not in self.types]:
            raise ValueError(f"written: {unknown[0]!r} is none of the types")
        owner = dict.fromkeys(_COLUMNS, "a column of the scores")
        for kind in self.types:
            for spelling in {kind, self.written.get(kind, kind)}:
                if not spelling or spelling != "".join(spelling.split()):
                    raise ValueError(f"types: {spelling!r} has white space or is empty")
                other = owner.setdefault(spelling.casefold(), kind)
                if other != kind:
                    raise ValueError(f"types: {spelling!r} means {other} too, letter case folded")
        return self


def read_scheme(name_or_path: str) -> Scheme:
    """A scheme of ours by its name, else the one in a YAML or JSON file.

    Raises InputError where there is no such scheme or file, ConfigError for a file with faults.
    """
    if name_or_path in SCHEMES:
        return SCHEMES[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(SCHEMES)
        raise InputError(f"no scheme {name_or_path!r}; wanted {known}, or a YAML or JSON file")
    given = load_config(SchemeFile, path)
    return Scheme(given.name, tuple(given.types), dict(given.written), dict(given.types))
