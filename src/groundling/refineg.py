"""ReFineG, whole: few labelled posts, a small tagger, and a frozen multimodal LLM that helps it.

    labelled posts → synthetic posts → tagger → mentions → refined mentions → boxes → scores

`run_refineg` reads top to bottom like the method. Each step is a stage of the run directory. What
the LLM answered lies in journals under `answers/`: it is not asked for twice. What failed in a
stage that is not finished is asked for again by the same command, in others by `--retry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundling.asking import refuse_losses
from groundling.assistants import Assistants
from groundling.config_gmner import RefinegConfig, TaggingConfig, TextData
from groundling.corpus import (
    SplitName,
    draw_labelled,
    draw_world,
    fingerprint,
    read_labelled,
    read_world,
)
from groundling.data.jsonl import read_posts, read_predictions, write_predictions
from groundling.errors import DataError
from groundling.gmner import Told, ground_posts
from groundling.grounding_ways import Ways
from groundling.inputs import check_inputs
from groundling.models.registry import compute_threads, open_tagger
from groundling.progress import Progress
from groundling.provenance import provenance
from groundling.records import SCHEMES, Failure, Mention, Post, PostPrediction, Prediction
from groundling.refine import Asked, Refinery, record, refine, summary, validate
from groundling.report.routing_chart import routing_sheet
from groundling.routing import Curve
from groundling.rundir import RunDir
from groundling.scoring import TRIPLE_RULES, score_triples
from groundling.screening import training_posts
from groundling.stage import Stage
from groundling.strict_json import read_object
from groundling.synthesise import synthesise
from groundling.tagging import TAGGER, fit, tag_split, ungrounded

STAGES = ("synth", "fit", "refine", "ground")
"""Where a call may end, in order."""

RULES = ("span", "refineg", "riveg")
WORLD = "data"
Splits = Mapping[SplitName, tuple[Post, ...]]
Mentions = dict[str, list[Mention]]


def run_refineg(
    config: RefinegConfig,
    out: Path,
    *,
    until: str = "ground",
    quiet: bool = False,
    retry: bool = False,
) -> dict[str, Any]:
    """Run the method into the directory `out`, or go on where it was stopped, up to a stage.

    Returns what `metrics.json` says, or, before the end, what the last stage did. With `retry`,
    what failed in finished stages is asked for again, and what builds on it is done anew. Raises
    RunError for a directory of another configuration or other posts, and where more calls fail than
    are tolerated: the same call then goes on. Raises InputError where something that the recipe
    names is missing.
    """
    check_inputs(config, until)
    _check_endpoints(config, Assistants(config.endpoint, config.simulator, out / "answers"))
    given = _given(config)
    known = provenance(threads=compute_threads())
    if given:
        known["data"] = {name: fingerprint(posts) for name, posts in given.items()}
    with (
        RunDir.open(out, config, known, retry=retry) as run,
        Assistants(config.endpoint, config.simulator, out / "answers", config.seed) as assistants,
    ):
        work = _Work(config, run, assistants, quiet)
        work.gather(given)
        work.synthesise()  # training stage: sentences near the labelled posts
        if until == "synth":
            return work.told("synth/summary.json")
        work.fit()  # training stage: the tagger, its confidences calibrated
        if until == "fit":
            return work.told("fit.json")
        work.tag()
        work.refine()  # refinement stage: uncertain mentions
        if until == "refine":
            return work.told("refinement/summary.json")
        work.ground()  # grounding stage: boxes
        return work.conclude()


@dataclass(frozen=True, slots=True)
class _Tagged:
    """Posts, the mentions of those that could be tagged, and why the others could not."""

    posts: Sequence[Post]
    mentions: Mentions
    failures: dict[str, Failure]

    @property
    def answered(self) -> list[Post]:
        """The posts that have mentions, be it none."""
        return [post for post in self.posts if post.id in self.mentions]


class _Work:
    """An open run; its methods are the stages, in order."""

    splits: Splits
    seeds: list[Post]

    def __init__(
        self, config: RefinegConfig, run: RunDir, assistants: Assistants, quiet: bool
    ) -> None:
        self.config, self.run, self.assistants, self.quiet = config, run, assistants, quiet
        self.scheme = SCHEMES[config.scheme]
        self.answers = run.path / "answers"

    def told(self, name: str) -> dict[str, Any]:
        """What a stage wrote down of itself."""
        found: dict[str, Any] = read_object(self.run.path / name)
        return found

    def gather(self, given: Splits) -> None:
        """Posts of three splits, and those of `train` that count as labelled."""
        config, stage = self.config, self.run.stage("data")
        self.splits = given
        if not stage.done:
            with stage:
                if config.data.toyworld is not None:
                    with stage.write_folder(WORLD) as folder:
                        draw_world(folder, config.data.toyworld, config.seed)
                stage.event("data")
        if config.data.toyworld is not None:
            self.splits = read_world(self.run.path / WORLD, config.seed).splits
        self.seeds = draw_labelled(self.splits["train"], config.data.labelled, config.seed)

    def synthesise(self) -> None:
        """Labelled sentences near the labelled posts."""
        config, stage = self.config, self.run.stage("synth", after=["data"])
        if stage.done:
            return
        with stage:
            if config.synthesis is None:
                stage.write_json("synth/summary.json", {"questions": 0, "kept": 0})
                return
            settings = config.synthesis
            with Progress("synthesis", unit="questions", quiet=self.quiet) as progress:
                done = synthesise(
                    self.seeds,
                    self.assistants.open("synthesis", settings.endpoint),
                    self.scheme,
                    settings,
                    self.answers / "synthesis",
                    progress,
                )
            self._refuse("synth", done.failed, done.questions)
            for name in ("synthetic.jsonl", "provenance.jsonl"):
                stage.write_bytes(f"synth/{name}", (self.answers / "synthesis" / name).read_bytes())
            stage.write_json("synth/summary.json", done.to_json())
            stage.note(done.failed)

    def fit(self) -> None:
        """The tagger, on the labelled posts and what was made of them."""
        config, posts = self.config, self.seeds
        if config.synthesis is not None:
            path = self.run.path / "synth/synthetic.jsonl"
            made = read_posts(path, scheme=self.scheme).posts
            posts = training_posts(self.seeds, made, config.synthesis)
        splits = {"train": tuple(posts), "dev": self.splits["dev"]}
        fit(self.run, _tagging(config), splits, self.quiet, after=["data", "synth"])

    def tag(self) -> None:
        """The tagger's mentions of validation and test."""
        stage = self.run.stage("tag", after=["data", "fit"])
        if stage.done:
            return
        with stage:
            tagger = open_tagger(self.config.tagger, self.scheme, self.run.path / TAGGER)
            splits: tuple[SplitName, ...] = ("dev", "test")
            for split in splits:
                posts = self.splits[split]
                found = tag_split(tagger, posts, stage.scratch / split, split, self.quiet)
                stage.note(found)
                self._write(stage, f"mentions/{split}.jsonl", ungrounded(posts, found))

    def refine(self) -> None:
        """Which mentions are uncertain is decided on validation; those of test are asked about."""
        stage = self.run.stage("refine", after=["data", "tag"])
        if stage.done:
            return
        settings = self.config.refinement
        test = self._tagged("test", "mentions/test.jsonl")
        mentions = test.mentions
        with stage:
            told: dict[str, Any] = {"mentions": sum(map(len, mentions.values())), "asked": 0}
            if settings is not None:
                assistant = self.assistants.open("refinement", settings.endpoint)
                journal = self.answers / "refinement.journal"
                refinery = Refinery(assistant, self.scheme, settings, journal)
                dev = self._tagged("dev", "mentions/dev.jsonl")
                with Progress("refinement", unit="mentions", quiet=self.quiet) as progress:
                    found_on_dev = validate(refinery, dev.answered, dev.mentions, progress)
                    self._refuse_losses("refine", found_on_dev.asked)
                    routing, curve = found_on_dev.routing, found_on_dev.curve
                    mentions, asked = refine(refinery, test.answered, mentions, routing, progress)
                self._refuse_losses("refine", asked)
                stage.note(one.outcome for one in (*found_on_dev.asked, *asked))
                told = summary(asked, told["mentions"]) | {
                    "threshold": routing.threshold,
                    "validation_f1": _percent(curve),
                    "validation_mentions": curve.total,
                }
                if settings.whole_curve:
                    told["validation_f1_random"] = [*map(_percent, found_on_dev.by_chance)]
                    drawn = routing_sheet(
                        told["validation_f1"], told["validation_f1_random"], "MNER F1 on validation"
                    )
                    stage.write_bytes("refinement/curve.svg", drawn.encode())
                stage.write_bytes("refinement/test.jsonl", record(asked))
            stage.write_json("refinement/summary.json", told)
            found = [test.failures.get(post.id) or mentions[post.id] for post in test.posts]
            self._write(stage, "mentions/refined.jsonl", ungrounded(test.posts, found))

    def ground(self) -> None:
        """The boxes of test's mentions."""
        stage = self.run.stage("ground", after=["data", "refine"])
        if stage.done:
            return
        test = self._tagged("test", "mentions/refined.jsonl")
        with stage:
            told = Told()
            config = self.config
            ways = Ways(
                config.grounding, config.in_context, self.scheme, self.assistants, self.seeds
            )
            grounding = ways.open()
            said = ground_posts(
                test.posts,
                test.mentions,
                test.failures,
                grounding,
                self.answers / "grounding",
                told,
                self.quiet,
            )
            self._refuse("ground", told.outcomes, len(told.outcomes))
            stage.note(told.outcomes)
            stage.failed(told.left_out)
            self._write(stage, "predictions/test.jsonl", said)
            stage.write_json("grounding.json", told.to_json())

    def conclude(self) -> dict[str, Any]:
        """Write and return `metrics.json`: test scores after tagging, refinement and grounding."""
        test = self.splits["test"]
        files = {
            "tagger": "mentions/test.jsonl",
            "refined": "mentions/refined.jsonl",
            "grounded": "predictions/test.jsonl",
        }
        scores = {}
        for name, path in files.items():
            said = read_predictions(self.run.path / path, self.scheme)
            scores[name] = {
                rule: score_triples(test, said, TRIPLE_RULES[rule], scheme=self.scheme).to_json()
                for rule in RULES
            }
        metrics = {
            "labelled_posts": len(self.seeds),
            "synthesis": self.told("synth/summary.json"),
            "fit": self.told("fit.json"),
            "refinement": self.told("refinement/summary.json"),
            "grounding": self.told("grounding.json"),
            "test": scores,
        }
        self.run.write_json("metrics.json", metrics)
        return metrics

    # ------------------------------------------------------------------------------------ files

    def _tagged(self, split: SplitName, name: str) -> _Tagged:
        """The posts of a split with their mentions as stored."""
        said = {one.id: one for one in read_predictions(self.run.path / name, self.scheme)}
        posts = self.splits[split]
        failures = {p.id: f for p in posts if (f := said[p.id].failure) is not None}
        mentions = {
            post.id: [
                _mention(self.run.path / name, post.id, one) for one in said[post.id].predictions
            ]
            for post in posts
            if post.id not in failures
        }
        return _Tagged(posts, mentions, failures)

    def _write(self, stage: Stage, name: str, said: Sequence[PostPrediction]) -> None:
        draft = stage.scratch / "draft.jsonl"
        write_predictions(draft, said, self.scheme)
        stage.write_bytes(name, draft.read_bytes())

    def _refuse_losses(self, stage: str, asked: Sequence[Asked]) -> None:
        """`_refuse` where mentions were asked about."""
        self._refuse(stage, [one.outcome for one in asked], len(asked))

    def _refuse(self, stage: str, outcomes: Sequence[object], total: int) -> None:
        """Raise RunError where more calls failed than are tolerated; those may succeed yet."""
        refuse_losses(stage, outcomes, total, self.config.tolerate)


def _mention(path: Path, post_id: str, said: Prediction) -> Mention:
    """A stored mention. Raises DataError for one that does not say which tokens it is."""
    if said.start is None or said.end is None:
        raise DataError(path, f"post {post_id!r}, {said.name!r}: no start and end; run again")
    return Mention(said.start, said.end, said.type, said.score)


def _percent(curve: Curve) -> list[float]:
    return [round(100 * float(f1), 2) for f1 in curve.f1]


def _given(config: RefinegConfig) -> dict[SplitName, tuple[Post, ...]]:
    """The posts that are not drawn by the run itself."""
    if config.data.gmner is None:
        return {}
    names: tuple[SplitName, ...] = ("train", "dev", "test")
    shown = config.grounding.way != "none"
    return read_labelled(config.data.gmner, names, SCHEMES[config.scheme], pictures=shown)


def _check_endpoints(config: RefinegConfig, assistants: Assistants) -> None:
    """Raise ConfigError now for keys that a later stage would refuse."""
    if config.synthesis is not None:
        assistants.check("synthesis", config.synthesis.endpoint)
    if config.refinement is not None:
        assistants.check("refinement", config.refinement.endpoint)
    if config.grounding.asks:
        assistants.check("grounding", config.in_context.endpoint)


def _tagging(config: RefinegConfig) -> TaggingConfig:
    """The part of the configuration that a tagger is fitted by."""
    return TaggingConfig(
        seed=config.seed,
        scheme=config.scheme,
        data=TextData(source="the labelled posts"),
        tagger=config.tagger,
        tuning=config.tuning,
        patience=config.patience,
        checkpoint_every_s=config.checkpoint_every_s,
    )
