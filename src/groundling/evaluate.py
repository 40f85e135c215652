"""How good a writer and a grounder are together: predictions, scores, and what was meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from groundling.answers import Answer, answer_queries, predictions_of
from groundling.corpus import Case, Corpus, SplitName
from groundling.data.jsonl import as_written, write_predictions
from groundling.models.base import GREEDY, Grounder, Sampling, Writer
from groundling.progress import Progress
from groundling.records import Failure, PostPrediction
from groundling.scoring.floors import mean_person_norm, score_floors
from groundling.scoring.isr import score_isr
from groundling.stage import Stage

NAMES: dict[SplitName, str] = {"dev": "validation", "test": "test"}
"""The splits that are evaluated, and what `metrics.json` calls them."""


def evaluate(
    stage: Stage,
    name: str,
    writer: Writer,
    grounder: Grounder,
    corpus: Corpus,
    max_new_tokens: int,
    quiet: bool = False,
) -> None:
    """Answer validation and test greedily; write `predictions/NAME/SPLIT.jsonl` and its scores.

    The predictions can be scored again with `groundling score`.
    """
    scores: dict[str, Any] = {}
    said: dict[SplitName, list[PostPrediction]] = {}
    for split, called in NAMES.items():
        cases = corpus.cases(split)
        queries = [case.query for case in cases]
        with Progress(f"{stage.name} {called}", len(queries), "queries", quiet=quiet) as progress:
            answers = answer_queries(
                writer,
                grounder,
                queries,
                source=f"writer:{name}",
                sampling=Sampling(GREEDY.temperature, max_new_tokens),
                folder=stage.scratch / split,
                progress=progress,
            )
        posts = corpus.splits[split]
        said[split] = as_written(predictions_of(posts, queries, answers))
        stage.note(answers)
        score = score_isr(posts, said[split]).to_json()
        scores[called] = score | {"verdicts": verdicts_of(corpus, cases, answers)}
    with stage.write_folder(f"predictions/{name}") as folder:
        for split, predictions in said.items():
            write_predictions(folder / f"{split}.jsonl", predictions)
    stage.write_json(f"evaluations/{name}.json", scores)


def verdicts_of(
    corpus: Corpus, cases: Sequence[Case], answers: Sequence[Answer | Failure]
) -> dict[str, int] | None:
    """What the expressions for groundable queries meant; None where the world is not known.

    `absent` counts those that wrongly say so.
    """
    if corpus.judge is None:
        return None
    counts: Counter[str] = Counter()
    for case, answer in zip(cases, answers, strict=True):
        if isinstance(answer, Failure) or not case.entity.groundable:
            continue
        text = answer.expression.text
        absent = answer.expression.absent
        counts["absent" if absent else corpus.judge(case.query.id, text)] += 1
    return dict(sorted(counts.items()))


def floors(corpus: Corpus) -> dict[str, Any]:
    """What answers without looking score on each evaluated split, by floor."""
    sizes = corpus.sizes_wh_px
    person = mean_person_norm(corpus.splits["train"], sizes)
    table: dict[str, Any] = {}
    for split, called in NAMES.items():
        scores = score_floors(corpus.splits[split], sizes, person)
        table[called] = {name: score.to_json()["accuracy"] for name, score in scores.items()}
    return table
