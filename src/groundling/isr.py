"""Iterative Self-Refinement, whole (ISR §3, Algorithm 1).

    experts → grounder (eq. 2) → π_0 (eq. 3) → T rounds of: draw K (eq. 6), reward (eq. 4–5),
    prefer (eq. 7), update against π_{t−1} (eq. 8)

`run_isr` reads top to bottom like the paper's algorithm. Each step is a stage of the run
directory: a step that is done is not done again, and one that was cut short goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundling.answers import ground_all, write_all
from groundling.atomic import contents
from groundling.config import IsrConfig
from groundling.corpus import Case
from groundling.data.pairs_parquet import PAIRS_SCHEMA, pair_rows, read_pairs
from groundling.evaluate import evaluate
from groundling.infer import map_batches
from groundling.inputs import check_inputs
from groundling.models.base import Preference, Sampling
from groundling.models.registry import few_threads
from groundling.plan import check_fits
from groundling.preferences import Choice, Drop, choose_pair, pair_generator, round_prompts
from groundling.records import Failure, Pair, Query
from groundling.rewards import asks_grounder, reward
from groundling.rounds import (
    DRAWN_SCHEMA,
    JUDGED_SCHEMA,
    Drawn,
    Judged,
    judged_row,
    read_drawn,
    read_rewards,
    refuse_losses,
    summarise,
)
from groundling.tune import start_writer, tune_grounder, update_writer
from groundling.workbench import Workbench

_Scored = tuple[dict[str, str], str, str]
"""What the log-probabilities of a pair depend on, as JSON can hold it: the fields of its query,
the chosen text, the rejected one."""

PAIR_CHUNK = 512
"""Pairs a chunk of reference scoring: what a kill can cost."""


def run_isr(
    config: IsrConfig,
    out: Path,
    *,
    quiet: bool = False,
    base: Path | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
    retry: bool = False,
) -> dict[str, Any]:
    """Run Algorithm 1 into the directory `out`, or go on where it was stopped.

    `base` is a finished run whose common stages are taken over instead of being done again.
    `watch` is called with each event of the run as it happens, such as the start and the end of a
    stage; what it raises stops the run, which can go on later. With `retry`, what failed in
    finished stages is tried again, and what builds on it is done anew if that changes it.
    Returns what `metrics.json` says. Raises RunError for a directory of another configuration and
    InputError where something that the recipe names is missing, and where the models do not fit
    their device.
    """
    check_inputs(config)
    if config.check_memory:
        check_fits(config)
    with (
        few_threads(config.writer, config.grounder),
        Workbench.open(config, out, quiet=quiet, watch=watch, retry=retry) as bench,
    ):
        if base is not None:
            bench.adopt(base)
        bench.gather()  # posts, pictures, expert expressions; D_SFT and D_PL
        fit_grounder(bench)  # eq. 2
        grade(bench, "untuned", "grounder")
        fine_tune(bench)  # eq. 3: π_0
        grade(bench, "sft", "sft")
        for t in range(1, config.rounds + 1):
            prompts = sample_prompts(bench, t)
            draw(bench, t, prompts)  # ŝ_k ~ π_{t−1}, eq. 6
            judge(bench, t, prompts)  # r_k, eq. 4–5
            prefer(bench, t, prompts)  # D_t and π_ref = π_{t−1}, eq. 7
            update(bench, t)  # π_t, eq. 8
            grade(bench, f"round-{t}", f"round-{t}-update")
        return bench.conclude()


def fit_grounder(bench: Workbench) -> None:
    """Fine-tune the grounder on all expert expressions of D (§3.3)."""
    if not bench.config.grounder.tune:
        return
    stage = bench.run.stage("grounder", after=["data"])
    if not stage.done:
        with stage:
            tune_grounder(
                stage,
                bench.fresh_grounder(),
                bench.train,
                bench.experts,
                bench.config.grounder_tuning,
                bench.manner(0),
            )


def fine_tune(bench: Workbench) -> None:
    """Fine-tune the writer on D_SFT (§3.4.1)."""
    stage = bench.run.stage("sft", after=["data"])
    if not stage.done:
        with stage:
            start_writer(
                stage,
                bench.writer_at(None),
                bench.d_sft,
                bench.experts,
                bench.config.sft,
                bench.manner(0),
            )


def sample_prompts(bench: Workbench, t: int) -> list[Case]:
    """The mini-batch of prompts that round t takes from D_PL."""
    config = bench.config
    drawn = round_prompts(len(bench.d_pl), config.prompts_per_round, config.seed, t)
    return [bench.d_pl[index] for index in drawn]


def draw(bench: Workbench, t: int, prompts: Sequence[Case]) -> None:
    """K expressions a prompt from π_{t−1}; what cannot be written is recorded with its reason.

    Raises RunError where an endpoint leaves too much unanswered: those are asked again next time.
    """
    stage = bench.run.stage(f"round-{t}-draw", after=["data", bench.stage_of(t - 1)])
    if stage.done:
        return
    config = bench.config
    queries = [case.query for case in prompts]
    with stage, bench.progress(stage.name, len(queries), "prompts") as progress:
        rows = write_all(
            bench.sampler_at(t - 1, stage.scratch),
            queries,
            config.samples,
            Sampling(config.temperature, config.max_new_tokens),
            bench.seed_of(t),
            bench.source(t - 1),
            stage.scratch,
            progress,
        )
        refuse_losses(rows, config.sampler.tolerate, stage.name)
        drawn = [
            Drawn(query.id, k, expression.text, expression.source, expression.logprob)
            for query, row in zip(queries, rows, strict=True)
            if not isinstance(row, Failure)
            for k, expression in enumerate(row)
        ]
        failures = [
            {"id": query.id, **row.to_json()}
            for query, row in zip(queries, rows, strict=True)
            if isinstance(row, Failure)
        ]
        stage.write_parquet(f"rounds/{t}/expressions.parquet", drawn, DRAWN_SCHEMA)
        stage.write_json(f"rounds/{t}/failures.json", failures)
        stage.note(rows)


def judge(bench: Workbench, t: int, prompts: Sequence[Case]) -> None:
    """The reward of every drawn expression; equal ones about one picture are grounded once."""
    after = ["data", f"round-{t}-draw", *bench.grounder_stage]
    stage = bench.run.stage(f"round-{t}-judge", after=after)
    if stage.done:
        return
    drawn = read_drawn(bench.run.path / f"rounds/{t}/expressions.parquet")
    asked = [case for case in prompts if case.query.id in drawn]
    requests = [
        (case.query.image, expression.text)
        for case in asked
        for expression in drawn[case.query.id]
        if asks_grounder(case.entity, expression)
    ]
    with stage, bench.progress(stage.name, len(set(requests)), "expressions") as progress:
        boxes = ground_all(bench.tuned_grounder(), requests, stage.scratch, progress)
        judged: list[Judged] = []
        outcomes: list[int | Failure] = []
        for case in asked:
            for k, expression in enumerate(drawn[case.query.id]):
                needed = asks_grounder(case.entity, expression)
                found = boxes[(case.query.image, expression.text)] if needed else None
                outcome = reward(case.entity, expression, found, bench.config.reward_box)
                outcomes.append(outcome)
                meaning = bench.verdict(case, expression.text) if needed else None
                judged.append(judged_row(case.query.id, k, outcome, found, meaning))
        stage.write_parquet(f"rounds/{t}/rewards.parquet", judged, JUDGED_SCHEMA)
        stage.note(outcomes)


def prefer(bench: Workbench, t: int, prompts: Sequence[Case]) -> None:
    """D_t: pairs by the configured strategy, with their log-probabilities under π_{t−1}."""
    stage = bench.run.stage(
        f"round-{t}-prefer",
        after=["data", f"round-{t}-judge", f"round-{t}-draw", bench.stage_of(t - 1)],
    )
    if stage.done:
        return
    config = bench.config
    drawn = read_drawn(bench.run.path / f"rounds/{t}/expressions.parquet")
    rewards = read_rewards(bench.run.path / f"rounds/{t}/rewards.parquet")
    choices: dict[str, Choice | Drop] = {
        case.query.id: choose_pair(
            [expression.text for expression in drawn[case.query.id]],
            rewards[case.query.id],
            bench.experts.get(case.query.id),
            config.strategy,
            pair_generator(config.seed, t, case.query.id),
        )
        for case in prompts
        if case.query.id in drawn
    }
    with stage:
        pairs, queries, unscored = reference(bench, t, stage.scratch, prompts, choices)
        stage.write_parquet(f"rounds/{t}/pairs.parquet", pair_rows(pairs, queries), PAIRS_SCHEMA)
        if unscored:
            failures = [{"id": key, **failure.to_json()} for key, failure in unscored.items()]
            stage.write_json(f"rounds/{t}/unscored.json", failures)
            stage.note(unscored.values())
            choices |= dict.fromkeys(unscored, Drop("unscored"))
        judged = bench.judged(t)
        stage.write_json(f"rounds/{t}/metrics.json", summarise(prompts, judged, choices))


def reference(
    bench: Workbench,
    t: int,
    scratch: Path,
    prompts: Sequence[Case],
    choices: dict[str, Choice | Drop],
) -> tuple[list[Pair], list[Query], dict[str, Failure]]:
    """The chosen pairs with log π_{t−1} of both sides, and their queries, in order.

    Beside them, by query id, why others could not be scored.
    """
    chosen = [
        (case.query, choice)
        for case in prompts
        if isinstance(choice := choices.get(case.query.id), Choice)
    ]
    writer = bench.writer_at(t - 1)

    def score(_: int, chunk: Sequence[_Scored]) -> list[tuple[float, float] | Failure]:
        queries, better, worse = zip(*chunk, strict=True)
        return writer.score_pairs([Query(**query) for query in queries], better, worse)

    scores = map_batches(
        [(asdict(query), choice.chosen, choice.rejected) for query, choice in chosen],
        score,
        chunk_size=PAIR_CHUNK,
        folder=scratch,
        decode=lambda row: (row[0], row[1]),
        about=lambda item: contents(item[0]["image"]),
    )
    pairs = [
        Pair(query.id, choice.chosen, choice.rejected, choice.chosen_source, both[0], both[1])
        for (query, choice), both in zip(chosen, scores, strict=True)
        if not isinstance(both, Failure)
    ]
    unscored = {
        query.id: both
        for (query, _), both in zip(chosen, scores, strict=True)
        if isinstance(both, Failure)
    }
    return pairs, [query for query, _ in chosen if query.id not in unscored], unscored


def update(bench: Workbench, t: int) -> None:
    """π_t: DPO on D_t, starting from π_{t−1} and held to it."""
    stage = bench.run.stage(f"round-{t}-update", after=[f"round-{t}-prefer", bench.stage_of(t - 1)])
    if stage.done:
        return
    queries = {case.query.id: case.query for case in bench.d_pl}
    preferences = [
        Preference(
            queries[pair.query_id],
            pair.chosen,
            pair.rejected,
            pair.ref_chosen_logp,
            pair.ref_rejected_logp,
        )
        for pair in read_pairs(bench.run.path / f"rounds/{t}/pairs.parquet")
    ]
    with stage:
        update_writer(
            stage,
            bench.writer_at(t - 1),
            preferences,
            bench.config.dpo,
            t,
            bench.manner(t),
        )


def grade(bench: Workbench, name: str, writer_stage: str) -> None:
    """Validation and test accuracy of the writer that `writer_stage` left."""
    after = ["data", *bench.grounder_stage, *([] if name == "untuned" else [writer_stage])]
    stage = bench.run.stage(f"evaluate-{name}", after=after)
    if not stage.done:
        with stage:
            evaluate(
                stage,
                name,
                bench.writer_named(name),
                bench.tuned_grounder(),
                bench.corpus,
                bench.config.max_new_tokens,
                bench.quiet,
            )
