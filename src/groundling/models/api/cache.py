"""Answers on disk, found by the digest of what was asked.

Only answers are stored, never failures. A file that is torn or altered counts as not there. Any
number of processes may share a folder: each file appears whole, and two that store the same answer
store it under the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from groundling.atomic import make_folder, write_bytes
from groundling.models.api.wire import Choice
from groundling.strict_json import parse_json

_STALE_S = 3600.0
"""Age in seconds from which an unfinished file belongs to a process that was killed."""


class AnswerCache:
    """A folder of answers, one file each: `ab/abcdef….json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._staging = folder / ".tmp"
        make_folder(self._staging)
        for left in self._staging.glob("*/.*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()
                    left.parent.rmdir()

    def find(self, key: str) -> Choice | None:
        """The answer stored under a digest; None where there is none, or none that is sound."""
        try:
            stored: Any = parse_json(self._path(key).read_bytes())
            answer = stored["answer"]
            if stored["key"] != key or stored["sha256"] != _digest(answer):
                return None
            text, logprob = answer["text"], answer["logprob"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if not isinstance(text, str) or not isinstance(logprob, float | int | None):
            return None
        return Choice(text, None if logprob is None else float(logprob))

    def store(self, key: str, choice: Choice) -> None:
        """Keep an answer; it is on the disk when this returns."""
        answer = {"text": choice.text, "logprob": choice.logprob}
        record = {"key": key, "sha256": _digest(answer), "answer": answer}
        # A staging folder for each thread of each process: nobody shares a temporary name.
        staging = self._staging / f"{os.getpid()}-{threading.get_ident()}"
        staging.mkdir(exist_ok=True)
        write_bytes(self._path(key), json.dumps(record).encode(), staging)
        with contextlib.suppress(OSError):
            staging.rmdir()

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
