"""Compares ways to train on the embedded world: the paper's Table 3 and Figures 3 and 4.

Learning rates are searched with the first seed and chosen on validation; every variant then runs
with every seed; the round that counts is chosen on validation too. Test figures only report.
Every variant is an ordinary run directory, so a stopped comparison goes on with the same command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any

from groundling.config import AblateConfig, IsrConfig, load_config
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_predictions
from groundling.errors import InputError
from groundling.inputs import check_inputs
from groundling.isr import run_isr
from groundling.models.registry import compute_threads, use_threads
from groundling.progress import Progress
from groundling.records import Post, PostPrediction
from groundling.scoring.compare import Comparison, compare_isr
from groundling.workbench import WORLD


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
    """All outcomes: `searches` by what was searched and rate, `variants` by name and seed.

    `k` is the recipe's own K, which the variant "ISR" draws.
    """

    config: AblateConfig
    searches: dict[str, dict[float, float]]
    rates: dict[str, float]
    variants: dict[str, list[Outcome]]
    k: int = 4


def run_ablation(
    config: AblateConfig, folder: Path, recipes: Path, *, quiet: bool = False, jobs: int = 1
) -> Ablation:
    """Search the rates, run every variant with every seed below `folder`, and gather the metrics.

    `recipes` is the folder that `config.recipe` is relative to. With several `jobs`, that many runs
    go on side by side, each in a process of its own with its share of the threads; the first one
    that fails ends the comparison, when those beside it are done.
    """
    runner = _Runner(config, folder, recipes / config.recipe, _Runs(jobs, quiet))
    runner.run({"base": {"rounds": 0}}, config.seeds, base=None)
    sft = runner.search("sft", "sft.lr", config.sft_lrs, {"rounds": 0})
    full: dict[str, object] = {
        "rounds": 0,
        "sft.epochs": config.full_sft_epochs,
        "sft_queries": runner.train_queries,
    }
    full_sft = runner.search("full sft", "sft.lr", config.full_sft_lrs, full)
    start: dict[str, object] = {"sft.lr": sft}
    runner.run({"start": {**start, "rounds": 0}}, config.seeds)
    dpo = runner.search("dpo", "dpo.lr", config.dpo_lrs, start, base="start")
    tuned = {**start, "dpo.lr": dpo}
    variants: dict[str, Mapping[str, object]] = {"ISR": tuned}
    variants |= {f"K = {k}": {**tuned, "samples": k} for k in config.samples if k != runner.k}
    variants |= {name: {**tuned, "strategy": name} for name in config.strategies if name != "full"}
    variants |= {"SFT (full)": {**full, "sft.lr": full_sft}}
    return Ablation(
        config,
        runner.searches,
        {"sft": sft, "full sft": full_sft, "dpo": dpo},
        runner.run(variants, config.seeds, base="start"),
        runner.k,
    )


class _Runner:
    """Runs variants; what those of one seed have in common is done once and lent."""

    def __init__(self, config: AblateConfig, folder: Path, recipe: Path, runs: _Runs) -> None:
        self.searches: dict[str, dict[float, float]] = {}
        self._ablation = config
        self._folder = folder
        self._recipe = recipe
        self._runs = runs
        recipe_of_all = self._config({}, config.seeds[0])
        self.k = recipe_of_all.samples
        world = recipe_of_all.data.toyworld
        if world is None:
            raise InputError(
                f"{recipe}: its data are not the embedded world, which is all that variants are "
                "compared on; name a recipe with data.toyworld"
            )
        check_inputs(recipe_of_all)
        self.train_queries = world.train_queries

    def search(
        self,
        what: str,
        key: str,
        rates: Sequence[float],
        fixed: Mapping[str, object],
        base: str = "base",
    ) -> float:
        """Try each rate with the first seed; the best on validation (the lower one of equals)."""
        tried = {f"search {what} {rate:g}": {**fixed, key: rate} for rate in sorted(rates)}
        outcomes = self.run(tried, self._ablation.seeds[:1], base)
        found = {
            rate: outcomes[name][0].stage("selected")["validation"]["accuracy"]["all"]
            for rate, name in zip(sorted(rates), tried, strict=True)
        }
        self.searches[what] = found
        return max(found, key=lambda rate: (found[rate], -rate))

    def run(
        self,
        variants: Mapping[str, Mapping[str, object]],
        seeds: Sequence[int],
        base: str | None = "base",
    ) -> dict[str, list[Outcome]]:
        """Every variant (what it changes in the recipe, by name) with every seed.

        `base` names the variant whose common stages are taken over.
        """
        tasks = {
            (name, seed): _Task(
                self._config(overrides, seed),
                self._place(name, seed),
                None if base is None else self._place(base, seed),
            )
            for name, overrides in variants.items()
            for seed in seeds
        }
        metrics = dict(zip(tasks, self._runs.all(list(tasks.values())), strict=True))
        return {
            name: [Outcome(seed, tasks[name, seed].out, metrics[name, seed]) for seed in seeds]
            for name in variants
        }

    def _config(self, overrides: Mapping[str, object], seed: int) -> IsrConfig:
        changes = {**self._ablation.overrides, **overrides, "seed": seed}
        return load_config(IsrConfig, self._recipe, changes)

    def _place(self, name: str, seed: int) -> Path:
        return self._folder / f"seed-{seed}" / re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class _Task:
    """One run: its configuration, its directory, and the run it takes common stages from."""

    config: IsrConfig
    out: Path
    base: Path | None


class _Runs:
    """Does runs, `jobs` at a time."""

    def __init__(self, jobs: int, quiet: bool) -> None:
        self._jobs = jobs
        self._quiet = quiet

    def all(self, tasks: Sequence[_Task]) -> list[dict[str, Any]]:
        """The metrics of each task, in order."""
        if self._jobs == 1:
            return [run_isr(t.config, t.out, quiet=self._quiet, base=t.base) for t in tasks]
        threads = max(1, compute_threads() // self._jobs)
        pool = ProcessPoolExecutor(self._jobs, get_context("spawn"), begin_worker, (threads,))
        label = " ".join(dict.fromkeys(task.out.name for task in tasks))
        with pool, Progress(label, len(tasks), "runs", quiet=self._quiet) as progress:
            waiting = [pool.submit(_run_quietly, task) for task in tasks]
            try:
                for done in as_completed(waiting):
                    done.result()
                    progress.advance()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            return [done.result() for done in waiting]


def begin_worker(threads: int) -> None:
    """Set up a worker: its share of the threads, and an end together with its parent's.

    A worker whose parent was killed would else go on with a run that the next command wants.
    """
    use_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_quietly(task: _Task) -> dict[str, Any]:
    return run_isr(task.config, task.out, quiet=True, base=task.base)


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
                kept.append(replace(said, id=f"{seed}/{said.id}"))
    return compare_isr(posts, answers[0], answers[1])
