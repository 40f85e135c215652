"""What synthetic sentences are worth on CCKS, honestly and as released: docs/results/ccks.md.

    python bench/ccks_curve.py SOURCE [--out runs/ccks] [--page PAGE] [--seeds 0 1 2]

SOURCE is ccks-aug. Each seed splits the labelled posts, screens the sentences that were made near
them and trains a tagger with 0, 100, 500 and all of these; and again with sentences of the train
that was released, which hold the released dev. Every run is a run directory below --out, so a
stopped call goes on with the same command. Prints a Markdown page, or writes it, with its figure in
a folder of the same name beside it.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

from ccks_data import (
    GROUP,
    SCORED,
    Prepared,
    Release,
    Size,
    kept_names,
    prepare,
    read_release,
    shared_texts,
)

from groundling.atomic import write_bytes
from groundling.config_gmner import TaggingConfig
from groundling.data.jsonl import read_posts
from groundling.data.leaks import format_leaks
from groundling.errors import GroundlingError
from groundling.records import CCKS, Post
from groundling.report.line_chart import LineChart, Series, draw_lines
from groundling.report.panel import sheet
from groundling.settings import load_config
from groundling.synthesis.origins import SHARE
from groundling.tagging import run_tagging

RECIPE = Path(__file__).parents[1] / "recipes" / "gmner" / "ccks-bilstm-crf.yaml"
SIZES: tuple[Size, ...] = (0, 100, 500, None)
T = TypeVar("T")
UPDATES, LEAST, MOST = 1200, 4, 40
"""Optimiser steps that a run's epochs come to, and how many epochs that may be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run: sentences learnt from, F1 in percent and texts seen in train by split."""

    sentences: int
    f1: dict[str, float]
    seen: dict[str, int]
    epochs: int


@dataclass(frozen=True, slots=True)
class Seed:
    """What a seed came to, by size: with screened sentences, and with those that were released."""

    prepared: Prepared
    honest: dict[Size, Outcome]
    leaky: dict[Size, Outcome]


class Runs:
    """Run directories below a folder, for the release."""

    def __init__(
        self, release: Release, out: Path, recipe: Path = RECIPE, quiet: bool = False
    ) -> None:
        self._release, self._out, self._recipe, self._quiet = release, out, recipe, quiet

    def seed(self, seed: int) -> Seed:
        """Make every run of a seed, or go on with it."""
        folder = self._out / f"seed-{seed}"
        prepared = prepare(self._release, seed, folder / "screening")

        def outcome(name: str, made: Sequence[Post], size: Size) -> Outcome:
            place = folder / f"{name}-{'all' if size is None else size}"
            return self._run(place, prepared.write(place / "posts", made, size, seed), seed)

        honest = {size: outcome("honest", prepared.synthetic, size) for size in SIZES}
        published = self._release.published
        leaky = {size: outcome("published", published, size) for size in SIZES if size != 0}
        return Seed(prepared, honest, {0: honest[0]} | leaky)

    def _run(self, place: Path, sentences: int, seed: int) -> Outcome:
        splits = ["held-out", "released"]
        posts = {
            name: read_posts(place / f"posts/{name}.jsonl", scheme=CCKS).posts
            for name in ("train", *splits)
        }
        changes = {
            "data.source": str(place / "posts"),
            "seed": seed,
            "evaluate": splits,
            "tuning.epochs": epochs_for(len(posts["train"]), self._recipe),
        }
        config = load_config(TaggingConfig, self._recipe, changes)
        metrics = run_tagging(config, place / "run", quiet=self._quiet)
        scores = metrics["scores"]
        return Outcome(
            sentences,
            {name: scores[name]["rules"]["span"]["mner"]["f1"] for name in splits},
            {name: shared_texts(posts[name], posts["train"]) for name in splits},
            len(metrics["fit"]["dev_mner_f1"]),
        )


def epochs_for(posts: int, recipe: Path) -> int:
    """Epochs over so many posts that come to UPDATES steps, within LEAST and MOST."""
    config = load_config(TaggingConfig, recipe, {"data.source": "-"})
    batch = config.tuning.batch_size if config.tuning else 1
    return min(MOST, max(LEAST, round(UPDATES * batch / posts)))


@dataclass(frozen=True, slots=True)
class Column:
    """What is scored: a split, by which runs of a seed, and its line in the figure."""

    name: str
    runs: str
    split: str
    style: str

    @property
    def leaks(self) -> bool:
        """Whether its runs learn from sentences as they were released."""
        return self.runs == "leaky"


COLUMNS = (
    Column("held-out posts", "honest", "held-out", "a"),
    Column("held-out posts, leak", "leaky", "held-out", "a"),
    Column("released dev", "honest", "released", "c"),
    Column("released dev, leak", "leaky", "released", "c"),
)


def values(seeds: Sequence[Seed], column: Column, size: Size) -> list[float]:
    """F1 of each seed in percent."""
    return [getattr(seed, column.runs)[size].f1[column.split] for seed in seeds]


def seen(seeds: Sequence[Seed], column: Column, size: Size) -> float:
    """How many of the scored texts train holds, in percent, the mean of seeds."""
    return mean(
        100 * getattr(seed, column.runs)[size].seen[column.split] / len(scored(seed, column))
        for seed in seeds
    )


def scored(seed: Seed, column: Column) -> Sequence[Post]:
    """The posts that a column scores."""
    return seed.prepared.held_out if column.split == "held-out" else seed.prepared.released


# -------------------------------------------------------------------------------------------- page


def page(
    release: Release, seeds: Sequence[Seed], numbers: Sequence[int], figures: str
) -> Iterator[str]:
    """The lines of the page; `figures` is the folder of its figure, as the page names it."""
    yield "# Synthetic sentences on CCKS: what they are worth, and what the leak is"
    yield ""
    yield (
        "Made by `python bench/ccks_curve.py SOURCE --page docs/results/ccks.md`; no figure on "
        "this page is typed."
    )
    yield ""
    yield from _setting(release, seeds, numbers)
    yield "## F1 by number of synthetic sentences"
    yield ""
    yield from _curve(seeds)
    yield ""
    yield f"![F1 by number of synthetic sentences]({figures}/curve.svg)"
    yield ""
    yield from _reading(seeds)
    yield from _screening(seeds, numbers)
    yield "## Leaks of the release"
    yield ""
    yield "`groundling data leaks ccks-aug --scheme ccks --folded`:"
    yield ""
    yield "```text"
    yield format_leaks(release.leaks)
    yield "```"


def _setting(release: Release, seeds: Sequence[Seed], numbers: Sequence[int]) -> Iterator[str]:
    prepared = [seed.prepared for seed in seeds]
    config = load_config(TaggingConfig, RECIPE, {"data.source": "-"})
    sizes = {
        name: _range([len(getattr(one, name)) for one in prepared])
        for name in ("train", "dev", "held_out")
    }
    entities = _range([sum(len(post.entities) for post in one.held_out) for one in prepared])
    drawn = ", ".join(map(str, numbers))
    near_test, near_labelled = kept_names(release)
    yield (
        "ccks-aug tells its labelled posts from synthetic sentences by their order alone: its "
        f"train holds {len(release.labelled)} labelled posts, {len(release.made)} sentences made "
        f"near these, {GROUP} a post in another order, the test posts with tags of unknown origin, "
        "and sentences made near each test post. That it does can be seen by names: "
        f"{near_test.kept} of {near_test.groups} groups keep those of the test post of their "
        f"place, {near_labelled.kept} of {near_labelled.groups} those of some labelled post."
    )
    yield ""
    yield (
        "All figures are F1 of words and type (rule `span`) in percent, mean ± standard deviation "
        f"of seeds {drawn}; each seed draws its own split."
    )
    yield ""
    yield (
        f"- **Held-out posts**: of the labelled posts {sizes['held_out']} are held out "
        f"({entities} entities), {sizes['dev']} choose the epoch, {sizes['train']} are learnt "
        "from; no text, letter case folded, is on two sides. The sentences made near the labelled "
        "posts are screened like those that `groundling refineg` asks for, and against held-out "
        "posts: see below."
    )
    yield (
        f"- **Released dev**: the same taggers on {SCORED} posts drawn from the released dev, with "
        "the tags of the release. They are test posts and sentences made near these; no text is "
        "among the labelled posts and the sentences made near those."
    )
    yield (
        "- **Leak**: beside the same labelled posts, sentences drawn from the rest of the train "
        "that was released, as they are: among them all of the released dev, texts of held-out "
        "posts, and sentences made near them."
    )
    yield ""
    yield (
        f"The tagger is a BiLSTM-CRF from scratch (`recipes/gmner/{RECIPE.name}`); "
        f"its epochs come to {UPDATES} steps, at least {LEAST} and at most {MOST}, and "
        f"{config.patience} without a gain end it. The texts are English."
    )
    yield ""


def _curve(seeds: Sequence[Seed]) -> Iterator[str]:
    yield "In brackets: how many of the scored texts train holds."
    yield ""
    yield "| sentences | " + " | ".join(column.name for column in COLUMNS) + " |"
    yield "|---|" + "---:|" * len(COLUMNS)
    for size in SIZES:
        cells = [_cell(seeds, column, size) for column in COLUMNS]
        yield f"| {_size(seeds, size)} | " + " | ".join(cells) + " |"


def _cell(seeds: Sequence[Seed], column: Column, size: Size) -> str:
    f1 = _spread(values(seeds, column, size))
    return f"{f1} ({seen(seeds, column, size):.1f} %)" if column.leaks else f1


def _reading(seeds: Sequence[Seed]) -> Iterator[str]:
    honest, leaky, released, published = (values(seeds, column, None) for column in COLUMNS)
    gain = _difference(honest, values(seeds, COLUMNS[0], 0))
    yield (
        f"All screened sentences are worth {gain} points on held-out posts. The leak is worth "
        f"{_difference(published, released)} points on the released dev and "
        f"{_difference(leaky, honest)} on held-out posts. Not all of this is texts learnt by "
        "heart: sentences made near a scored post hold its names, and the released train is "
        "larger. The split as released flatters the tagger by "
        f"{_difference(published, honest)} points against held-out posts without a leak."
    )
    yield ""


def _screening(seeds: Sequence[Seed], numbers: Sequence[int]) -> Iterator[str]:
    told = [seed.prepared.told for seed in seeds]
    reasons = Counter[str]()
    for one in told:
        reasons.update(one["refused"])
    yield "## What the screen refused"
    yield ""
    yield (
        "By seed; held out are here the posts that choose the epoch, too. A group of "
        f"{GROUP} counts as written near a held-out post where all names of such a post stand in "
        f"{100 * SHARE:.0f} % of its sentences, and no post that is learnt from has as many there; "
        "groups without names cannot be told, their texts alone are compared."
    )
    yield ""
    yield "| | " + " | ".join(f"seed {number}" for number in numbers) + " |"
    yield "|---|" + "---:|" * len(numbers)
    rows: list[tuple[str, list[Any]]] = [
        ("sentences", [one["offered"] for one in told]),
        *((reason, [one["refused"].get(reason, 0) for one in told]) for reason in _often(reasons)),
        ("**stay**", [one["kept"] for one in told]),
        ("with the text of a held-out post", [one["held_out_texts"] for one in told]),
        (
            "groups near held-out posts",
            [f"{one['held_out_groups']} of {one['groups']}" for one in told],
        ),
        ("held-out texts in train after it", [s.honest[None].seen["held-out"] for s in seeds]),
        ("epochs with all of them", [seed.honest[None].epochs for seed in seeds]),
    ]
    for name, cells in rows:
        yield f"| {name} | " + " | ".join(map(str, cells)) + " |"
    yield ""


def _often(reasons: Counter[str]) -> list[str]:
    return [reason for reason, _ in reasons.most_common()]


def _size(seeds: Sequence[Seed], size: Size) -> str:
    if size is not None:
        return str(size)
    honest = _range([seed.honest[None].sentences for seed in seeds])
    return f"all: {honest}; released {_range([seed.leaky[None].sentences for seed in seeds])}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def _spread(numbers: Sequence[float], sign: str = "") -> str:
    deviation = f" ± {stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):{sign}.2f}{deviation}"


def _difference(these: Sequence[float], others: Sequence[float]) -> str:
    return _spread([one - other for one, other in zip(these, others, strict=True)], sign="+")


def figure(seeds: Sequence[Seed]) -> str:
    """F1 by number of synthetic sentences, a panel for each split; bands reach over the seeds."""
    places = ["all" if size is None else str(size) for size in SIZES]
    drawn = {column: [values(seeds, column, size) for size in SIZES] for column in COLUMNS}
    least = min(f1 for rows in drawn.values() for row in rows for f1 in row)
    low = max(0, 10 * math.floor(least / 10 - 0.5))
    panels = []
    for split in dict.fromkeys(column.split for column in COLUMNS):
        lines = [
            Series(
                "with the leak" if column.leaks else "without",
                [_from(column, size, mean(row)) for size, row in zip(SIZES, rows, strict=True)],
                column.style,
                [
                    _from(column, size, (min(row), max(row)))
                    for size, row in zip(SIZES, rows, strict=True)
                ],
                dashed=column.leaks,
                told=True,
            )
            for column, rows in drawn.items()
            if column.split == split
        ]
        title = f"F1 (%) by sentences: {split} posts"
        panels.append(draw_lines(LineChart(title, places, lines, low, 100)))
    css = resources.files("groundling").joinpath("templates/chart.css").read_text(encoding="utf-8")
    return sheet(panels, css)


def _from(column: Column, size: Size, value: T) -> T | None:
    """A value for the figure; without sentences nothing leaks, so those lines begin after that."""
    return None if column.leaks and size == 0 else value


def main() -> None:
    """Run what is missing, then print the page or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ccks"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    try:
        release = read_release(options.source)
        runs = Runs(release, options.out, quiet=options.quiet)
        seeds = [runs.seed(seed) for seed in options.seeds]
    except GroundlingError as fault:
        parser.error(str(fault))
    folder = "ccks" if options.page is None else options.page.stem
    text = "\n".join(page(release, seeds, options.seeds, folder)) + "\n"
    if options.page is None:
        print(text, end="")
        return
    path = options.page.parent / folder / "curve.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, figure(seeds).encode())
    write_bytes(options.page, text.encode())


if __name__ == "__main__":
    main()
