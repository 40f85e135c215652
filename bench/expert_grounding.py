"""How often a grounder finds what expert expressions mean, before and after fine-tuning on experts.

    python bench/expert_grounding.py RUN [--page PAGE]

RUN is a finished run on the embedded world. Acc@0.5 on the expert expressions of its test split
(never trained on), by family of expression, for the grounder that ships and the one that the run
fine-tuned. Prints a Markdown page, or writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from groundling.config import GrounderConfig, IsrConfig
from groundling.corpus import Corpus, read_world
from groundling.errors import GroundlingError
from groundling.models.registry import open_grounder
from groundling.records import Failure
from groundling.rundir import stored_config
from groundling.toyworld.annotator import FAMILIES, family_of
from groundling.toyworld.language import parse
from groundling.workbench import WORLD


def expert_requests(corpus: Corpus) -> list[tuple[str, str]]:
    """(picture, expert expression) of every groundable test query."""
    assert corpus.annotate is not None
    return [
        (case.query.image, corpus.annotate(case.query.id).text)
        for case in corpus.cases("test")
        if case.entity.groundable
    ]


def hits(corpus: Corpus, folder: Path | None) -> list[bool]:
    """For each request, whether the grounder's box and the largest gold box have IoU > 0.5."""
    golds = [case.entity.largest_box for case in corpus.cases("test") if case.entity.groundable]
    found = open_grounder(GrounderConfig(), folder).ground(expert_requests(corpus))
    return [
        not isinstance(answer, Failure) and gold is not None and answer.box.iou(gold) > 0.5
        for answer, gold in zip(found, golds, strict=True)
    ]


def page(run: Path) -> Iterator[str]:
    """The lines of the page."""
    config = stored_config(run, IsrConfig)
    corpus = read_world(run / WORLD, config.seed)
    phrases = [parse(text) for _, text in expert_requests(corpus)]
    families = [family_of(phrase) if phrase is not None else "" for phrase in phrases]
    before, after = hits(corpus, None), hits(corpus, run / "grounder")
    yield "# The tiny grounder on expert expressions"
    yield ""
    yield (
        f"Made by `python bench/expert_grounding.py RUN` from a run of seed {config.seed}; no "
        "figure on this page is typed. Acc@0.5 in percent on the expert expressions of the test "
        "split, as shipped and after the run fine-tuned it on the training experts (eq. 2)."
    )
    yield ""
    yield "| family | expressions | as shipped | fine-tuned |"
    yield "|---|---:|---:|---:|"
    for family in [*FAMILIES, "all"]:
        rows = [i for i, name in enumerate(families) if family == "all" or name == family]
        if not rows:
            continue
        shares = [100 * sum(answer[i] for i in rows) / len(rows) for answer in (before, after)]
        yield f"| {family} | {len(rows)} | {shares[0]:.2f} | {shares[1]:.2f} |"


def main() -> None:
    """Print the page or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    try:
        text = "\n".join(page(options.run)) + "\n"
    except GroundlingError as fault:
        parser.error(str(fault))
    if options.page is None:
        print(text, end="")
    else:
        options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
