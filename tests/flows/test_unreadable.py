"""Damaged pictures of a release: they cost their own queries, on record, and not the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_release
import small_run
import tiny_families

from groundling.baselines import run_direct
from groundling.config import (
    DataConfig,
    DirectConfig,
    ExpertsConfig,
    GrounderConfig,
    IsrConfig,
    LoraConfig,
    SftOptimiser,
    WriterConfig,
)
from groundling.data.jsonl import read_predictions
from groundling.errors import DataError, InputError, RunError
from groundling.isr import run_isr
from groundling.rundir import read_events
from groundling.stage import failures_by_stage

Start = Callable[..., dict[str, Any]]
ONE_OF_TRAIN, ONE_OF_TEST = "train_0_0_0", "test_0_1_0"


def isr(folder: Path, data: DataConfig, experts: ExpertsConfig) -> Start:
    """ISR up to π_0, with a random writer and a random grounder that is fine-tuned."""
    small_run.write_checkpoint(folder / "writer")
    small_run.grounder().save(folder / "grounder")
    config = IsrConfig(
        data=data,
        experts=experts,
        writer=WriterConfig(backend="local", path=str(folder / "writer")),
        grounder=GrounderConfig(path=str(folder / "grounder")),
        lora=LoraConfig(rank=4, alpha=8),
        sft_queries=12,
        sft=SftOptimiser(epochs=1),
        rounds=0,
        max_new_tokens=6,
    )
    return lambda **manner: run_isr(config, folder / "run", quiet=True, **manner)


def direct(folder: Path, data: DataConfig, experts: ExpertsConfig) -> Start:
    """Direct grounding by a random model."""
    del experts
    for part in tiny_families.build("qwen2_vl"):
        part.save_pretrained(folder / "model")
    config = DirectConfig(
        data=data,
        model=WriterConfig(backend="local", path=str(folder / "model")),
        lora=LoraConfig(rank=4, alpha=8),
        tuning=SftOptimiser(epochs=1),
    )
    return lambda **manner: run_direct(config, folder / "run", quiet=True, **manner)


@pytest.mark.parametrize(
    ("flow", "counts"), [(isr, {"grounder": 8, "sft": 12}), (direct, {"tune": 12})]
)
def test_a_damaged_picture_costs_its_own_query_until_it_is_whole(
    flow: Callable[..., Start], counts: dict[str, int], tmp_path: Path
) -> None:
    start = flow(tmp_path, *small_release.write_release(tmp_path / "release", copies=1))
    images, run = tmp_path / "release/images", tmp_path / "run"
    whole = {name: (images / f"{name}.jpg").read_bytes() for name in (ONE_OF_TRAIN, ONE_OF_TEST)}
    for name, data in whole.items():
        (images / f"{name}.jpg").write_bytes(data[:200])
    last = start()["stages"][-1]["name"]

    (path,) = json.loads((run / "unreadable.json").read_text())["unreadable"]
    assert path == str(images / f"{ONE_OF_TRAIN}.jpg")
    said = read_predictions(run / f"predictions/{last}/test.jsonl")
    assert [one.id for one in said if one.failure and one.failure.stage == "image"] == [ONE_OF_TEST]
    assert failures_by_stage(run) == {
        "pictures": 1,
        "evaluate-untuned": 1,
        f"evaluate-{last}": 1,
    }
    assert examples(run) == {fit: count - 1 for fit, count in counts.items()}

    for name, data in whole.items():
        (images / f"{name}.jpg").write_bytes(data)
    start()
    assert failures_by_stage(run), "a finished run stays as it is"
    start(retry=True)
    assert failures_by_stage(run) == {}
    assert examples(run) == counts


@pytest.mark.parametrize("flow", [isr, direct])
def test_a_release_of_damaged_pictures_is_refused_until_they_are_whole(
    flow: Callable[..., Start], tmp_path: Path
) -> None:
    start = flow(tmp_path, *small_release.write_release(tmp_path / "release", copies=1))
    pictures = {path: path.read_bytes() for path in (tmp_path / "release/images").iterdir()}
    for path in pictures:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no picture to learn from can be read, first .*\.jpg"):
        start()
    assert len(json.loads((tmp_path / "run/unreadable.json").read_text())["unreadable"]) == 12
    for path, data in pictures.items():
        path.write_bytes(data)
    start()
    assert failures_by_stage(tmp_path / "run").keys() <= {"evaluate-untuned", "evaluate-direct"}


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_without_a_query_is_refused_before_anything_is_trained(
    split: str, tmp_path: Path
) -> None:
    start = isr(tmp_path, *small_release.write_release(tmp_path / "release", copies=1))
    (tmp_path / f"release/txt/{split}.txt").write_text("IMGID:1\nsee\tO\n\n")
    with pytest.raises(DataError, match=f"split {split} has no entity in a post"):
        start()
    assert not (tmp_path / "run").exists()


def test_a_retry_looks_again_though_nothing_failed_before(tmp_path: Path) -> None:
    start = direct(tmp_path, *small_release.write_release(tmp_path / "release", copies=1))
    start()
    picture = tmp_path / f"release/images/{ONE_OF_TRAIN}.jpg"
    picture.write_bytes(b"")
    assert examples(tmp_path / "run") == {"tune": 12}
    start(retry=True)
    assert examples(tmp_path / "run") == {"tune": 11}


def test_what_a_run_learns_from_does_not_change_under_it(tmp_path: Path) -> None:
    data, experts = small_release.write_release(tmp_path / "release", copies=1)
    start = isr(tmp_path, data, experts)
    picture = tmp_path / f"release/images/{ONE_OF_TRAIN}.jpg"
    whole = picture.read_bytes()
    picture.unlink()
    start()
    assert examples(tmp_path / "run")["sft"] == 11
    (tmp_path / "run/stages/sft.json").unlink()
    picture.write_bytes(whole)
    start()
    assert examples(tmp_path / "run")["sft"] == 11, "a picture that comes later is left out"
    start(retry=True)
    assert examples(tmp_path / "run")["sft"] == 12
    picture.unlink()
    with pytest.raises(DataError, match="1 pictures are gone since the run began, first that of"):
        start()
    start(retry=True)
    assert examples(tmp_path / "run")["sft"] == 11
    texts = tmp_path / "release/txt/test.txt"
    texts.write_text(texts.read_text().replace("see", "saw"))
    with pytest.raises(RunError, match=r"data\.test: was another"):
        start()


def examples(run: Path) -> dict[str, int]:
    """How many examples each fit had, the last time."""
    told = [one for one in read_events(run) if one["kind"] == "fitted"]
    return {one["stage"]: one["payload"]["examples"] for one in told}


def test_field_r1_a_start_without_experts_leaves_the_directory_to_the_right_one(
    tmp_path: Path,
) -> None:
    data, experts = small_release.write_release(tmp_path / "release", copies=1)
    whole = Path(str(experts.path)).read_bytes()
    with pytest.raises(InputError, match=r"experts\.path: missing"):
        isr(tmp_path, data, ExpertsConfig())()
    Path(str(experts.path)).write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="1 groundable entities have no expression"):
        isr(tmp_path, data, experts)()
    assert not (tmp_path / "run").exists()
    Path(str(experts.path)).write_bytes(whole)
    assert isr(tmp_path, data, experts)()["stages"]


def test_experts_of_unreadable_images_are_not_asked_for(tmp_path: Path) -> None:
    data, experts = small_release.write_release(tmp_path / "release", copies=1)
    path = Path(str(experts.path))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    (tmp_path / f"release/images/{ONE_OF_TRAIN}.jpg").write_bytes(b"\xff\xd8")
    assert isr(tmp_path, data, experts)()["stages"]
