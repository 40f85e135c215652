"""The whole of ISR for every family of writers and every trainable grounder, on real picture files.

Tiny random models of the real classes. A few combinations run with the fast tests, all of them
with the slow ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import saved
import small_release
import tiny_families
from test_resume import run_until_killed
from tiny_detectors import tiny_dino
from tiny_ofa import tiny_ofa

from groundling.config import (
    DirectConfig,
    DpoOptimiser,
    GrounderConfig,
    GrounderOptimiser,
    IsrConfig,
    LoraConfig,
    SftOptimiser,
    WriterConfig,
    dump_yaml,
)
from groundling.models.base import GREEDY, Demonstration, GroundingExample
from groundling.models.local import Adapter, LocalWriter
from groundling.models.registry import open_grounder
from groundling.records import Box, Entity, Failure, Grounded, Query
from groundling.rewards import reward
from groundling.train import fit

WRITERS = sorted(tiny_families.FAMILIES)
GROUNDERS = ("ofa", "vlm", "dino")
FAST = {("qwen3_vl", "ofa"), ("llava_next", "vlm")}


def write_writer(folder: Path, name: str) -> Path:
    model, processor = tiny_families.build(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_grounder(folder: Path, name: str) -> Path:
    made = {"ofa": tiny_ofa, "dino": tiny_dino}.get(name)
    return write_writer(folder, "qwen3_vl") if made is None else made(folder)


TUNING = {
    "ofa": GrounderOptimiser(lr=2e-3, batch_size=8, epochs=100),
    "dino": GrounderOptimiser(lr=2e-3, batch_size=8, epochs=60),
    "vlm": GrounderOptimiser(lr=1e-2, batch_size=8, epochs=100),
}


def grounder_config(folder: Path, name: str) -> GrounderConfig:
    """A grounder of random weights, without what would keep it from overfitting."""
    still = {"drop_path": 0.0, "label_smoothing": 0.0} if name == "ofa" else {}
    return GrounderConfig.model_validate(
        {"backend": name, "path": str(write_grounder(folder / "grounder", name)), **still}
    )


def recipe(folder: Path, writer: str, grounder: str) -> IsrConfig:
    data, experts = small_release.write_release(folder / "release")
    return IsrConfig(
        data=data,
        experts=experts,
        writer=WriterConfig(backend="local", path=str(write_writer(folder / "writer", writer))),
        grounder=grounder_config(folder, grounder),
        lora=LoraConfig(rank=32, alpha=64),
        sft_queries=10,
        grounder_tuning=TUNING[grounder],
        sft=SftOptimiser(lr=1e-2, batch_size=10, epochs=40),
        dpo=DpoOptimiser(lr=1e-3, batch_size=4),
        rounds=2,
        samples=2,
        temperature=0.5,
        max_new_tokens=24,
    )


def command(config: IsrConfig, folder: Path) -> list[str]:
    """The command that runs a recipe, in a process of its own."""
    path = folder / "recipe.yaml"
    path.write_text(dump_yaml(config))
    return [
        *(sys.executable, "-m", "groundling", "isr", "--quiet"),
        *("--config", str(path), "--out", str(folder / "run")),
    ]


@pytest.mark.parametrize(
    ("writer", "grounder"),
    [
        pytest.param(one, two, marks=[] if (one, two) in FAST else pytest.mark.slow)
        for one in WRITERS
        for two in GROUNDERS
    ],
)
def test_the_whole_flow(writer: str, grounder: str, tmp_path: Path) -> None:
    """Killed once in the middle of fine-tuning and once in the middle of round 1, then finished."""
    run_through(recipe(tmp_path, writer, grounder), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["qwen2_vl", "mllama"])
def test_the_whole_flow_in_4_bits(writer: str, tmp_path: Path) -> None:
    """Base weights of both models packed, and adapters on attention alone."""
    pytest.importorskip("bitsandbytes")
    paths = {}
    for kind, name in (("writer", writer), ("grounder", "qwen3_vl")):
        with pytest.MonkeyPatch.context() as patch:
            model, processor = saved.build(name, patch)
        paths[kind] = str(tmp_path / f"{kind}-64")
        model.save_pretrained(paths[kind])
        processor.save_pretrained(paths[kind])
    whole = recipe(tmp_path, writer, "vlm")
    config = whole.model_copy(
        update={
            "writer": WriterConfig(backend="local", path=paths["writer"], load_in_4bit=True),
            "grounder": GrounderConfig(backend="vlm", path=paths["grounder"], load_in_4bit=True),
            "lora": LoraConfig(targets=["q_proj", "k_proj", "v_proj", "o_proj"]),
        }
    )
    assert run_through(config, tmp_path) == ""
    stored = json.loads((tmp_path / "run/writer/round-2/adapter_config.json").read_text())
    assert stored["target_modules"].endswith("(q_proj|k_proj|v_proj|o_proj)")


def run_through(config: IsrConfig, folder: Path) -> str:
    """Kill a run twice, finish it and check what it leaves; what the last call told on stderr."""
    call, run = command(config, folder), folder / "run"
    for stage in ("sft", "round-1-prefer"):
        assert run_until_killed(call, run, stage, 0.2), f"{stage} ended before it was killed"
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    metrics = json.loads((run / "metrics.json").read_text())
    untuned, sft = (stage["test"]["accuracy"]["all"] for stage in metrics["stages"][:2])
    assert [stage["name"] for stage in metrics["stages"]][2:] == ["round-1", "round-2"]
    assert sft > max(untuned, metrics["floors"]["test"]["none"]["all"]), "it learned both kinds"
    rounds = [json.loads((run / f"rounds/{t}/metrics.json").read_text()) for t in (1, 2)]
    for told in rounds:
        assert told["prompts_unwritten"] == 0
    assert sum(told["pairs"]["from_sample"] for told in rounds) > 0, "no success pair"
    assert sum(told["pairs"]["from_expert"] for told in rounds) > 0, "no fallback pair"
    assert sum(told["dropped"].get("no failure", 0) for told in rounds) > 0, "no dropped prompt"
    moved = [(run / f"writer/round-{t}/adapter_model.safetensors").read_bytes() for t in (0, 1, 2)]
    assert len(set(moved)) == 3
    return done.stderr


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Query, Entity, str]]:
    """Eight queries on four pictures, six of them groundable, with the expert's words."""
    folder = tmp_path_factory.mktemp("eight")
    small_release.write_release(folder, copies=1)
    chosen = []
    for post, picture, which in small_release.posts("train", 1):
        if which < 2 or picture < 2:
            image = str(folder / "images" / f"{post.id}.jpg")
            (query,) = replace(post, image=image).queries()
            words = small_release.expression(picture, which)
            chosen.append((query, post.entities[0], words))
    return chosen[:4] + chosen[6:]


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_overfits_eight_queries(name: str, eight: list[tuple[Query, Entity, str]]) -> None:
    """Reward by a grounder that understands the expert's words and no others."""
    model, processor = tiny_families.build(name)
    writer = LocalWriter.from_parts(model, processor, adapter=Adapter(32, 64.0, 0))
    examples = [Demonstration(query, words) for query, _, words in eight]
    settings = SftOptimiser(lr=1e-2, batch_size=8, epochs=100)
    fit(writer, writer.sft_loss, examples, settings, seed=0)
    drawn = writer.sample([query for query, _, _ in eight], 1, GREEDY, 0, "writer:t/0")
    rewards = []
    for row, (_, entity, words) in zip(drawn, eight, strict=True):
        assert not isinstance(row, Failure)
        box = entity.largest_box if row[0].text == words else Box(0, 0, 1, 1)
        found = None if box is None or row[0].absent else Grounded(box)
        rewards.append(reward(entity, row[0], found))
    assert len(rewards) == 8
    assert sum(rewards) / 8 >= 0.9


@pytest.mark.parametrize("name", ["ofa", "vlm"])
def test_a_grounder_overfits_eight_queries(name: str, tmp_path: Path) -> None:
    """Grounding DINO does in `tests/models/test_detectors_loss.py`."""
    small_release.write_release(tmp_path / "release", copies=1)
    examples = []
    for post, picture, which in small_release.posts("train", 1):
        if which < 2:
            image = str(tmp_path / "release" / "images" / f"{post.id}.jpg")
            words = small_release.expression(picture, which)
            box = small_release.squares(picture)[which]
            examples.append(GroundingExample(image, words, box))
    assert len(examples) == 8
    config = grounder_config(tmp_path, name)
    grounder = open_grounder(config)
    fit(grounder, grounder.loss, examples, TUNING[name], seed=0)
    grounder.save(tmp_path / "tuned")
    requests = [(one.image, one.expression) for one in examples]
    for made in (grounder, open_grounder(config, tmp_path / "tuned")):
        found = made.ground(requests)
        right = [
            isinstance(answer, Grounded) and answer.box.iou(one.box) > 0.5
            for answer, one in zip(found, examples, strict=True)
        ]
        assert sum(right) / 8 >= 0.9


def test_direct_grounding_learns_by_the_command(tmp_path: Path) -> None:
    """Entity in, box out (prompt A.3): fine-tuned, stopped by a kill, and graded."""
    data, _ = small_release.write_release(tmp_path / "release", copies=1)
    config = DirectConfig(
        data=data,
        model=WriterConfig(
            backend="local", path=str(write_writer(tmp_path / "model", "qwen2_5_vl"))
        ),
        tuning=SftOptimiser(lr=1e-2, batch_size=12, epochs=80),
        checkpoint_every_s=0.2,
    )
    (tmp_path / "recipe.yaml").write_text(dump_yaml(config))
    run = tmp_path / "run"
    call = [*(sys.executable, "-m", "groundling", "baseline", "direct", "--quiet")]
    call += ["--config", str(tmp_path / "recipe.yaml"), "--out", str(run)]
    assert run_until_killed(call, run, "tune", 0.5)
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "always absent" in done.stdout
    metrics = json.loads((run / "metrics.json").read_text())
    untuned, direct = (stage["test"] for stage in metrics["stages"])
    assert untuned["accuracy"]["all"] == 0.0, "a random model writes no boxes"
    assert direct["groundable"]["all"] >= 75
    assert direct["ungroundable"]["all"] >= 75
