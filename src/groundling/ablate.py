"""Compares ways to train on the embedded world: the paper's Table 3 and Figures 3 and 4.

Learning rates are searched with the first seed and chosen on validation; every variant then runs
with every seed; the round that counts is chosen on validation too. Test figures only report.
Every variant is an ordinary run directory, so a stopped comparison goes on with the same command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundling.config import AblateConfig, IsrConfig, load_config
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_predictions
from groundling.isr import run_isr
from groundling.records import Post, PostPrediction
from groundling.scoring.compare import Comparison, compare_isr
from groundling.workbench import WORLD


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to train: its name in the tables, and what it changes in the recipe."""

    name: str
    overrides: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one variant came to with one seed."""

    seed: int
    folder: Path
    metrics: dict[str, Any]

    def stage(self, name: str) -> dict[str, Any]:
        """The metrics of one stage; `selected` for the one chosen on validation."""
        wanted = self.metrics["selected"] if name == "selected" else name
        return next(stage for stage in self.metrics["stages"] if stage["name"] == wanted)


@dataclass(frozen=True)
class Ablation:
    """All outcomes: `searches` by what was searched and rate, `variants` by name and seed."""

    config: AblateConfig
    searches: dict[str, dict[float, float]]
    rates: dict[str, float]
    variants: dict[str, list[Outcome]]


def run_ablation(
    config: AblateConfig, folder: Path, recipes: Path, *, quiet: bool = False
) -> Ablation:
    """Search the rates, run every variant with every seed below `folder`, and gather the metrics.

    `recipes` is the folder that `config.recipe` is relative to.
    """
    runner = _Runner(folder, recipes / config.recipe, quiet)
    first = config.seeds[0]
    runner.search("sft", "sft.lr", config.sft_lrs, {"rounds": 0}, first)
    full: dict[str, object] = {
        "rounds": 0,
        "sft.epochs": config.full_sft_epochs,
        "sft_queries": runner.train_queries,
    }
    runner.search("full sft", "sft.lr", config.full_sft_lrs, full, first)
    start = {"sft.lr": runner.rates["sft"]}
    runner.search("dpo", "dpo.lr", config.dpo_lrs, start, first)
    tuned = {**start, "dpo.lr": runner.rates["dpo"]}
    variants = [Variant("ISR", tuned)]
    variants += [Variant(f"K = {k}", {**tuned, "samples": k}) for k in config.samples if k != 4]
    variants += [
        Variant(name, {**tuned, "strategy": name}) for name in config.strategies if name != "full"
    ]
    variants.append(Variant("SFT (full)", {**full, "sft.lr": runner.rates["full sft"]}))
    outcomes = {v.name: [runner.run(v, seed) for seed in config.seeds] for v in variants}
    return Ablation(config, runner.searches, runner.rates, outcomes)


class _Runner:
    """Runs variants, each seed's first run lending its data, grounder and start to the others."""

    def __init__(self, folder: Path, recipe: Path, quiet: bool) -> None:
        self.searches: dict[str, dict[float, float]] = {}
        self.rates: dict[str, float] = {}
        self._folder = folder
        self._recipe = recipe
        self._quiet = quiet
        world = load_config(IsrConfig, recipe).data.toyworld
        self.train_queries = world.train_queries if world is not None else 0

    def search(
        self, what: str, key: str, rates: Sequence[float], fixed: Mapping[str, object], seed: int
    ) -> None:
        """Try each rate with one seed; keep the best on validation (the lower one of equals)."""
        found: dict[float, float] = {}
        for rate in sorted(rates):
            name = f"search {what} {rate:g}"
            outcome = self.run(Variant(name, {**fixed, key: rate}), seed)
            found[rate] = outcome.stage("selected")["validation"]["accuracy"]["all"]
        self.searches[what] = found
        self.rates[what] = max(found, key=lambda rate: (found[rate], -rate))

    def run(self, variant: Variant, seed: int) -> Outcome:
        """One run directory; its common stages come from the seed's first run."""
        config = load_config(IsrConfig, self._recipe, {**variant.overrides, "seed": seed})
        out = self._folder / f"seed-{seed}" / re.sub(r"[^a-z0-9.]+", "-", variant.name.lower())
        sft_lr = self.rates.get("sft", config.sft.lr)
        start = {"seed": seed, "rounds": 0, "sft.lr": sft_lr}
        base = self._folder / f"seed-{seed}" / f"base-{sft_lr:g}"
        run_isr(load_config(IsrConfig, self._recipe, start), base, quiet=self._quiet)
        return Outcome(seed, out, run_isr(config, out, quiet=self._quiet, base=base))


def compare_pooled(
    this: Sequence[Outcome], other: Sequence[Outcome], names: tuple[str, str]
) -> Comparison:
    """Compare the test answers of two variants' stages, the posts of all seeds together.

    Each seed has test posts of its own, so the posts are pooled, not the figures.
    """
    posts: list[Post] = []
    answers: tuple[list[PostPrediction], list[PostPrediction]] = ([], [])
    for pair in zip(this, other, strict=True):
        seed = pair[0].seed
        for post in read_gmner(pair[0].folder / WORLD, "test").posts:
            posts.append(Post(f"{seed}/{post.id}", post.tokens, post.entities))
        for outcome, name, kept in zip(pair, names, answers, strict=True):
            stage = outcome.stage(name)["name"]
            for said in read_predictions(outcome.folder / f"predictions/{stage}/test.jsonl"):
                kept.append(PostPrediction(f"{seed}/{said.id}", said.predictions, said.failure))
    return compare_isr(posts, answers[0], answers[1])
