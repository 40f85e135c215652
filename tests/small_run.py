"""A finished run directory, with random models of a few thousand weights, for tests to open."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch

from groundling.config import DataConfig, GrounderConfig, IsrConfig, LoraConfig, ToyworldData
from groundling.config import WriterConfig as WriterSettings
from groundling.data.expressions_jsonl import EntityExpression, write_expressions
from groundling.models.local import Adapter, LocalWriter
from groundling.models.tiny import TinyGrounder
from groundling.models.tiny_net import TinyGrounderConfig, TinyGrounderNet
from groundling.records import Expression
from groundling.rundir import RunDir

WORDS = ("the", "man", "woman", "with", "red", "black", "hair", "on", "left", "right", "of")


def grounder(seed: int = 0) -> TinyGrounder:
    """A random grounder with a vocabulary of its own."""
    settings = TinyGrounderConfig(
        WORDS, size_px=32, width=32, heads=2, picture_layers=1, text_layers=1, reading_layers=1
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyGrounder(TinyGrounderNet(settings).eval())


def write_checkpoint(folder: Path, known: list[tuple[str, str]] | None = None) -> Path:
    """A writer's base model as a folder, with the names it has learned, if they are recorded."""
    tiny.model().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    if known is not None:
        (folder / "known_names.json").write_text(json.dumps(known), encoding="utf-8")
    return folder


def write_run(
    folder: Path, checkpoint: Path, rounds: int = 2, selected: str | None = None, tune: bool = True
) -> Path:
    """A run of `rounds` rounds, each with an adapter that moved a little further."""
    config = IsrConfig(
        data=DataConfig(toyworld=ToyworldData(train_queries=20)),
        sft_queries=5,
        writer=WriterSettings(backend="local", path=str(checkpoint)),
        grounder=GrounderConfig(tune=tune),
        lora=LoraConfig(rank=4, alpha=8.0),
        max_new_tokens=6,
    )
    writer = LocalWriter.load(checkpoint, adapter=Adapter(4, 8.0, 0))
    expert = EntityExpression("p1", "Trained Only", "PER", Expression("the man", "human"))
    with RunDir.open(folder, config) as run, run.stage("all") as stage:
        if tune:
            with stage.write_folder("grounder") as place:
                grounder().save(place)
        with stage.write_folder("experts") as place:
            write_expressions(place / "train.jsonl", [expert])
        for number in range(rounds + 1):
            with stage.write_folder(f"writer/round-{number}") as place:
                writer.save_adapter(place)
            tiny.move(writer, seed=number)
        if selected is not None:
            stage.write_json("metrics.json", {"stages": [], "selected": selected})
    return folder
