"""What the stages of one ISR run share: its directory, its data, and its two models.

Models are opened when a stage first needs them, so a run that only lacks its report opens none.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from groundling.atomic import digest_file
from groundling.config import IsrConfig
from groundling.corpus import (
    Case,
    Corpus,
    draw_world,
    read_whole_release,
    read_world,
    split_training,
)
from groundling.data.expressions_jsonl import EntityExpression, write_expressions
from groundling.data.pairs_parquet import read_rows
from groundling.errors import InputError, RunError
from groundling.evaluate import floors
from groundling.experts import check_experts, collect_experts
from groundling.learnable import Looked, look
from groundling.models.base import ExpressionSampler, Grounder, Sampler, Writer
from groundling.models.registry import (
    compute_threads,
    open_grounder,
    open_sampler,
    open_writer,
)
from groundling.outlook import Outlook
from groundling.policy_check import CheckedSampler, Policy
from groundling.progress import Progress, tell
from groundling.provenance import provenance
from groundling.records import Expression, Verdict
from groundling.rounds import Judged
from groundling.rundir import RunDir, stored_config
from groundling.settings import decisive
from groundling.stage import any_finished
from groundling.strict_json import read_object
from groundling.team import shards, team
from groundling.tune import Manner

_BASE = {"seed", "data", "experts", "grounder", "grounder_tuning", "writer", "max_new_tokens"}
_START = {"lora", "sft", "sft_queries"}
WORLD = "data"
"""Where a run keeps the embedded world that it drew."""


class Workbench:
    """An open ISR run; `gather` must be the first step."""

    corpus: Corpus
    train: list[Case]
    d_sft: list[Case]
    d_pl: list[Case]
    experts: dict[str, str]

    def __init__(
        self, config: IsrConfig, run: RunDir, quiet: bool, given: Corpus | None = None
    ) -> None:
        """Use `open`; `given` are posts that are not drawn by the run itself."""
        self._given = given
        self.config = config
        self.run = run
        self.quiet = quiet
        self.grounder_stage = ["grounder"] if config.grounder.tune else []
        self._writer: Writer | None = None
        self._tuned: Grounder | None = None
        self._sampler: Sampler | None = None
        self._told: set[str] = set()
        self._name = _name_of(config)

    @classmethod
    def open(
        cls,
        config: IsrConfig,
        out: Path,
        *,
        quiet: bool = False,
        watch: Callable[[dict[str, Any]], None] | None = None,
        retry: bool = False,
    ) -> Workbench:
        """Create or continue the run directory `out`; for `watch` and `retry` see `run_isr`.

        Raises ConfigError for settings of an endpoint that do not fit, and InputError for expert
        expressions that do not, before any work is done.
        """
        if config.sampler.backend == "endpoint":
            open_sampler(config).close()
        given = read_whole_release(config.data.gmner)
        if given is not None and not any_finished(out):
            check_experts(given, Path(config.experts.path) if config.experts.path else None)
        known = provenance(threads=compute_threads(), data=_identity(config, given))
        run = RunDir.open(out, config, known, retry=retry)
        outlook = Outlook(stage_names(config), quiet=quiet)

        def watched(event: dict[str, Any]) -> None:
            outlook(event)
            if watch is not None:
                watch(event)

        run.watch = watched
        return cls(config, run, quiet, given)

    def adopt(self, base: Path) -> None:
        """Take over what a finished run of a like configuration has in common with this one.

        Data and grounder, and π_0 with its grade too if that was started in the same way.
        """
        then = stored_config(base, IsrConfig)
        if _part(then, _BASE) != _part(self.config, _BASE):
            raise RunError(f"{base}: its data or grounder are configured otherwise; name another")
        stages = ["data", *self.grounder_stage, "evaluate-untuned"]
        if _part(then, _START) == _part(self.config, _START):
            stages += ["sft", "evaluate-sft"]
        self.run.adopt(base, stages)

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sampler is not None:
            self._sampler.close()
        self.run.__exit__(kind, fault, trace)

    # ------------------------------------------------------------------------------------- data

    def gather(self) -> None:
        """Posts with their pictures, expert expressions (§3.2), D_SFT and D_PL (§3.4.1)."""
        config = self.config
        looked = None
        if self._given is not None:
            self.corpus = self._given
            looked = look(self.run, self.corpus.posts_with_entities("train"), quiet=self.quiet)
        stage = self.run.stage("data", after=[] if looked is None else [looked.stage])
        if not stage.done:
            with stage:
                if config.data.toyworld is not None:
                    self._say("drawing the embedded world")
                    with stage.write_folder(WORLD) as folder:
                        draw_world(folder, config.data.toyworld, config.seed)
                    self._read_world()
                self._annotate(looked)
                experts = [
                    EntityExpression(
                        case.post_id,
                        case.entity.name,
                        case.entity.type,
                        Expression(self.experts[case.query.id], self._expert_source()),
                    )
                    for case in self.train
                ]
                with stage.write_folder("experts") as folder:
                    write_expressions(folder / "train.jsonl", experts)
                stage.event("data", **self._counts())
        else:
            if config.data.toyworld is not None:
                self._read_world()
            self._annotate(looked)
        self.d_sft, self.d_pl = split_training(self.train, config.sft_queries, config.seed)
        if config.rounds and not self.d_pl:
            raise InputError(
                f"sft_queries: got {config.sft_queries}; wanted fewer than the {len(self.train)} "
                "training queries, the rest being D_PL, or rounds: 0"
            )

    def _read_world(self) -> None:
        self.corpus = read_world(self.run.path / WORLD, self.config.seed)

    def _annotate(self, looked: Looked | None) -> None:
        self.train = self.corpus.cases("train")
        if looked is not None:
            self.train = self.corpus.training(looked.learnable(self.corpus.splits["train"]))
        path = self.config.experts.path
        self.experts = collect_experts(self.corpus, self.train, Path(path) if path else None)

    def _expert_source(self) -> str:
        return "expert:file" if self.config.experts.path else "expert:annotator"

    def _counts(self) -> dict[str, int]:
        counts = {name: len(self.corpus.cases(name)) for name in self.corpus.splits}
        return counts | {"posts_without_picture": self.corpus.without_picture()}

    def verdict(self, case: Case, text: str) -> Verdict | None:
        """What an expression means in the scene, where the world is known."""
        return self.corpus.judge(case.query.id, text) if self.corpus.judge else None

    # ----------------------------------------------------------------------------------- models

    def writer_at(self, round_: int | None) -> Writer:
        """The writer with the adapter of π_t as its stage stored it; None for a fresh one."""
        config = self.config
        if self._writer is None:
            self._writer = open_writer(config.writer, config.lora, config.seed)
            if shards():
                team().settle(self._writer.module())
            self._prepare(self._writer)
        if round_ is None:
            self._writer.restart_adapter(config.seed)
        else:
            self._writer.load_adapter(self.run.path / f"writer/round-{round_}")
        return self._writer

    def sampler_at(self, round_: int, scratch: Path) -> ExpressionSampler:
        """What draws from π_t: the writer itself, unless the configuration names a faster way."""
        if self.config.sampler.backend == "writer":
            return self.writer_at(round_)
        if self._sampler is None:
            self._sampler = open_sampler(self.config)
        self._sampler.follow(self.run.path / f"writer/round-{round_}", scratch)
        config, stage = self.config, f"round-{round_ + 1}-draw"
        dtype = config.writer.dtype if config.sampler.backend == "vllm" else "bfloat16"
        policy = Policy(
            self.writer_at(round_),
            dtype,  # a server does not say its own
            scratch,
            self._tell_once,
            partial(self.run.event, "sampler compared", stage),
        )
        return CheckedSampler(self._sampler, policy)

    def _tell_once(self, text: str) -> None:
        """Put a thing on record, and say it where a person looks on."""
        if text not in self._told:
            self._told.add(text)
            self.run.event("warning", text=text)
            if not self.quiet:
                print(f"warning: {text}", file=sys.stderr)

    def writer_named(self, name: str) -> Writer:
        """The writer that an evaluation is named for: untuned, sft, round-N."""
        if name == "untuned":
            return self.writer_at(None)
        return self.writer_at(0 if name == "sft" else int(name.removeprefix("round-")))

    def _prepare(self, writer: Writer) -> None:
        pictures = self.corpus.pictures()
        began = time.monotonic()
        failures = [failure for failure in writer.prepare(pictures) if failure is not None]
        self.run.event(
            "pictures read",
            count=len(pictures),
            failures=[failure.reason for failure in failures[:20]],
            seconds=round(time.monotonic() - began, 1),
        )

    def fresh_grounder(self) -> Grounder:
        """The grounder as it was published."""
        return open_grounder(self.config.grounder)

    def tuned_grounder(self) -> Grounder:
        """The grounder that rewards and answers: fine-tuned, unless the configuration says no."""
        if self._tuned is None:
            stored = self.run.path / "grounder" if self.grounder_stage else None
            self._tuned = open_grounder(self.config.grounder, stored)
        return self._tuned

    # ------------------------------------------------------------------------------------ names

    def stage_of(self, round_: int) -> str:
        """The stage that left π_t."""
        return "sft" if round_ == 0 else f"round-{round_}-update"

    def seed_of(self, round_: int) -> int:
        """A seed of its own for each round."""
        return self.config.seed * 1009 + round_

    def manner(self, round_: int) -> Manner:
        """How the fits of a round are run; 0 for those before the first."""
        return Manner(self.seed_of(round_), self.config.checkpoint_every_s, self.quiet)

    def source(self, round_: int) -> str:
        """Who wrote an expression: this configuration's writer after a round."""
        return f"writer:{self._name}/{round_}"

    def progress(self, label: str, total: int, unit: str) -> Progress:
        """A progress line that obeys `quiet`."""
        return Progress(label, total, unit, quiet=self.quiet)

    def judged(self, round_: int) -> list[Judged]:
        """The judgements of a round, as stored."""
        path = self.run.path / f"rounds/{round_}/rewards.parquet"
        return [
            Judged(**row)
            for row in read_rows(path, [one.name for one in fields(Judged)], "rewards")
        ]

    def _say(self, text: str) -> None:
        tell(text, quiet=self.quiet)

    # --------------------------------------------------------------------------------- the end

    def conclude(self) -> dict[str, Any]:
        """Write and return `metrics.json`: every stage, the floors, the round that is chosen.

        The round is chosen on validation; where two agree the earlier one is.
        """
        names = ["untuned", "sft", *(f"round-{t}" for t in range(1, self.config.rounds + 1))]
        stages = []
        for name in names:
            path = self.run.path / f"evaluations/{name}.json"
            stages.append({"name": name, **read_object(path)})
        trained = stages[1:]
        best = max(trained, key=lambda s: (s["validation"]["accuracy"]["all"], -stages.index(s)))
        metrics = {"stages": stages, "selected": best["name"], "floors": floors(self.corpus)}
        self.run.write_json("metrics.json", metrics)
        return metrics


def stage_names(config: IsrConfig) -> list[str]:
    """The stages of a run, in order."""
    names = ["data", *(["grounder"] if config.grounder.tune else []), "evaluate-untuned"]
    names += ["sft", "evaluate-sft"]
    for t in range(1, config.rounds + 1):
        names += [f"round-{t}-{act}" for act in ("draw", "judge", "prefer", "update")]
        names.append(f"evaluate-round-{t}")
    return names


def _name_of(config: IsrConfig) -> str:
    """Eight hexadecimal digits of all that decides results."""
    text = json.dumps(decisive(IsrConfig, config.model_dump(mode="json")), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _identity(config: IsrConfig, given: Corpus | None) -> dict[str, str] | None:
    """Digests of what a run is about, where that is not its own to draw."""
    found = {} if given is None else given.fingerprints()
    path = config.experts.path
    if path is not None and Path(path).is_file():
        found["experts"] = digest_file(Path(path))
    return found or None


def _part(config: IsrConfig, keys: set[str]) -> dict[str, Any]:
    return config.model_dump(include=keys)
