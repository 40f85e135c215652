"""What asking about uncertain mentions is worth on real posts: docs/results/routing-text.md.

    python bench/routing_text.py RUN SOURCE [--page PAGE] [--draws N]

RUN is a run of `groundling tagger fit` on SOURCE, the Twitter-GMNER release. Its mentions of dev
and test are asked about in the order of their uncertainty and in random orders; an oracle of stated
accuracy (`routing_oracle.py`) answers in the multimodal LLM's place. Nothing is trained: a stopped
call is simply made again. Prints a Markdown page, or writes it, with its figures in a folder of the
same name beside it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
from routing_study import REACH, Draw, Study, Tagged, mean_curve, read_tagged, study, within

from groundling.atomic import write_bytes
from groundling.config_gmner import TaggingConfig
from groundling.errors import GroundlingError
from groundling.metrics import Floats
from groundling.records import SCHEMES
from groundling.report.line_chart import LineChart, Series, draw_lines
from groundling.report.panel import sheet
from groundling.routing import Curve
from groundling.rundir import stored_config

ACCURACIES = (0.6, 0.7, 0.8, 0.9, 1.0)
DRAWN = (0.7, 0.8, 0.9, 1.0)
"""Accuracies that have a panel in the figures."""
TOLD = 0.8
"""The accuracy that the summary tells of."""
BUDGETS = (0.1, 0.3, 0.5, 1.0)
"""Most calls on dev, as shares of its mentions; the summary tells of the second."""
PLACES = tuple(range(0, 101, 10))
"""Shares of calls in the figures and tables, in percent."""
GRID = 5
"""Points of F1 that the figures' range is rounded to."""


# -------------------------------------------------------------------------------------------- page


def page(
    run_name: str, dev: Tagged, test: Tagged, studies: Sequence[Study], figures: str
) -> Iterator[str]:
    """The lines of the page; `figures` is the folder of its figures, as the page names it."""
    tagger = test.counts(test.mentions)
    precision = 100 * tagger.right / tagger.predicted
    draws = len(studies[0].test)
    yield "# Asking about uncertain mentions, on Twitter-GMNER"
    yield ""
    yield (
        "Made by `python bench/routing_text.py RUN SOURCE --page docs/results/routing-text.md`; no "
        "figure of ours on this page is typed."
    )
    yield ""
    yield (
        f"The tagger is {run_name}; it finds {dev.total} mentions in the {len(dev.posts)} dev "
        f"posts of v2 and {test.total} in the {len(test.posts)} test posts, {precision:.1f} % of "
        f"the latter right; its F1 there (words and type, rule `span`) is {100 * tagger.f1:.2f}. "
        "Mentions go by uncertainty, one minus the calibrated probability, or in random order to "
        "an **oracle** in the multimodal LLM's place. It knows the gold entities and is right "
        "about a mention with the probability stated, whatever the tagger's confidence. **This "
        "measures routing, not any LLM**: a real one may err where the tagger does, and routing "
        "is worth less then."
    )
    yield ""
    yield (
        "Right is what refinement can do: the gold entity that shares a word with the mention, if "
        f"its ends are within {REACH} words of the mention's, else to drop it. What the tagger "
        "missed stays missed. Where the oracle errs, it confirms what is no entity; an entity it "
        "drops, or gives another type, or leaves as wrong as it was, or, where the tagger was "
        "right, moves its end by a word, each as likely. Its answers are read and put in place by "
        f"the code of `groundling refineg`. All figures are means of {draws} oracles, each with a "
        "random order of its own."
    )
    yield ""
    yield summary(test, studies)
    yield ""
    yield f"![F1 on test against the share of calls]({figures}/test.svg)"
    yield ""
    yield (
        "By uncertainty and in random order; bands reach over all draws. The same on dev: "
        f"[{figures}/dev.svg]({figures}/dev.svg)."
    )
    yield ""
    for split in ("test", "dev"):
        yield from _curves(split, studies)
    yield from _budgets(test, studies)
    yield from _crossings(precision, studies)


def summary(test: Tagged, studies: Sequence[Study]) -> str:
    """The figures of one accuracy and budget, in a sentence."""
    one = min(studies, key=lambda study: abs(study.accuracy - TOLD))
    used = within(test, one, BUDGETS[1])
    f1 = mean_curve([draw.by_uncertainty for draw in one.test])
    return (
        f"**With an oracle that is right {share(one.accuracy)} of the time and the threshold "
        f"chosen on dev for at most {share(BUDGETS[1])} of calls, F1 on test goes from {f1[0]:.2f} "
        f"to {used.f1:.2f}**; as many calls at random make it {used.at_random:.2f}, asking about "
        f"everything {f1[-1]:.2f}."
    )


def share(part: float) -> str:
    """A share in whole percent."""
    return f"{100 * part:.0f} %"


def _curves(split: str, studies: Sequence[Study]) -> Iterator[str]:
    yield f"## F1 on {split} by share of calls"
    yield ""
    yield "| right | order | " + " | ".join(f"{place} %" for place in PLACES) + " |"
    yield "|---|---|" + "---:|" * len(PLACES)
    for one in studies:
        draws = one.test if split == "test" else one.dev
        for name, curves in (
            ("uncertainty", [draw.by_uncertainty for draw in draws]),
            ("random", [draw.at_random for draw in draws]),
        ):
            cells = [f"{np.mean(_at(curves, place)):.2f}" for place in PLACES]
            yield f"| {share(one.accuracy)} | {name} | " + " | ".join(cells) + " |"
    yield ""


def _at(curves: Sequence[Curve], place: int) -> Floats:
    """(draws,) F1 in percent at a share of calls in percent."""
    return np.array([100 * curve.at(place / 100) for curve in curves])


def _budgets(test: Tagged, studies: Sequence[Study]) -> Iterator[str]:
    yield "## The threshold of dev, on test"
    yield ""
    yield (
        "For each budget the threshold of the best F1 on dev is used on test. Calls in percent of "
        "the mentions; random is the random order with as many calls."
    )
    yield ""
    yield "| right | budget | threshold | calls on test | F1 on test | random |"
    yield "|---|---:|---:|---:|---:|---:|"
    for one in studies:
        for budget in BUDGETS:
            used = within(test, one, budget)
            yield (
                f"| {share(one.accuracy)} | {share(budget)} | {used.threshold:.3f} | "
                f"{used.calls:.1f} | {used.f1:.2f} | {used.at_random:.2f} |"
            )
    yield ""


def _crossings(precision: float, studies: Sequence[Study]) -> Iterator[str]:
    yield "## When asking about everything hurts"
    yield ""
    yield (
        "On test: the best share of calls by uncertainty in hindsight, what asking about "
        "everything brings, and from which share of calls on uncertainty gives as much as "
        "everything or more; 0 % says that asking nobody does."
    )
    yield ""
    yield "| right | best share | gain there | gain at 100 % | as good as 100 % from |"
    yield "|---|---:|---:|---:|---:|"
    for one in studies:
        f1 = mean_curve([draw.by_uncertainty for draw in one.test])
        best, calls = int(np.argmax(f1)), len(f1) - 1
        enough = int(np.argmax(f1 >= f1[-1]))
        yield (
            f"| {share(one.accuracy)} | {100 * best / calls:.1f} % | {f1[best] - f1[0]:+.2f} | "
            f"{f1[-1] - f1[0]:+.2f} | {100 * enough / calls:.1f} % |"
        )
    yield ""
    yield break_even(precision, studies)


def break_even(precision: float, studies: Sequence[Study]) -> str:
    """From which accuracy on asking about everything pays, in a sentence."""
    ends = [mean_curve([draw.by_uncertainty for draw in one.test])[[0, -1]] for one in studies]
    gains = [float(after - before) for before, after in ends]
    pairs = list(zip([100 * one.accuracy for one in studies], gains, strict=True))
    beside = f"the tagger's precision is {precision:.1f} %"
    for (low, loss), (high, gain) in pairwise(pairs):
        if loss < 0 <= gain:
            level = low + (high - low) * -loss / (gain - loss)
            return (
                f"Asking about everything leaves F1 as it is at an accuracy of {level:.1f} % "
                f"(between {low:.0f} and {high:.0f} %, on a straight line); {beside}."
            )
    word = "pays" if gains[0] >= 0 else "hurts"
    return f"Asking about everything {word} at all of these accuracies; {beside}."


# ----------------------------------------------------------------------------------------- figures


def figure(split: str, studies: Sequence[Study]) -> str:
    """F1 against the share of calls, a panel for each of the accuracies in DRAWN, scaled alike."""
    shown = [one for one in studies if one.accuracy in DRAWN]
    lines = [_lines(one.test if split == "test" else one.dev) for one in shown]
    ends = np.array([series.band for panel in lines for series in panel])
    low, high = GRID * math.floor(ends.min() / GRID), GRID * math.ceil(ends.max() / GRID)
    panels = [
        draw_lines(
            LineChart(
                f"F1 (%) by calls (%): {share(one.accuracy)} right, {split}",
                [str(place) for place in PLACES],
                series,
                low,
                high,
                mark=int(np.argmax([value or 0.0 for value in series[0].values])),
                mark_label="best",
            )
        )
        for one, series in zip(shown, lines, strict=True)
    ]
    css = resources.files("groundling").joinpath("templates/chart.css").read_text(encoding="utf-8")
    return sheet(panels, css, columns=2)


def _lines(draws: Sequence[Draw]) -> list[Series]:
    made = []
    for label, style, curves in (
        ("by uncertainty", "a", [draw.by_uncertainty for draw in draws]),
        ("random order", "b", [draw.at_random for draw in draws]),
    ):
        values = [_at(curves, place) for place in PLACES]
        means = [float(np.mean(one)) for one in values]
        band = [(float(np.min(one)), float(np.max(one))) for one in values]
        made.append(Series(label, means, style, band, dashed=style == "b", told=style == "a"))
    return made


# ------------------------------------------------------------------------------------------- calls


def tagger_name(config: TaggingConfig) -> str:
    """A tagger in a few words."""
    tagger = config.tagger
    names = {"encoder": tagger.path or "MiniLM", "bilstm": "BiLSTM"}
    if tagger.backend not in names:
        return f"{tagger.backend}, {tagger.path}, seed {config.seed}"
    head = "CRF" if tagger.head == "crf" else "linear head"
    beside = tagger.backend == "encoder" and tagger.characters
    extras = ["characters"] * beside + ["knowledge"] * tagger.knowledge
    return ", ".join([f"{names[tagger.backend]} with a {head}", *extras, f"seed {config.seed}"])


def main() -> None:
    """Ask, then print the page or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    if options.draws < 1:
        parser.error(f"--draws: got {options.draws}; wanted at least 1")
    try:
        config = stored_config(options.run, TaggingConfig)
        scheme = SCHEMES[config.scheme]
        dev, test = (
            read_tagged(options.run, options.source, split, scheme) for split in ("dev", "test")
        )
    except GroundlingError as fault:
        parser.error(str(fault))
    studies = [study(dev, test, scheme, accuracy, options.draws) for accuracy in ACCURACIES]
    folder = "routing-text" if options.page is None else options.page.stem
    text = "\n".join(page(tagger_name(config), dev, test, studies, folder)) + "\n"
    if options.page is None:
        print(text, end="")
        return
    for split in ("test", "dev"):
        path = options.page.parent / folder / f"{split}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, figure(split, studies).encode())
    write_bytes(options.page, text.encode())


if __name__ == "__main__":
    main()
