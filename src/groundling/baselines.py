"""Direct grounding, fine-tuned: the strong baseline of ISR Table 1.

A multimodal model learns to answer prompt A.3 with the largest gold box of an entity, or to say
that it is absent, and is graded before and after. The run directory is that of other flows, so a
stopped run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundling.atomic import contents
from groundling.config import DirectConfig
from groundling.corpus import Case, Corpus, SplitName, draw_world, read_whole_release, read_world
from groundling.data.jsonl import as_written, write_predictions
from groundling.direct import gathered
from groundling.evaluate import NAMES, floors
from groundling.infer import map_batches
from groundling.inputs import check_inputs
from groundling.learnable import look
from groundling.models.base import DirectExample, DirectLearner
from groundling.models.registry import compute_threads, few_threads, open_direct
from groundling.plan import check_fits
from groundling.progress import Progress
from groundling.provenance import provenance
from groundling.records import (
    NO_PICTURE,
    Box,
    Failure,
    PostPrediction,
    Prediction,
    Query,
)
from groundling.rundir import RunDir
from groundling.scoring.isr import score_isr
from groundling.stage import Stage
from groundling.strict_json import read_object
from groundling.team import shards, team
from groundling.tune import Manner, fit_stage

WORLD = "data"
TUNED = "model"
"""Where a run keeps the embedded world that it drew, and what it trained."""

ANSWER_CHUNK = 512
"""Queries a chunk of answering: what a kill can cost."""


def run_direct(
    config: DirectConfig, out: Path, *, quiet: bool = False, retry: bool = False
) -> dict[str, Any]:
    """Fine-tune and grade into the directory `out`, or go on where it was stopped.

    With `retry`, what failed in finished stages is tried again. Returns what `metrics.json` says:
    the stages `untuned` and `direct`, and the floors. Raises RunError for a directory of another
    configuration, InputError where something that the recipe names is missing, and where the model
    does not fit its device.
    """
    check_inputs(config)
    if config.check_memory:
        check_fits(config)
    given = read_whole_release(config.data.gmner)
    with few_threads(config.model):
        known = provenance(threads=compute_threads(), data=given.fingerprints() if given else None)
        with RunDir.open(out, config, known, retry=retry) as run:
            corpus, cases = gather(run, config, given, quiet)
            fine_tune(run, config, cases, quiet)
            grade(run, config, corpus, "untuned", quiet)
            grade(run, config, corpus, "direct", quiet)
            return conclude(run, corpus)


def gather(
    run: RunDir, config: DirectConfig, given: Corpus | None, quiet: bool = False
) -> tuple[Corpus, list[Case]]:
    """Posts with their pictures and gold boxes, and what there is to learn from."""
    if given is not None:
        looked = look(run, given.posts_with_entities("train"), quiet=quiet)
        return given, given.training(looked.learnable(given.splits["train"]))
    assert config.data.toyworld is not None
    stage = run.stage("data")
    if not stage.done:
        with stage, stage.write_folder(WORLD) as folder:
            draw_world(folder, config.data.toyworld, config.seed)
    corpus = read_world(run.path / WORLD, config.seed)
    return corpus, corpus.cases("train")


def fine_tune(run: RunDir, config: DirectConfig, cases: Sequence[Case], quiet: bool) -> None:
    """Fine-tune on every training query."""
    stage = run.stage("tune", after=["data" if config.data.gmner is None else "pictures"])
    if stage.done:
        return
    examples = [DirectExample(case.query, case.entity.largest_box) for case in cases]
    with stage:
        model = open_direct(config.model, config.lora, config.seed)
        model.prepare([case.query.image for case in cases])
        how = Manner(config.seed, config.checkpoint_every_s, quiet)
        fit_stage(
            stage, model, model.loss, examples, config.tuning, how, weight=model.answer_tokens
        )
        with stage.write_folder(TUNED) as folder:
            model.save(folder)


def grade(run: RunDir, config: DirectConfig, corpus: Corpus, name: str, quiet: bool) -> None:
    """Answer validation and test; `predictions/NAME/SPLIT.jsonl` and their scores."""
    stage = run.stage(f"evaluate-{name}", after=["tune"] if name == "direct" else [])
    if stage.done:
        return
    with stage:
        adapter = run.path / TUNED if name == "direct" else None
        model = open_direct(config.model, config.lora, config.seed, adapter)
        if shards():
            team().settle(model.module())
        model.prepare([case.query.image for split in NAMES for case in corpus.cases(split)])
        said = {split: as_written(answer(stage, model, corpus, split, quiet)) for split in NAMES}
        with stage.write_folder(f"predictions/{name}") as folder:
            for split, predictions in said.items():
                write_predictions(folder / f"{split}.jsonl", predictions)
        scores = {
            called: score_isr(corpus.splits[split], said[split]).to_json()
            for split, called in NAMES.items()
        }
        stage.write_json(f"evaluations/{name}.json", scores)


def answer(
    stage: Stage, model: DirectLearner, corpus: Corpus, split: SplitName, quiet: bool
) -> list[PostPrediction]:
    """What the model says of each post of a split, in chunks that survive a kill."""
    queries = [case.query for case in corpus.cases(split)]

    def run(_: int, chunk: Sequence[Query]) -> list[Prediction | Failure]:
        found = dict(model.answer(chunk))
        return [found[place] for place in range(len(chunk))]

    label = f"{stage.name} {NAMES[split]}"
    with Progress(label, len(queries), "queries", quiet=quiet) as progress:
        found = map_batches(
            queries,
            run,
            chunk_size=ANSWER_CHUNK,
            folder=stage.scratch / split,
            encode=_plain,
            decode=_prediction,
            about=lambda query: contents(query.image),
            progress=progress,
        )
    stage.note(found)
    by_query = dict(zip((query.id for query in queries), found, strict=True))
    return [
        gathered(post, [by_query.get(query.id, NO_PICTURE) for query in post.queries()])
        for post in corpus.splits[split]
    ]


def _plain(said: Prediction) -> list[object]:
    return [said.name, said.type, None if said.box is None else said.box.xyxy, said.score]


def _prediction(row: Any) -> Prediction:
    name, type_, box, score = row
    return Prediction(name, type_, None if box is None else Box(*box), score=score)


def conclude(run: RunDir, corpus: Corpus) -> dict[str, Any]:
    """Write and return `metrics.json`."""
    stages = [
        {"name": name, **read_object(run.path / f"evaluations/{name}.json")}
        for name in ("untuned", "direct")
    ]
    metrics = {"stages": stages, "selected": "direct", "floors": floors(corpus)}
    run.write_json("metrics.json", metrics)
    return metrics
