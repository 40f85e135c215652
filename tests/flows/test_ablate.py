"""The ablation: its page says what the run directories hold, and its command compares for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groundling.ablate import Ablation, Outcome, compare_pooled, run_ablation
from groundling.ablation_report import ablation_page
from groundling.config import AblateConfig, IsrConfig, dump_yaml


@pytest.fixture(scope="module")
def outcome(finished_run: Path) -> Outcome:
    return Outcome(0, finished_run, json.loads((finished_run / "metrics.json").read_text()))


def config(**more: object) -> AblateConfig:
    given: dict[str, object] = {
        "recipe": "small.yaml",
        "seeds": [0],
        "sft_lrs": [1e-3],
        "full_sft_lrs": [1e-3],
        "dpo_lrs": [5e-4],
        "samples": [4],
        "strategies": ["full"],
    }
    return AblateConfig.model_validate({**given, **more})


def test_page_tells_what_the_runs_hold(outcome: Outcome) -> None:
    variants = {"ISR": [outcome], "K = 1": [outcome], "SFT (full)": [outcome]}
    page = ablation_page(Ablation(config(), {"dpo": {5e-4: 80.0}}, {"dpo": 5e-4}, variants), "cmd")
    accuracy = outcome.stage("round-2")["test"]["accuracy"]
    row = next(line for line in page.splitlines() if line.startswith("| ISR, round 2 |"))
    cells = [cell.strip() for cell in row.split("|")[2:7]]
    assert cells == [f"{accuracy[name]:.2f}" for name in ("PER", "LOC", "ORG", "MISC", "all")]
    assert "`cmd`" in page
    assert "- dpo: 0.0005: 80.00; chosen 0.0005" in page


def test_equal_systems_are_a_tie(outcome: Outcome) -> None:
    found = compare_pooled([outcome], [outcome], ("selected", "selected"))
    assert found.differences["accuracy"].value == 0
    page = ablation_page(
        Ablation(config(), {}, {}, {"ISR": [outcome], "no-expert": [outcome]}), "cmd"
    )
    line = next(line for line in page.splitlines() if "ISR against no-expert" in line)
    assert "overall a tie, +0.00 [+0.00, +0.00], p = 1" in line


POOL = """
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from groundling.ablate import begin_worker

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), begin_worker, (1,))
    pool.submit(print, "ready", flush=True).result()
    pool.submit(signal.pause).result()
"""


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline() == b"ready\n"
            parent.kill()
            rest, _ = parent.communicate(timeout=60)  # ends when nobody holds the pipe any more
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
    assert rest == b""


@pytest.mark.slow
def test_a_small_ablation_runs_and_goes_on(small_config: IsrConfig, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(dump_yaml(small_config))
    asked = config(samples=[1, 4], strategies=["full", "no-success"])
    found = run_ablation(asked, tmp_path / "runs", tmp_path, quiet=True, jobs=2)
    assert set(found.variants) == {"ISR", "K = 1", "no-success", "SFT (full)"}
    starts = {len(o.metrics["stages"]) for o in found.variants["ISR"]}
    assert starts == {2 + small_config.rounds}
    again = run_ablation(asked, tmp_path / "runs", tmp_path, quiet=True)
    assert ablation_page(again, "c") == ablation_page(found, "c")
