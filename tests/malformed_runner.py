"""Runs command lines, each in a child of its own, and says how each ended; see test_malformed.

Standard input: a JSON list of argument lists. Standard output: a JSON list of
[exit code or null where it was killed, standard error, peak memory in MiB].
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile

# read once, before the forks
import groundling.cli.data
import groundling.cli.isr
import groundling.cli.score
import groundling.config
import groundling.data.check
import groundling.data.formats
import groundling.data.jsonl
import groundling.data.stats  # noqa: F401
from groundling.cli import main

LIMIT_S = 30


def run(words: list[str]) -> tuple[int | None, str, int]:
    """Run one command line in a child."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if not child:
            signal.alarm(LIMIT_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(told.fileno(), 2)
            code = 70  # a traceback's
            try:
                code = main(words)
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            sys.stderr.flush()
            os._exit(code)
        _, status, used = os.wait4(child, 0)
        told.seek(0)
        code = os.waitstatus_to_exitcode(status)
        text = told.read().decode("utf-8", "replace")
        return (None if code < 0 else code), text, used.ru_maxrss >> 10


if __name__ == "__main__":
    json.dump([run(words) for words in json.load(sys.stdin)], sys.stdout)
