"""Reference log-probabilities belong to the texts that they were computed of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeWriter

from groundling import isr
from groundling.corpus import Case
from groundling.preferences import Choice
from groundling.records import Entity, Query


def cases(folder: Path, count: int = 3) -> list[Case]:
    found = []
    for number in range(count):
        image = folder / f"{number}.png"
        image.write_bytes(b"picture %d" % number)
        query = Query(f"p{number}#0", str(image), "Ann", "PER")
        found.append(Case(query, Entity("Ann", "PER", 0, 1)))
    return found


def scored(folder: Path, prompts: list[Case], choices: dict[str, Any]) -> list[tuple[float, float]]:
    """Log-probabilities of a writer for which a text's is minus its length."""
    bench: Any = SimpleNamespace(writer_at=lambda _: FakeWriter({}))
    pairs, _, failures = isr.reference(bench, 1, folder / "scratch", prompts, choices)
    assert not failures
    return [(pair.ref_chosen_logp, pair.ref_rejected_logp) for pair in pairs]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_other_texts_at_the_same_places_are_scored_anew(tmp_path: Path, side: str) -> None:
    """An interrupted stage kept the scores of a rule's pairs; a changed rule makes others."""
    prompts = cases(tmp_path)
    before = {one.query.id: Choice("ab", "abc", "sample") for one in prompts}
    assert scored(tmp_path, prompts, before) == [(-2, -3)] * 3
    texts = {"chosen": "ab", "rejected": "abc", side: "abcdefgh"}
    after = {**before, "p1#0": Choice(texts["chosen"], texts["rejected"], "sample")}
    changed = (-len(texts["chosen"]), -len(texts["rejected"]))
    assert scored(tmp_path, prompts, after) == [(-2, -3), changed, (-2, -3)]
    assert scored(tmp_path, prompts, dict(list(after.items())[1:])) == [changed, (-2, -3)]


def test_equal_pairs_are_not_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = cases(tmp_path)
    choices = {one.query.id: Choice("ab", "abc", "sample") for one in prompts}
    scored(tmp_path, prompts, choices)
    monkeypatch.setattr(FakeWriter, "score_pairs", None)
    assert scored(tmp_path, prompts, choices) == [(-2, -3)] * 3


@pytest.mark.parametrize("step", [isr.judge, isr.prefer])
def test_steps_that_read_gold_and_experts_are_undone_by_other_data(step: Any) -> None:
    names: list[list[str]] = []

    class StopError(Exception):
        pass

    def stage(_: str, after: list[str]) -> None:
        names.append(after)
        raise StopError

    bench: Any = SimpleNamespace(
        run=SimpleNamespace(stage=stage), grounder_stage=["grounder"], stage_of=lambda t: f"of-{t}"
    )
    with pytest.raises(StopError):
        step(bench, 1, [])
    assert "data" in names[0]
