"""The runs behind docs/results/refineg-toy.md, and the counts that are taken from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from groundling.assistants import Assistants
from groundling.config_gmner import GroundingConfig, InContextConfig, RefinegConfig
from groundling.corpus import Corpus, draw_labelled, read_world
from groundling.data.jsonl import read_predictions
from groundling.grounding_ways import Ways
from groundling.groundings import predictions_of
from groundling.metrics import Floats
from groundling.models.registry import compute_threads
from groundling.provenance import provenance
from groundling.records import SCHEMES, Failure, Mention, Post, PostPrediction
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
    said: list[PostPrediction]
    tagged: list[PostPrediction]


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

    def routed(self, split: Literal["dev", "test"], seed: int) -> Routed:
        """Asks about every mention that the whole method's tagger found in a split."""
        config, corpus, work = self._world(seed, "curves")
        assert config.refinement is not None
        posts, scheme = corpus.splits[split], SCHEMES[config.scheme]
        stored = self._folder(FULL, seed) / f"mentions/{split}.jsonl"
        mentions = {
            one.id: [Mention(p.start or 0, p.end or 0, p.type, p.score) for p in one.predictions]
            for one in read_predictions(stored, scheme)
        }
        keys = ask_order(mentions)
        with Assistants(config.endpoint, config.simulator, work, seed) as assistants:
            assistant = assistants.open("refinement", config.refinement.endpoint)
            refinery = Refinery(assistant, scheme, config.refinement, work / "asked.journal")
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

    def grounded(self, shown: Shown, seed: int) -> Floats:
        """Right and all gold mentions of test by post: in all, groundable, ungroundable (P, 3, 2).

        The mentions are the gold ones; nothing but the examples differs.
        """
        config, corpus, work = self._world(seed, "examples")
        labelled = draw_labelled(corpus.splits["train"], shown.labelled, seed)
        changes = {"choose": shown.choose, "examples": shown.examples}
        settings: InContextConfig = config.in_context.model_copy(update=changes)
        posts = corpus.splits["test"]
        gold = {p.id: [Mention(e.start, e.end, e.type) for e in p.entities] for p in posts}
        keys = [(post.id, place) for post in posts for place in range(len(gold[post.id]))]
        items = [(post, mention) for post in posts for mention in gold[post.id]]
        name = f"{shown.choose}-{shown.examples}-of-{len(labelled)}"
        with Assistants(config.endpoint, config.simulator, work, seed) as assistants:
            ways = Ways(GroundingConfig(way="icl"), settings, config.endpoint, assistants, labelled)
            located = ways.open().locate(items, work / name)
        found = predictions_of(posts, gold, dict(zip(keys, located, strict=True)))
        said = [_record(post.id, found[post.id]) for post in posts]
        return isr_counts(judge_posts(align(posts, said)))[:, [0, 2, 3], -1]

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
    routed: Mapping[str, list[Routed]]
    """By split."""
    train_posts: list[int]
    shown: Mapping[Shown, list[Floats]]


def measure(
    runs: Runs,
    seeds: Sequence[int],
    search_seed: int,
    search: Sequence[tuple[int, float]] = SEARCH,
) -> Measured:
    """Run what is missing."""
    found = {
        place: (
            runs.validation_f1(FULL, *place, search_seed),
            runs.validation_f1(ALONE, *place, search_seed),
        )
        for place in search
    }
    done = {variant.name: [runs.of(variant, seed) for seed in seeds] for variant in VARIANTS}
    routed = {split: [runs.routed(split, seed) for seed in seeds] for split in ("dev", "test")}
    ways = [
        Shown(pool, choose, k)
        for pool in (runs.config.data.labelled, None)
        for choose in ("similarity", "random")
        for k in (0, *EXAMPLES)
        if k or choose == "similarity"
    ]
    shown = {way: [runs.grounded(way, seed) for seed in seeds] for way in ways}
    train = [
        len(read_world(run.folder / "data", run.seed).splits["train"]) for run in done[FULL.name]
    ]
    return Measured(runs.config, seeds, search_seed, found, done, routed, train, shown)


def _record(post_id: str, found: tuple[Any, ...] | Failure) -> PostPrediction:
    if isinstance(found, Failure):
        return PostPrediction(post_id, failure=found)
    return PostPrediction(post_id, found)


def _slug(name: str) -> str:
    return name.replace(" ", "-").lower()
