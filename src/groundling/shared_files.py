"""What all processes of a team would write alike, the leader alone writes.

Nobody goes on before it is there, so that each may read it back.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from groundling.atomic import Artefacts
from groundling.team import leads, team


class SharedArtefacts(Artefacts):
    """`Artefacts` for a team; with one process, no more than that."""

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write the file `name` (relative to the run directory) and return its path."""
        path = super().write_bytes(name, data) if leads() else self._root / name
        team().barrier()
        return path

    @contextlib.contextmanager
    def write_folder(self, name: str) -> Iterator[Path]:
        """Give an empty folder to fill; the leader's becomes `name` when the block ends well."""
        if leads():
            with super().write_folder(name) as folder:
                yield folder
        else:
            with tempfile.TemporaryDirectory(prefix="groundling-") as thrown_away:
                yield Path(thrown_away)
        team().barrier()
