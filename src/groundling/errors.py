"""Every exception Groundling raises on purpose.

    GroundlingError
    ├── InputError          the call or a file it names is wrong; exit code 2
    │   ├── DataError       a data file is wrong, with its path and line
    │   ├── ImageError      a picture is missing, unsafe or unreadable
    │   └── ConfigError     a configuration is wrong; carries every problem found
    └── RunError            a run directory cannot be used as asked

A message is one line: what is wrong, what was found, what was wanted, what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class GroundlingError(Exception):
    """Root of the tree; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


class InputError(GroundlingError):
    """The call, or a file it names, cannot be used as it is."""


class DataError(InputError):
    """A data file breaks its format: `FILE:LINE: message`."""

    def __init__(self, path: Path | str, message: str, line: int | None = None) -> None:
        self.path = Path(path)
        self.line = line
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {message}")


class ImageError(InputError):
    """A picture is missing, outside its root, too large, truncated or not a picture."""


class ConfigError(InputError):
    """A configuration has one or more problems; all of them are in the message."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{source}: " + "; ".join(self.problems))


class RunError(GroundlingError):
    """A run directory is missing, locked, incomplete or belongs to another configuration."""
