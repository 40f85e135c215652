"""The whole of ISR by two processes, as `accelerate launch` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small_release
import tiny_families

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


def run_both(words: list[str], way: str, folder: Path) -> tuple[Path, Path]:
    """A command by one process and by two; the run directories they left."""
    launch = ["accelerate.commands.launch", *WAYS[way], "--num_processes", "2"]
    launch += ["--main_process_port", "0", "-m"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name, prefix in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, "-m", *prefix, "groundling", *words, "--out", str(folder / name)],
            capture_output=True,
            text=True,
            check=False,
            env=env,
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
