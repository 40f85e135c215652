"""The whole of ISR by two processes, as `accelerate launch` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import small_release
import tiny_families
from test_resume import artefacts, started

from groundling.config import (
    DirectConfig,
    DpoOptimiser,
    GrounderConfig,
    GrounderOptimiser,
    IsrConfig,
    SftOptimiser,
    WriterConfig,
    dump_yaml,
)
from groundling.data.jsonl import read_predictions
from groundling.data.pairs_parquet import read_pairs
from groundling.rundir import read_events

WAYS = {"copied": ["--multi_gpu"], "shared": ["--use_fsdp", "--fsdp_version", "2"]}
"""`--multi_gpu` stands for "several processes": without GPUs they run on the CPU."""


def write_model(folder: Path, name: str) -> str:
    """A tiny random model of a family, as a checkpoint folder."""
    model, processor = tiny_families.build(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def recipe(folder: Path) -> IsrConfig:
    """Few steps, so that rounding has no time to grow."""
    data, experts = small_release.write_release(folder / "release")
    model = write_model(folder / "model", "qwen3_vl")
    return IsrConfig(
        data=data,
        experts=experts,
        writer=WriterConfig(backend="local", path=model),
        grounder=GrounderConfig(backend="vlm", path=model),
        sft_queries=10,
        grounder_tuning=GrounderOptimiser(lr=1e-3, batch_size=8, epochs=2),
        sft=SftOptimiser(lr=1e-3, batch_size=8, epochs=3, micro_batch=4),
        dpo=DpoOptimiser(lr=1e-4, batch_size=4),
        rounds=1,
        max_new_tokens=8,
    )


ENV = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def launcher(way: str) -> list[str]:
    """What stands between `python -m` and the command."""
    return [
        *("accelerate.commands.launch", *WAYS[way], "--num_processes", "2"),
        *("--main_process_port", "0", "-m"),
    ]


def run_both(words: list[str], way: str, folder: Path) -> tuple[Path, Path]:
    """A command by one process and by two; the run directories they left."""
    for name, prefix in (("one", []), ("two", launcher(way))):
        done = subprocess.run(
            [sys.executable, "-m", *prefix, "groundling", *words, "--out", str(folder / name)],
            capture_output=True,
            text=True,
            check=False,
            env=ENV,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("selected on validation") == 1, "one process reports"
    one, two = folder / "one", folder / "two"
    files = [{p.relative_to(run) for p in run.rglob("*") if p.is_file()} for run in (one, two)]
    kinds = [[(event["kind"], event["stage"]) for event in read_events(run)] for run in (one, two)]
    assert files[0] == files[1]
    assert kinds[0] == kinds[1]
    assert read_events(two)[0]["payload"] == {"processes": 2}
    return one, two


def same_predictions(one: Path, two: Path, stages: tuple[str, ...]) -> None:
    """Words and boxes; scores may round otherwise."""
    for stage in stages:
        for split in ("dev", "test"):
            found = [
                list(read_predictions(run / f"predictions/{stage}/{split}.jsonl"))
                for run in (one, two)
            ]
            assert len(found[0]) == len(found[1])
            for mine, theirs in zip(*found, strict=True):
                assert (mine.id, mine.failure) == (theirs.id, theirs.failure)
                said = [
                    [(e.expression, e.box) for e in post.predictions] for post in (mine, theirs)
                ]
                assert said[0] == said[1]


def kill_in(command: list[str], run: Path, stage: str, delay_s: float) -> None:
    """Start a launch; `delay_s` after a stage has begun, kill it and all that it started."""
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
    while not started(run, stage):
        assert process.poll() is None, f"it ended before {stage}"
        time.sleep(0.05)
    time.sleep(delay_s)
    family = [process, *process.children(recursive=True)]
    assert len(family) > 2
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family)


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS))
def test_a_launch_that_is_killed_goes_on_to_the_bit(
    way: str, small_config: IsrConfig, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(small_config.model_copy(update={"rounds": 1})))
    command = [sys.executable, "-m", *launcher(way), "groundling", "isr", "--quiet"]
    command += ["--config", str(path), "--out"]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for stage, delay_s in (("grounder", 1.0), ("sft", 1.0), ("round-1-update", 0.5)):
        kill_in([*command, str(killed)], killed, stage, delay_s)
    for run in (calm, killed):
        subprocess.run([*command, str(run)], env=ENV, check=True, timeout=500)
    expected, got = dict(artefacts(calm)), dict(artefacts(killed))
    assert got.keys() == expected.keys()
    assert [name for name in got if got[name] != expected[name]] == []
    kinds = [event["kind"] for event in read_events(killed)]
    assert kinds.count("continued") == 3


@pytest.mark.slow
def test_two_processes_answer_directly_as_one(tmp_path: Path) -> None:
    data, _ = small_release.write_release(tmp_path / "release", copies=1)
    model = WriterConfig(backend="local", path=write_model(tmp_path / "model", "qwen2_5_vl"))
    tuning = SftOptimiser(lr=1e-3, batch_size=6, epochs=2)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(DirectConfig(data=data, model=model, tuning=tuning)))
    words = ["baseline", "direct", "--config", str(path)]
    same_predictions(*run_both(words, "copied", tmp_path), ("untuned", "direct"))


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS))
def test_two_processes_run_the_flow_of_one(way: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(recipe(tmp_path)))
    one, two = run_both(["isr", "--config", str(path)], way, tmp_path)
    drawn = [pq.read_table(run / "rounds/1/expressions.parquet").to_pylist() for run in (one, two)]
    assert [row["text"] for row in drawn[0]] == [row["text"] for row in drawn[1]]
    pairs = [read_pairs(run / "rounds/1/pairs.parquet") for run in (one, two)]
    assert pairs[0]
    for mine, theirs in zip(*pairs, strict=True):
        assert (mine.query_id, mine.chosen, mine.rejected, mine.chosen_source) == (
            theirs.query_id,
            theirs.chosen,
            theirs.rejected,
            theirs.chosen_source,
        )
        assert theirs.ref_chosen_logp == pytest.approx(mine.ref_chosen_logp, rel=1e-4)
        assert theirs.ref_rejected_logp == pytest.approx(mine.ref_rejected_logp, rel=1e-4)
    same_predictions(one, two, ("untuned", "sft", "round-1"))
