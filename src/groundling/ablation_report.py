"""The ablation as a Markdown page: every figure computed from the run directories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from groundling.ablate import Ablation, Outcome, compare_pooled
from groundling.scoring.resample import Difference

COLUMNS = ("PER", "LOC", "ORG", "MISC", "all")


def ablation_page(ablation: Ablation, command: str) -> str:
    """The page; `command` is what re-creates it."""
    return "\n".join(_lines(ablation, command)) + "\n"


def _lines(ablation: Ablation, command: str) -> Iterator[str]:
    main = ablation.variants["ISR"]
    rounds = len(main[0].metrics["stages"]) - 2
    seeds = ", ".join(str(outcome.seed) for outcome in main)
    first = main[0].stage("sft")["test"]
    yield "# ISR on the embedded world"
    yield ""
    yield f"Made by `{command}`; no figure on this page is typed."
    yield ""
    yield (
        f"Acc@0.5 in percent on test posts, mean of seeds {seeds}; each seed draws its own posts, "
        f"{first['queries']} test queries each. Learning rates and rounds were chosen on "
        "validation posts. A gain is in points over the SFT start of the same seed, with the "
        "two-sided p value of approximate randomisation and the 95 % interval of the same test, "
        "over the test posts of all seeds together. They cover the draw of test posts, not that "
        "of training runs: the last column shows how far seeds lie apart."
    )
    yield ""
    yield from _verdicts(ablation)
    yield "## SFT, full SFT and the rounds (the paper's Table 3)"
    yield ""
    yield from _header()
    floors = [outcome.metrics["floors"]["test"]["none"] for outcome in main]
    yield _floor_row("always absent (floor)", floors)
    yield _row("before fine-tuning", main, "untuned", None)
    yield _row("SFT (initialisation)", main, "sft", None)
    if "SFT (full)" in ablation.variants:
        yield _row("SFT (full)", ablation.variants["SFT (full)"], "sft", main)
    for t in range(1, rounds + 1):
        yield _row(f"ISR, round {t}", main, f"round-{t}", main)
    yield _row("ISR, round chosen on validation", main, "selected", main)
    yield ""
    yield from _section("Samples per prompt (the paper's Figure 4)", ablation, "K = ")
    yield from _section(
        "Where chosen expressions come from (the paper's Figure 3)", ablation, "no-"
    )
    yield from _searches(ablation)


def _header() -> Iterator[str]:
    yield (
        "| | PER | LOC | ORG | MISC | overall | groundable | ungroundable | gain | on groundable "
        "| overall by seed |"
    )
    yield "|---|" + "---:|" * 10


def _row(name: str, outcomes: Sequence[Outcome], stage: str, base: Sequence[Outcome] | None) -> str:
    tests = [outcome.stage(stage)["test"] for outcome in outcomes]
    cells = [_mean([test["accuracy"][column] for test in tests]) for column in COLUMNS]
    cells += [
        _mean([test[part]["all"] for test in tests]) for part in ("groundable", "ungroundable")
    ]
    if base is None:
        cells += ["", ""]
    else:
        found = compare_pooled(outcomes, base, (stage, "sft")).differences
        cells += [_gain(found["accuracy"]), _gain(found["groundable"])]
    cells.append(" ".join(f"{test['accuracy']['all']:.2f}" for test in tests))
    return f"| {name} | " + " | ".join(cells) + " |"


def _floor_row(name: str, floors: Sequence[dict[str, float]]) -> str:
    cells = [_mean([floor[column] for floor in floors]) for column in COLUMNS]
    by_seed = " ".join(f"{floor['all']:.2f}" for floor in floors)
    return f"| {name} | " + " | ".join([*cells, "0.00", "100.00", "", "", by_seed]) + " |"


def _section(title: str, ablation: Ablation, prefix: str) -> Iterator[str]:
    """The variants whose name starts with `prefix`, beside the main one, round by round."""
    main = ablation.variants["ISR"]
    names = [name for name in ablation.variants if name.startswith(prefix)]
    if not names:
        return
    rounds = len(main[0].metrics["stages"]) - 2
    own = f"K = {ablation.k}" if prefix == "K = " else "full"
    yield f"## {title}"
    yield ""
    yield "Overall accuracy by round, and the round chosen on validation against SFT."
    yield ""
    heads = " | ".join(f"round {t}" for t in range(1, rounds + 1))
    yield f"| | {heads} | chosen | groundable | ungroundable | gain | on groundable |"
    yield "|---|" + "---:|" * (rounds + 5)
    for name, outcomes in [*((n, ablation.variants[n]) for n in names), (own, main)]:
        cells = [
            _mean([o.stage(f"round-{t}")["test"]["accuracy"]["all"] for o in outcomes])
            for t in range(1, rounds + 1)
        ]
        chosen = [outcome.stage("selected")["test"] for outcome in outcomes]
        cells.append(_mean([test["accuracy"]["all"] for test in chosen]))
        cells += [
            _mean([t[part]["all"] for t in chosen]) for part in ("groundable", "ungroundable")
        ]
        found = compare_pooled(outcomes, main, ("selected", "sft")).differences
        cells += [_gain(found["accuracy"]), _gain(found["groundable"])]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def _verdicts(ablation: Ablation) -> Iterator[str]:
    """What the comparisons say, in words that follow from the intervals alone."""
    main = ablation.variants["ISR"]
    yield _verdict("ISR (round chosen on validation) against SFT", main, "selected", main, "sft")
    if "SFT (full)" in ablation.variants:
        full = ablation.variants["SFT (full)"]
        yield _verdict("ISR against full SFT", main, "selected", full, "sft")
        yield _verdict("Full SFT against SFT", full, "sft", main, "sft")
    for name in ablation.variants:
        if name.startswith(("K = ", "no-")):
            other = ablation.variants[name]
            yield _verdict(f"ISR against {name}", main, "selected", other, "selected")
    yield ""


def _verdict(
    words: str, this: Sequence[Outcome], stage: str, other: Sequence[Outcome], against: str
) -> str:
    found = compare_pooled(this, other, (stage, against)).differences
    parts = []
    for part in ("accuracy", "groundable", "ungroundable"):
        difference = found[part]
        if difference.interval is None or difference.value is None:
            continue
        low, high = difference.interval
        verdict = "better" if low > 0 else "worse" if high < 0 else "a tie"
        label = "overall" if part == "accuracy" else f"on {part} queries"
        parts.append(f"{label} {verdict}, {_gain(difference)}")
    return f"- **{words}**: " + "; ".join(parts) + "."


def _searches(ablation: Ablation) -> Iterator[str]:
    yield "## Rates searched"
    yield ""
    yield (
        f"Validation accuracy with seed {ablation.config.seeds[0]}; the best counts for all seeds. "
        "For `dpo` it is that of the best round."
    )
    yield ""
    for what, found in ablation.searches.items():
        tried = ", ".join(f"{rate:g}: {accuracy:.2f}" for rate, accuracy in found.items())
        yield f"- {what}: {tried}; chosen {ablation.rates[what]:g}"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}"


def _gain(difference: Difference) -> str:
    if difference.value is None or difference.interval is None:
        return "–"
    low, high = (100 * end for end in difference.interval)
    return f"{100 * difference.value:+.2f} [{low:+.2f}, {high:+.2f}], p = {difference.p_value:.3g}"
