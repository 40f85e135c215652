"""kill -9 at any moment, the same command again: the same bytes as an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from groundling.config import IsrConfig, dump_yaml

STAGES = (
    "data",
    "grounder",
    "evaluate-untuned",
    "sft",
    "evaluate-sft",
    "round-1-draw",
    "round-1-judge",
    "round-1-prefer",
    "round-1-update",
    "evaluate-round-1",
    "round-2-draw",
    "round-2-update",
    "round-3-prefer",
    "round-3-update",
    "evaluate-round-3",
)


UNLIKE = ("events.jsonl", "config.yaml", "report", "figures/", "scratch/", ".")
"""What may differ: times, provenance, and what is drawn from them."""


def artefacts(run: Path) -> Iterator[tuple[str, bytes]]:
    """Everything a run leaves except times, locks and provenance."""
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and not name.startswith(UNLIKE):
            yield name, path.read_bytes()


def started(run: Path, stage: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        for line in (run / "events.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if event["kind"] == "started" and event["stage"] == stage:
                    return True
    return False


def run_until_killed(command: Sequence[str], run: Path, stage: str, delay_s: float) -> bool:
    """Start the command; kill it `delay_s` after `stage` has begun. False if it ended before."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    begun = started(run, stage)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay_s if begun else 0.02)
            process.stderr.close()
            return False
        if begun:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            return True
        begun = started(run, stage)


def check_resume(
    config: IsrConfig, undisturbed: Path, out: Path, kills: Sequence[tuple[str, float]]
) -> int:
    """Run `config` into `out` under the given kills, finish it, compare; how many kills struck."""
    recipe = out.with_suffix(".yaml")
    recipe.write_text(dump_yaml(config))
    command = [sys.executable, "-m", "groundling", "isr", "--quiet"]
    command += ["--config", str(recipe), "--out", str(out)]
    struck = sum(run_until_killed(command, out, stage, delay) for stage, delay in kills)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, got = dict(artefacts(undisturbed)), dict(artefacts(out))
    assert got.keys() == expected.keys()
    assert [name for name in got if got[name] != expected[name]] == []
    return struck


def test_three_kills(finished_run: Path, small_config: IsrConfig, tmp_path: Path) -> None:
    kills = [("sft", 0.6), ("round-1-draw", 0.1), ("round-2-update", 0.5)]
    assert check_resume(small_config, finished_run, tmp_path / "killed", kills) == 3


@pytest.mark.slow
def test_kills_in_every_stage(finished_run: Path, small_config: IsrConfig, tmp_path: Path) -> None:
    rng = random.Random(7)
    kills = [(stage, rng.uniform(0.0, 1.2)) for stage in STAGES for _ in range(2)]
    struck = check_resume(small_config, finished_run, tmp_path / "killed", kills)
    assert struck >= 20
