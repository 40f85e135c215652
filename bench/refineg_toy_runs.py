"""The runs behind docs/results/refineg-toy.md, and the counts that are taken from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from groundling.assistants import Assistants
from groundling.config_gmner import RefinegConfig
from groundling.corpus import Corpus, draw_labelled, read_world
from groundling.data.jsonl import read_predictions
from groundling.groundings import Grounding, predictions_of
from groundling.in_context import InContextGrounding, make_pool
from groundling.metrics import Floats
from groundling.models.registry import compute_threads, open_embedders
from groundling.provenance import provenance
from groundling.records import SCHEMES, Mention, Post, PostPrediction
from groundling.refine import Refinery, apply
from groundling.refineg import run_refineg
from groundling.report.routing_chart import SHARES
from groundling.routing import Key, ask_order, span_counts
from groundling.rundir import RunDir
from groundling.scoring.align import align
from groundling.scoring.isr import isr_counts, judge_posts
from groundling.settings import load_config

RECIPE = Path(__file__).parents[1] / "recipes" / "refineg-toy.yaml"
DRAWS = 20
"""Random orders that stand for asking about any mention."""
EXAMPLES = (1, 3, 5)
"""K, beside 0."""
SEARCH = ((45, 0.0), (15, 1.0), (45, 1.0), (135, 1.0))
"""Labelled posts, and the share of names in words that fit any type, that validation tells of."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The recipe with a part taken away; `shared` stages are those of the whole method's run."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    shared: tuple[str, ...] = ()


_TAGGED = ("data", "synth", "fit", "tag")
FULL = Variant("all of ReFineG")
ALONE = Variant("without synthesis", {"synthesis": None, "tuning.epochs": 40}, ("data",))
"""More epochs, for fewer posts make fewer steps."""
VARIANTS = (
    FULL,
    ALONE,
    Variant("without refinement", {"refinement": None}, _TAGGED),
    Variant("without selection", {"in_context.choose": "random"}, (*_TAGGED, "refine")),
    Variant("zero-shot", {"in_context.examples": 0}, (*_TAGGED, "refine")),
    Variant("nothing grounded", {"grounding.way": "none"}, (*_TAGGED, "refine")),
)

Choose = Literal["similarity", "random"]
Split = Literal["dev", "test"]
SPLITS: tuple[Split, ...] = ("dev", "test")


@dataclass(frozen=True, slots=True)
class Shown:
    """Which examples are shown for gold mentions: K of a pool of labelled posts (None: all)."""

    labelled: int | None
    choose: Choose
    examples: int


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its metrics, its test posts, what it said of them, and its tagger alone."""

    seed: int
    folder: Path
    metrics: dict[str, Any]
    test: tuple[Post, ...]
    said: Sequence[PostPrediction]
    tagged: Sequence[PostPrediction]


@dataclass(frozen=True, slots=True)
class Routed:
    """Right, predicted and gold of each post of a split at each of SHARES, (P, S, 3)."""

    uncertain: Floats
    by_chance: Floats


class Runs:
    """Run directories below a folder."""

    def __init__(self, out: Path, recipe: Path = RECIPE, quiet: bool = False) -> None:
        self._out, self._recipe, self._quiet = out, recipe, quiet
        self.config = load_config(RefinegConfig, recipe)

    def of(self, variant: Variant, seed: int) -> Run:
        """Run a variant under a seed, or go on with it; what it shares must have run before."""
        folder, config = self._folder(variant, seed), self._config(variant.changes, seed)
        if variant.shared:
            with RunDir.open(folder, config, provenance(threads=compute_threads())) as run:
                run.adopt(self._folder(FULL, seed), variant.shared)
        metrics = run_refineg(config, folder, quiet=self._quiet)
        test = read_world(self._folder(FULL, seed) / "data", seed).splits["test"]
        said, tagged = (
            read_predictions(folder / f"{name}/test.jsonl") for name in ("predictions", "mentions")
        )
        return Run(seed, folder, metrics, test, said, tagged)

    def validation_f1(self, variant: Variant, labelled: int, vague: float, seed: int) -> float:
        """The tagger's MNER F1 in percent on validation, where posts are so many and so vague."""
        world = {"data.labelled": labelled, "data.toyworld.vague": vague}
        folder = self._out / "search" / f"{_slug(variant.name)}-{labelled}-{vague:g}"
        config = self._config({**variant.changes, **world}, seed)
        fit = run_refineg(config, folder, until="fit", quiet=self._quiet)
        return float(max(fit["dev_mner_f1"]))

    def routed(self, seed: int) -> dict[Split, Routed]:
        """Asks about every mention that the whole method's tagger found on validation and test."""
        config, corpus, work = self._world(seed, "curves")
        assert config.refinement is not None
        with Assistants(config.endpoint, config.simulator, work, seed) as assistants:
            assistant = assistants.open("refinement", config.refinement.endpoint)
            scheme, journal = SCHEMES[config.scheme], work / "asked.journal"
            refinery = Refinery(assistant, scheme, config.refinement, journal)
            found: dict[Split, Routed] = {}
            for split in SPLITS:
                stored = self._folder(FULL, seed) / f"mentions/{split}.jsonl"
                said = read_predictions(stored, scheme)
                found[split] = _routed(refinery, corpus.splits[split], said)
        return found

    def grounded(self, ways: Sequence[Shown], seed: int) -> list[Floats]:
        """Right and all gold mentions of test by post: in all, groundable, ungroundable (P, 3, 2).

        The mentions are the gold ones; nothing but the examples differs.
        """
        config, corpus, work = self._world(seed, "examples")
        settings, train = config.in_context, corpus.splits["train"]
        embedders = open_embedders(settings)
        found = []
        with Assistants(config.endpoint, config.simulator, work, seed) as assistants:
            endpoint = assistants.endpoint("grounding", settings.endpoint)
            for shown in ways:
                labelled = draw_labelled(train, shown.labelled, seed)
                name = f"{shown.choose}-{shown.examples}-of-{len(labelled)}"
                changes = {"choose": shown.choose, "examples": shown.examples}
                grounding = InContextGrounding(
                    endpoint.assistant(),
                    endpoint.client.config.convention,
                    make_pool(labelled),
                    embedders,
                    settings.model_copy(update=changes),
                )
                found.append(_grounded(grounding, corpus.splits["test"], work / name))
        return found

    def train_posts(self, seed: int) -> int:
        """Training posts of a seed's world, labelled or not."""
        return len(self._world(seed, "examples")[1].splits["train"])

    def _world(self, seed: int, name: str) -> tuple[RefinegConfig, Corpus, Path]:
        corpus = read_world(self._folder(FULL, seed) / "data", seed)
        work = self._out / name / f"seed-{seed}"
        work.mkdir(parents=True, exist_ok=True)
        return self._config({}, seed), corpus, work

    def _config(self, changes: Mapping[str, Any], seed: int) -> RefinegConfig:
        return load_config(RefinegConfig, self._recipe, {**changes, "seed": seed})

    def _folder(self, variant: Variant, seed: int) -> Path:
        return self._out / _slug(variant.name) / f"seed-{seed}"


@dataclass(frozen=True)
class Measured:
    """All that the page tells. Lists hold one entry a seed."""

    config: RefinegConfig
    seeds: Sequence[int]
    search_seed: int
    search: Mapping[tuple[int, float], tuple[float, float]]
    """The tagger's validation F1 with synthesis and without, by labelled posts and vagueness."""
    runs: Mapping[str, list[Run]]
    """By variant."""
    routed: Mapping[Split, list[Routed]]
    train_posts: list[int]
    shown: Mapping[Shown, list[Floats]]


def measure(
    runs: Runs,
    seeds: Sequence[int],
    search_seed: int,
    search: Sequence[tuple[int, float]] = SEARCH,
    variants: Sequence[Variant] = VARIANTS,
    examples: Sequence[int] = EXAMPLES,
) -> Measured:
    """Run what is missing. `variants` begin with FULL and hold ALONE."""
    found = {
        place: (
            runs.validation_f1(FULL, *place, search_seed),
            runs.validation_f1(ALONE, *place, search_seed),
        )
        for place in search
    }
    done = {variant.name: [runs.of(variant, seed) for seed in seeds] for variant in variants}
    routed = [runs.routed(seed) for seed in seeds]
    chosen: tuple[Choose, ...] = ("similarity", "random")
    ways = [
        Shown(pool, choose, k)
        for pool in (runs.config.data.labelled, None)
        for choose in chosen
        for k in (0, *examples)
        if k or choose == "similarity"
    ]
    shown = [runs.grounded(ways, seed) for seed in seeds]
    return Measured(
        runs.config,
        seeds,
        search_seed,
        found,
        done,
        {split: [one[split] for one in routed] for split in SPLITS},
        [runs.train_posts(seed) for seed in seeds],
        dict(zip(ways, map(list, zip(*shown, strict=True)), strict=True)),
    )


def _routed(refinery: Refinery, posts: Sequence[Post], said: Sequence[PostPrediction]) -> Routed:
    mentions = {
        one.id: [Mention(p.start or 0, p.end or 0, p.type, p.score) for p in one.predictions]
        for one in said
    }
    keys = ask_order(mentions)
    asked = refinery.ask(posts, mentions, keys)
    outcomes = dict(zip(keys, (one.outcome for one in asked), strict=True))

    def counts(order: Sequence[Key]) -> Floats:
        rows = []
        for share in SHARES:
            first = order[: math.floor(share * len(order) + 1e-9)]
            after = apply(mentions, {key: outcomes[key] for key in first})
            found = [span_counts(post.entities, after[post.id]) for post in posts]
            rows.append([(one.right, one.predicted, one.gold) for one in found])
        return np.array(rows, dtype=float).swapaxes(0, 1)

    drawn = [counts(ask_order(mentions, "random", draw)) for draw in range(DRAWS)]
    return Routed(counts(keys), np.mean(drawn, axis=0))


def _grounded(grounding: Grounding, posts: Sequence[Post], work: Path) -> Floats:
    gold = {post.id: [Mention(e.start, e.end, e.type) for e in post.entities] for post in posts}
    keys = [(post.id, place) for post in posts for place in range(len(gold[post.id]))]
    items = [(post, mention) for post in posts for mention in gold[post.id]]
    located = dict(zip(keys, grounding.locate(items, work).located, strict=True))
    said = [*predictions_of(posts, gold, located).values()]
    return isr_counts(judge_posts(align(posts, said)))[:, [0, 2, 3], -1]


def _slug(name: str) -> str:
    return name.replace(" ", "-").lower()
