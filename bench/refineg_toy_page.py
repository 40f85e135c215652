"""The page docs/results/refineg-toy.md and its plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev

import numpy as np
from refineg_toy_runs import ALONE, DRAWS, FULL, SPLITS, Measured, Routed, Run, Shown

from groundling.metrics import Floats, f1_scores, ratios
from groundling.report.line_chart import LineChart, Series, common_range, draw_lines
from groundling.report.panel import Panel, sheet, styles
from groundling.report.routing_chart import SHARES, Interval, routing_panel
from groundling.scoring.align import align
from groundling.scoring.resample import (
    Difference,
    bootstrap_sums,
    paired_difference,
    percentile_interval,
)
from groundling.scoring.rule import GMNER, MNER, Task, Unit
from groundling.scoring.span import RULE
from groundling.scoring.triples import triple_counts

RESAMPLES = 1000
_NAMES = {"dev": "validation", "test": "test"}
_TOLD = (1, 2, 3, 4, 5, 7)
"""Places of SHARES that the table of routing tells."""


def page(measured: Measured) -> Iterator[str]:
    """The lines of the page."""
    yield "# ReFineG on the embedded world"
    yield ""
    yield (
        "Made by `python bench/refineg_toy.py --page docs/results/refineg-toy.md` from "
        "`recipes/refineg-toy.yaml`; no figure on this page is typed."
    )
    yield ""
    yield from _setting(measured)
    yield from _ablation(measured)
    yield from _tagger(measured)
    yield from _routing(measured)
    yield from _examples(measured)
    yield from _search(measured)


def plots(measured: Measured) -> dict[str, str]:
    """SVG by file name."""
    return {
        "calls.svg": sheet(_call_panels(measured), styles(), 2),
        "examples.svg": sheet(_example_panels(measured), styles(), 2),
    }


def _setting(measured: Measured) -> Iterator[str]:
    config = measured.config
    assert config.simulator is not None
    runs = measured.runs[FULL.name]
    posts = mean(len(run.test) for run in runs)
    entities = mean(sum(len(post.entities) for post in run.test) for run in runs)
    yield (
        f"{config.data.labelled} labelled posts, a BiLSTM-CRF trained from scratch, and, in the "
        "place of a frozen multimodal LLM, a simulated annotator that is right "
        f"{100 * config.simulator.skill:.0f} times in a hundred. What it gets wrong is decided by "
        "a digest of what it is asked about: it is never told a confidence. Where an entity is in "
        "a picture it does not know; it looks for what the boxes of the solved examples show. So "
        "the page shows whether the stages do what they are for, not how much a real LLM and real "
        "pictures would gain."
    )
    yield ""
    yield (
        f"Rule `span`, in percent, mean ± standard deviation of seeds "
        f"{', '.join(map(str, measured.seeds))}; each seed draws its own world, with "
        f"{posts:.0f} test posts and {entities:.0f} entities on average. Differences are in "
        "points, the counts of all seeds together, with 95 % paired bootstrap intervals over test "
        "posts: they cover the draw of test posts, not that of training runs. Epochs, temperature "
        "and threshold were chosen on validation."
    )
    yield ""


# ---------------------------------------------------------------------------------------- ablation


def _ablation(measured: Measured) -> Iterator[str]:
    yield "## What each stage is worth (ReFineG's Figure 4)"
    yield ""
    yield (
        "One part at a time is taken away. Calls: questions of synthesis, mentions of test asked "
        "about, mentions of test grounded; mean of the seeds."
    )
    yield ""
    yield (
        "| | MNER F1 | GMNER F1 | GMNER, all of it minus this | synthesis | refinement "
        "| grounding |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, runs in measured.runs.items():
        cells = [
            _spread([_f1(run, "grounded", task) for run in runs]) for task in ("mner", "gmner")
        ]
        gain = "" if name == FULL.name else _words(_difference(measured, name, "gmner"))
        calls = [f"{mean(column):.0f}" for column in zip(*map(_calls, runs), strict=True)]
        yield f"| {name} | " + " | ".join([*cells, gain, *calls]) + " |"
    yield ""
    for name in list(measured.runs)[1:]:
        found = [_difference(measured, name, task) for task in ("mner", "gmner")]
        told = [
            f"{task} {_verdict(one)}" for task, one in zip(("MNER", "GMNER"), found, strict=True)
        ]
        yield f"- **{FULL.name} against {name}**: {', '.join(told)}."
    yield ""
    dev = mean(run.metrics["refinement"]["validation_mentions"] for run in measured.runs[FULL.name])
    budget = measured.config.refinement.budget if measured.config.refinement else 0.0
    yield (
        "“Without selection” shows examples at random, “zero-shot” none; “nothing grounded” says "
        "of every mention that it is not in the picture. The threshold of refinement was chosen "
        f"on validation within {100 * budget:.0f} % of its {dev:.0f} mentions; all of them were "
        "asked about, once, for the curve below."
    )
    yield ""


def _calls(run: Run) -> tuple[int, int, int]:
    synthesis, boxes = run.metrics["synthesis"], run.metrics["grounding"]
    grounded = (
        boxes["boxes"] + boxes["absent"] if (run.folder / "answers/grounding").exists() else 0
    )
    return synthesis["questions"], run.metrics["refinement"]["asked"], grounded


def _difference(measured: Measured, other: str, task: str) -> Difference:
    sides = [_counts(measured.runs[name], task) for name in (FULL.name, other)]
    return paired_difference(sides[0], sides[1], f1_scores, RESAMPLES, 0)


def _counts(runs: Sequence[Run], task: str) -> Floats:
    """Right, predicted and gold of every test post of all seeds, (P, 3)."""
    wanted: dict[Task, Unit] = {GMNER if task == "gmner" else MNER: "span"}
    found = [triple_counts(align(run.test, run.said), RULE, wanted)[:, 0] for run in runs]
    return np.concatenate(found)


# ------------------------------------------------------------------------------------------ tagger


def _tagger(measured: Measured) -> Iterator[str]:
    yield "## Synthesis and the tagger"
    yield ""
    full, alone = (measured.runs[name] for name in (FULL.name, ALONE.name))
    kept = mean(run.metrics["synthesis"]["kept"] for run in full)
    offered = mean(run.metrics["synthesis"]["offered"] for run in full)
    yield (
        f"The same labelled posts, with the {kept:.0f} sentences that the screen let through of "
        f"{offered:.0f} offered, and without any. Without synthesis training went on for "
        f"{ALONE.changes['tuning.epochs']} epochs instead of {measured.config.tuning.epochs}, for "
        "there are fewer posts an epoch; the best epoch on validation counts for both."
    )
    yield ""
    yield "| | tagger's MNER F1 | after refinement | mentions asked about |"
    yield "|---|---:|---:|---:|"
    for name, runs in (("with synthesis", full), (ALONE.name, alone)):
        cells = [
            _spread([_f1(run, stage, "mner") for run in runs]) for stage in ("tagger", "refined")
        ]
        asked = [run.metrics["refinement"] for run in runs]
        share = 100 * sum(one["asked"] for one in asked) / sum(one["mentions"] for one in asked)
        yield f"| {name} | " + " | ".join([*cells, f"{share:.0f} %"]) + " |"
    yield ""
    sides = [_tagged(runs) for runs in (full, alone)]
    gain = paired_difference(sides[0], sides[1], f1_scores, RESAMPLES, 0)
    yield f"- **The tagger with synthesis against without**: {_verdict(gain)}."
    yield ""


def _tagged(runs: Sequence[Run]) -> Floats:
    """Counts of what the tagger alone said of test, (P, 3)."""
    found = [triple_counts(align(run.test, run.tagged), RULE, {MNER: "span"})[:, 0] for run in runs]
    return np.concatenate(found)


# ----------------------------------------------------------------------------------------- routing


def _routing(measured: Measured) -> Iterator[str]:
    yield "## Which mentions to ask about"
    yield ""
    yield (
        "Every mention was asked about once; the curves say what F1 comes to where only a share of "
        "the answers is used: those about the least certain mentions, or about any (the mean over "
        f"{DRAWS} random orders a seed). Bands are 95 % bootstrap intervals over posts."
    )
    yield ""
    yield "![MNER F1 against the share of mentions asked about](refineg-toy/calls.svg)"
    yield ""
    yield (
        "| asked about | validation: least certain | random | difference | test: least certain "
        "| random | difference |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    sides = {split: _pooled(measured.routed[split]) for split in SPLITS}
    for place in _TOLD:
        cells = []
        for uncertain, by_chance in sides.values():
            pair = uncertain[:, place], by_chance[:, place]
            cells += [f"{100 * f1_scores(one.sum(axis=0)):.2f}" for one in pair]
            cells.append(_words(paired_difference(*pair, f1_scores, RESAMPLES, 0)))
        yield f"| {100 * SHARES[place]:.0f} % | " + " | ".join(cells) + " |"
    yield ""
    for split, (uncertain, by_chance) in sides.items():
        flat = (one.reshape(len(one), -1) for one in (uncertain, by_chance))
        area = paired_difference(*flat, _area, RESAMPLES, 0)
        yield (
            f"- **Uncertainty against random order, mean F1 over all shares, {_NAMES[split]}**: "
            f"{_verdict(area)}."
        )
    uncertain = sides["test"][0]
    last = paired_difference(uncertain[:, -1], uncertain[:, 0], f1_scores, RESAMPLES, 0)
    yield f"- **Asking about every mention of test against about none**: {_verdict(last)}."
    yield ""


def _pooled(routed: Sequence[Routed]) -> tuple[Floats, Floats]:
    return (
        np.concatenate([one.uncertain for one in routed]),
        np.concatenate([one.by_chance for one in routed]),
    )


def _area(counts: Floats) -> Floats:
    """Mean F1 over the shares, by trapezoids: counts (..., S · 3) → (...)."""
    f1 = f1_scores(counts.reshape(*counts.shape[:-1], len(SHARES), 3))
    return np.asarray(((f1[..., 1:] + f1[..., :-1]) / 2).mean(axis=-1))


def _call_panels(measured: Measured) -> list[Panel]:
    panels = []
    for split in SPLITS:
        sides = _pooled(measured.routed[split])
        levels = [(100 * f1_scores(one.sum(axis=0))).tolist() for one in sides]
        panels.append(
            routing_panel(
                f"MNER F1, {_NAMES[split]}",
                levels[0],
                levels[1],
                (_bands(sides[0]), _bands(sides[1])),
            )
        )
    return panels


def _bands(counts: Floats) -> list[Interval]:
    drawn = f1_scores(bootstrap_sums(counts, RESAMPLES, 0))
    found = [percentile_interval(100 * drawn[:, place]) for place in range(len(SHARES))]
    return [pair for pair in found if pair is not None]


# ---------------------------------------------------------------------------------------- examples


def _examples(measured: Measured) -> Iterator[str]:
    yield "## Which examples to show"
    yield ""
    few, many = _pools(measured)
    yield (
        "Gold mentions of test are grounded, so that nothing but the examples differs: the K "
        f"nearest, K at random, none. The pool holds the {few} labelled posts, or all "
        f"{mean(measured.train_posts):.0f} training posts, as if they were labelled. An answer is "
        "right where it and the gold say absent, or IoU > 0.5."
    )
    yield ""
    yield "![Grounding accuracy by number of examples](refineg-toy/examples.svg)"
    yield ""
    yield (
        "| pool | examples | all | in the picture | not in the picture | nearest minus random, "
        "all | in the picture |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|"
    for pool, words in ((few, f"{few} posts"), (many, "all posts")):
        for way in (one for one in measured.shown if one.labelled == pool):
            counts = measured.shown[way]
            cells = [
                _spread([100 * float(ratios(seed[:, part].sum(axis=0))) for seed in counts])
                for part in range(3)
            ]
            if way.choose == "similarity" and way.examples:
                other = Shown(pool, "random", way.examples)
                cells += [_words(_apart(measured, way, other, part)) for part in (0, 1)]
            else:
                cells += ["", ""]
            yield f"| {words} | {_name(way)} | " + " | ".join(cells) + " |"
    yield ""
    k = measured.config.in_context.examples
    for pool, words in ((few, f"the {few} labelled posts"), (many, "all training posts")):
        near = Shown(pool, "similarity", k)
        for other in (Shown(pool, "random", k), Shown(pool, "similarity", 0)):
            told = [
                f"{part} {_verdict(_apart(measured, near, other, index))}"
                for index, part in enumerate(
                    ("all mentions", "in the picture", "not in the picture")
                )
            ]
            yield f"- **{_name(near)} against {_name(other)}, from {words}**: {'; '.join(told)}."
    yield ""


def _pools(measured: Measured) -> tuple[int | None, int | None]:
    return measured.config.data.labelled, None


def _apart(measured: Measured, this: Shown, other: Shown, part: int) -> Difference:
    first, second = (np.concatenate(measured.shown[way])[:, part] for way in (this, other))
    return paired_difference(first, second, ratios, RESAMPLES, 0)


def _name(way: Shown) -> str:
    if not way.examples:
        return "zero-shot"
    return f"{way.examples} {'nearest' if way.choose == 'similarity' else 'at random'}"


def _example_panels(measured: Measured) -> list[Panel]:
    few, many = _pools(measured)
    examples = sorted({way.examples for way in measured.shown})
    drawn: dict[str, list[Series]] = {}
    for pool, words in ((few, f"{few} posts"), (many, "all posts")):
        rows = {}
        for choose in ("similarity", "random"):
            ways = [Shown(pool, choose if k else "similarity", k) for k in examples]
            rows[choose] = [_accuracy(measured.shown[way]) for way in ways]
        drawn[f"Accuracy, in the picture, pool of {words}"] = [
            _series("nearest", rows["similarity"], "a"),
            _series("random", rows["random"], "b", dashed=True),
        ]
    levels = [[v for s in series for v in s.values] for series in drawn.values()]
    places = [str(k) for k in examples]
    top = max(
        end for series in drawn.values() for s in series for pair in s.band for end in pair or ()
    )
    ((low, high),) = common_range([[0.0, top, *(v for row in levels for v in row)]])
    return [
        draw_lines(LineChart(title, places, series, low, high, across="examples shown, K"))
        for title, series in drawn.items()
    ]


def _accuracy(counts: Sequence[Floats]) -> tuple[float, Interval]:
    """Of mentions that are in the picture, all seeds together, with the bootstrap interval."""
    table = np.concatenate(counts)[:, 1]
    drawn = percentile_interval(100 * ratios(bootstrap_sums(table, RESAMPLES, 0)))
    level = 100 * float(ratios(table.sum(axis=0)))
    return level, drawn or (level, level)


def _series(
    label: str, rows: Sequence[tuple[float, Interval]], style: str, dashed: bool = False
) -> Series:
    values, bands = [row[0] for row in rows], [row[1] for row in rows]
    return Series(label, values, style, bands, dashed=dashed, told=not dashed)


# ------------------------------------------------------------------------------------------ search


def _search(measured: Measured) -> Iterator[str]:
    yield "## How the settings were chosen"
    yield ""
    yield (
        f"On validation posts, with seed {measured.search_seed}, whose test posts are not on this "
        "page; the table tells the tagger's MNER F1 there. The world's own posts are too easy for "
        "a comparison: the words around a name give its type away. So they were made to fit any "
        "type (`vague`), sentences were cut to one a question, and the labelled posts to as many "
        "as leave the tagger something to learn from synthesis and from being corrected. Fewer "
        "posts with a less able annotator were tried and left: examples from so few posts hold "
        "few of the names, and grounding by them was worse than saying “absent” of everything. "
        "Nothing was chosen on test."
    )
    yield ""
    yield "| labelled posts | words that fit any type | with synthesis | without |"
    yield "|---:|---:|---:|---:|"
    for (labelled, vague), (with_it, without) in measured.search.items():
        yield f"| {labelled} | {100 * vague:.0f} % | {with_it:.2f} | {without:.2f} |"


# ------------------------------------------------------------------------------------------- words


def _f1(run: Run, stage: str, task: str) -> float:
    return float(run.metrics["test"][stage]["span"][task]["f1"])


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{deviation}"


def _words(difference: Difference) -> str:
    if difference.value is None or difference.interval is None:
        return "–"
    low, high = (100 * end for end in difference.interval)
    return f"{100 * difference.value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _verdict(difference: Difference) -> str:
    """`better, +2.89 [+2.39, +3.36]`; a tie where the interval holds 0."""
    if difference.interval is None:
        return "not compared"
    low, high = difference.interval
    said = "better" if low > 0 else "worse" if high < 0 else "a tie"
    return f"{said}, {_words(difference)}"
