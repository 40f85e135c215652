"""Kills at seeded file-system calls, the same command again: the bytes of an undisturbed run.

Where a kill strikes is counted in calls that change the disk, not in time.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import artefacts
from test_tagging_resume import write_recipe as write_tagging

from groundling.config_gmner import TaggerConfig

HOOK = """
import os, signal, sys

left = int(sys.argv[1])

def fatal(name):
    real = getattr(os, name)
    def call(*args, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(os, name, call)

for name in ("fsync", "replace", "rename", "unlink", "mkdir"):
    fatal(name)
from groundling.cli import main
code = main(sys.argv[2:])
print(-left)
sys.exit(code)
"""


def run(words: list[str], strike: int) -> subprocess.CompletedProcess[str]:
    """The command, killed at its `strike`-th call; 0 is never."""
    command = [sys.executable, "-c", HOOK, str(strike), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def campaign(words: list[str], folder: Path, kills: int, seed: int) -> int:
    """Kill the command so many times, finish it, compare; how many kills struck.

    Three of the kills are at the same call, counted from each start.
    """
    calm, out = folder / "calm", folder / "killed"
    done = run([*words, "--out", str(calm)], 0)
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout.splitlines()[-1])
    draws = random.Random(seed)
    strikes = [draws.randint(1, max(2, calls // 2)) for _ in range(kills - 3)]
    strikes[1:1] = [calls // 3] * 3
    struck = 0
    for strike in strikes:
        code = run([*words, "--out", str(out)], strike).returncode
        assert code in (0, -signal.SIGKILL)
        struck += code == -signal.SIGKILL
    done = run([*words, "--out", str(out)], 0)
    assert done.returncode == 0, done.stderr
    expected, got = dict(artefacts(calm)), dict(artefacts(out))
    assert got.keys() == expected.keys()
    assert [name for name in got if got[name] != expected[name]] == []
    return struck


@pytest.mark.slow
def test_kills_of_a_tagger(tmp_path: Path) -> None:
    tagger = TaggerConfig(backend="bilstm", word_size=12, hidden_size=16)
    recipe = write_tagging(tmp_path, tagger, 2)
    words = ["tagger", "fit", "--quiet", "--config", str(recipe)]
    assert campaign(words, tmp_path, 5, seed=1) >= 4
