"""The whole of ISR on the shipped models: what the run directory must hold, and who is π_ref."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from groundling.config import IsrConfig, LoraConfig, WriterConfig
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_predictions
from groundling.data.pairs_parquet import read_pairs
from groundling.errors import RunError
from groundling.isr import run_isr
from groundling.models.registry import open_writer
from groundling.records import Post, Query, is_absent
from groundling.rounds import read_drawn, read_rewards
from groundling.rundir import read_events, stored_config
from groundling.scoring import score_isr
from groundling.workbench import Workbench


@pytest.fixture(scope="module")
def metrics(finished_run: Path) -> dict:
    return json.loads((finished_run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def queries(finished_run: Path, small_config: IsrConfig) -> dict[str, Query]:
    with Workbench.open(small_config, finished_run, quiet=True) as bench:
        bench.gather()
        return {case.query.id: case.query for case in bench.train}


def test_run_directory_has_what_others_rely_on(finished_run: Path, metrics: dict) -> None:
    assert [stage["name"] for stage in metrics["stages"]] == [
        "untuned",
        "sft",
        "round-1",
        "round-2",
        "round-3",
    ]
    for stage in metrics["stages"]:
        for split in ("validation", "test"):
            assert set(stage[split]["accuracy"]) == {"PER", "LOC", "ORG", "MISC", "all"}
            assert stage[split]["queries"] == 60
    for t in (1, 2, 3):
        for name in ("expressions.parquet", "rewards.parquet", "pairs.parquet", "metrics.json"):
            assert (finished_run / f"rounds/{t}" / name).is_file()
        assert (finished_run / f"writer/round-{t}/adapter_model.safetensors").is_file()
    assert not (finished_run / "scratch").exists()


def test_fine_tuning_teaches_more_than_to_say_absent(metrics: dict) -> None:
    untuned, sft = (metrics["stages"][i]["test"] for i in (0, 1))
    floor = metrics["floors"]["test"]["none"]["all"]
    assert untuned["accuracy"]["all"] < floor < sft["accuracy"]["all"]
    assert sft["groundable"]["all"] > untuned["groundable"]["all"] + 20
    assert sft["ungroundable"]["all"] > 50


def test_scores_follow_from_the_predictions(finished_run: Path, metrics: dict) -> None:
    posts: tuple[Post, ...] = read_gmner(finished_run / "data", "test").posts
    predictions = read_predictions(finished_run / "predictions/round-3/test.jsonl")
    again = score_isr(posts, predictions).to_json()
    stored = metrics["stages"][-1]["test"]
    assert {key: stored[key] for key in again} == again


def test_selected_round_is_the_best_on_validation(metrics: dict) -> None:
    trained = metrics["stages"][1:]
    best = max(stage["validation"]["accuracy"]["all"] for stage in trained)
    first = next(s for s in trained if s["validation"]["accuracy"]["all"] == best)
    assert metrics["selected"] == first["name"]


def test_rounds_draw_k_expressions_and_judge_each(finished_run: Path) -> None:
    for t in (1, 2, 3):
        drawn = read_drawn(finished_run / f"rounds/{t}/expressions.parquet")
        rewards = read_rewards(finished_run / f"rounds/{t}/rewards.parquet")
        assert len(drawn) == 64
        assert all(len(row) == 4 for row in drawn.values())
        assert drawn.keys() == rewards.keys()
        assert any(len({e.text for e in row}) > 1 for row in drawn.values())


def test_pairs_follow_from_draws_and_rewards(finished_run: Path) -> None:
    experts = {
        (row["id"], row["entity"]): row["expression"]
        for row in map(json.loads, (finished_run / "experts/train.jsonl").read_text().splitlines())
    }
    for t in (1, 2, 3):
        drawn = read_drawn(finished_run / f"rounds/{t}/expressions.parquet")
        rewards = read_rewards(finished_run / f"rounds/{t}/rewards.parquet")
        pairs = read_pairs(finished_run / f"rounds/{t}/pairs.parquet")
        summary = json.loads((finished_run / f"rounds/{t}/metrics.json").read_text())
        assert pairs
        told = summary["pairs"]["from_sample"] + summary["pairs"]["from_expert"]
        assert told == len(pairs)
        assert told + sum(summary["dropped"].values()) == 64
        for pair in pairs:
            texts = [e.text for e in drawn[pair.query_id]]
            scored = list(zip(texts, rewards[pair.query_id], strict=True))
            assert (pair.rejected, 0) in scored
            if pair.chosen_source == "sample":
                assert (pair.chosen, 1) in scored
            else:
                assert all(r == 0 for _, r in scored)
                post_id = pair.query_id.rpartition("#")[0]
                assert pair.chosen in {v for (i, _), v in experts.items() if i == post_id}


@pytest.mark.parametrize("t", [2, 3])
def test_reference_is_the_previous_round_not_the_base_model(
    finished_run: Path, queries: dict[str, Query], t: int
) -> None:
    """Scores each side by itself, unpacked, under three candidates for π_ref."""
    pairs = read_pairs(finished_run / f"rounds/{t}/pairs.parquet")[:8]
    asked = [queries[pair.query_id] for pair in pairs]

    def distance(adapter: Path | None) -> float:
        writer = open_writer(WriterConfig(), LoraConfig(), seed=9, adapter=adapter)
        chosen = writer.score(asked, [pair.chosen for pair in pairs])
        rejected = writer.score(asked, [pair.rejected for pair in pairs])
        gaps = [abs(a - pair.ref_chosen_logp) for a, pair in zip(chosen, pairs, strict=True)]
        gaps += [abs(a - pair.ref_rejected_logp) for a, pair in zip(rejected, pairs, strict=True)]
        return max(gaps)

    writers = finished_run / "writer"
    assert distance(writers / f"round-{t - 1}") < 1e-4
    assert distance(writers / f"round-{t - 2}") > 1e-2
    assert distance(None) > 1e-1


def test_each_update_moves_the_adapter(finished_run: Path) -> None:
    digests = {
        (finished_run / f"writer/round-{t}/adapter_model.safetensors").read_bytes()
        for t in range(4)
    }
    assert len(digests) == 4


def test_an_ungroundable_entity_is_rewarded_for_absent_alone(finished_run: Path) -> None:
    rows = pq.read_table(finished_run / "rounds/1/rewards.parquet").to_pylist()
    drawn = read_drawn(finished_run / "rounds/1/expressions.parquet")
    for row in rows:
        text = drawn[row["query_id"]][row["k"]].text
        if is_absent(text):
            assert row["x1"] is None
        if row["x1"] is None and row["reward"] == 1:
            assert is_absent(text)


def test_same_command_again_does_nothing_anew(
    finished_run: Path, small_config: IsrConfig, metrics: dict
) -> None:
    before = [e for e in read_events(finished_run) if e["kind"] == "started"]
    assert run_isr(small_config, finished_run, quiet=True) == metrics
    after = [e for e in read_events(finished_run) if e["kind"] == "started"]
    assert len(after) == len(before)


def test_another_configuration_is_refused(finished_run: Path, small_config: IsrConfig) -> None:
    other = small_config.model_copy(update={"samples": 2})
    with pytest.raises(RunError, match="samples: was 4, is 2"):
        run_isr(other, finished_run, quiet=True)


def test_a_run_whose_adapter_is_on_other_layers_trains_its_own(
    finished_run: Path, small_config: IsrConfig, tmp_path: Path
) -> None:
    lora = LoraConfig(targets=["q_proj", "v_proj"])
    other = small_config.model_copy(update={"lora": lora})
    with Workbench.open(other, tmp_path / "other", quiet=True) as bench:
        bench.adopt(finished_run)
        bench.gather()
        assert bench.run.stage("grounder", after=["data"]).done
        assert not bench.run.stage("sft", after=["data"]).done
    trained = open_writer(other.writer, other.lora, other.seed).trainable()
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in trained} == {
        "q_proj",
        "v_proj",
    }
    assert stored_config(tmp_path / "other", IsrConfig) == other
    with pytest.raises(RunError, match=r"lora\.targets: was \['q_proj', 'v_proj'\], is None"):
        run_isr(small_config, tmp_path / "other", quiet=True)


def test_a_run_adopts_what_it_shares(
    finished_run: Path, small_config: IsrConfig, tmp_path: Path
) -> None:
    other = small_config.model_copy(update={"samples": 2, "rounds": 0})
    found = run_isr(other, tmp_path / "other", quiet=True, base=finished_run)
    started = [e["stage"] for e in read_events(tmp_path / "other") if e["kind"] == "started"]
    assert started == []
    assert [stage["name"] for stage in found["stages"]] == ["untuned", "sft"]
    mismatch = small_config.model_copy(update={"seed": 5})
    with pytest.raises(RunError, match="configured otherwise"):
        run_isr(mismatch, tmp_path / "mismatch", quiet=True, base=finished_run)
