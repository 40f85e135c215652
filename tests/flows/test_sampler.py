"""Rounds whose expressions a vLLM server draws: a stand-in that speaks its protocol and fails."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_release
import small_run
from fault_server import Act, Asked, FaultServer, refused, said

from groundling.config import (
    GrounderConfig,
    IsrConfig,
    LoraConfig,
    SamplerConfig,
    SftOptimiser,
    WriterConfig,
    load_config,
)
from groundling.data.pairs_parquet import read_pairs
from groundling.errors import ConfigError, RunError
from groundling.isr import run_isr
from groundling.models.local import Adapter, LocalWriter
from groundling.records import Failure, Query
from groundling.rundir import read_events
from groundling.stage import failures_by_stage

QUICK = {"backoff_s": 0.001, "attempts": 1, "concurrency": 2}
ABSENT = "The entity does not appear in the image"


class Vllm:
    """Says two things of each entity, in its adapter's name; fails once for each in `failing`."""

    def __init__(self, *failing: str) -> None:
        self.loaded: list[str] = []
        self.drawn: Counter[str] = Counter()
        self.failing = set(failing)
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Act:
        with self._lock:
            if asked.path == "/v1/load_lora_adapter":
                assert (Path(asked.body["lora_path"]) / "adapter_model.safetensors").is_file()
                self.loaded.append(asked.body["lora_name"])
                return said("loaded")
            assert asked.body["model"] == self.loaded[-1], "not the adapter that is followed"
            (name,) = re.findall(r"(?:Neymar|Paris|NASA)[0-3]", asked.text)
            self.drawn[name] += 1
            if name in self.failing:
                self.failing.remove(name)
                return refused(500)
            return said(f"{name} by {self.loaded[-1]}", ABSENT)


@pytest.fixture
def release(tmp_path: Path) -> IsrConfig:
    """Two rounds on a dozen pictures, with random models; who draws is left open."""
    data, experts = small_release.write_release(tmp_path / "release", copies=1)
    checkpoint = tmp_path / "writer"
    small_run.write_checkpoint(checkpoint)
    small_run.grounder().save(tmp_path / "grounder")
    return IsrConfig(
        data=data,
        experts=experts,
        writer=WriterConfig(backend="local", path=str(checkpoint)),
        grounder=GrounderConfig(tune=False, path=str(tmp_path / "grounder")),
        lora=LoraConfig(rank=4, alpha=8),
        sft_queries=2,
        sft=SftOptimiser(epochs=1),
        rounds=2,
        samples=2,
        max_new_tokens=6,
    )


def drawn_by(config: IsrConfig, server: FaultServer, **sampler: object) -> IsrConfig:
    chosen = SamplerConfig(backend="endpoint", url=server.url, settings=QUICK, **sampler)  # type: ignore[arg-type]
    return config.model_copy(update={"sampler": chosen})


def expressions(run: Path, t: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(
        run / f"rounds/{t}/expressions.parquet"
    ).to_pylist()
    return rows


def test_each_round_is_drawn_from_the_adapter_before_it(release: IsrConfig, tmp_path: Path) -> None:
    vllm, run = Vllm(), tmp_path / "run"
    with FaultServer(script=vllm) as server:
        run_isr(drawn_by(release, server), run, quiet=True)
    assert len(set(vllm.loaded)) == 2, "π_0 and π_1"
    for t, adapter in zip((1, 2), vllm.loaded, strict=True):
        rows = expressions(run, t)
        assert len(rows) == 10 * 2
        assert {str(row["text"]).partition(" by ")[2] for row in rows[::2]} == {adapter}
        assert {row["text"] for row in rows[1::2]} == {ABSENT}
        assert {str(row["source"])[-2:] for row in rows} == {f"/{t - 1}"}
    pairs = read_pairs(run / "rounds/1/pairs.parquet")
    assert {pair.chosen for pair in pairs} >= {ABSENT}
    assert all(pair.ref_chosen_logp < 0 and pair.ref_rejected_logp < 0 for pair in pairs)
    assert not (run / "scratch").exists()


class ScoringVllm(Vllm):
    """Gives log-probabilities with its answers: of the adapter, or while `lost` of the base."""

    def __init__(self, config: IsrConfig, folder: Path, lost: bool = False) -> None:
        super().__init__()
        self.lost, self.folder = lost, folder
        self.writer = LocalWriter.load(str(config.writer.path), adapter=Adapter(4, 8.0, 0))

    def __call__(self, asked: Asked) -> Act:
        act = super().__call__(asked)
        with self._lock:
            if asked.path == "/v1/load_lora_adapter":
                self.writer.load_adapter(Path(asked.body["lora_path"]))
                return act
            if self.lost:
                self.writer.restart_adapter(0)
            texts = [choice["message"]["content"] for choice in json.loads(act.body)["choices"]]  # type: ignore[arg-type]
            (name,) = re.findall(r"(?:Neymar|Paris|NASA)[0-3]", asked.text)
            kind = {"N": "PER", "P": "LOC"}.get(name[0] if name[1] != "A" else "", "ORG")
            path = self.folder / f"{name}-{len(self.loaded)}.png"
            asked.pictures[0].save(path)
            query = Query(name, str(path), name, kind)  # type: ignore[arg-type]
            scores = [self.writer.score([query], [text])[0] for text in texts]
        tokens = [[(t, float(s)), ("<end>", 0.0)] for t, s in zip(texts, scores, strict=True)]  # type: ignore[arg-type]
        return said(*texts, logprobs=tokens)


def test_field_e10_a_server_that_answers_from_the_base_model_stops_the_round(
    release: IsrConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tuned = SftOptimiser(epochs=6, lr=0.03, schedule="constant", batch_size=1)
    release = release.model_copy(update={"sft": tuned})
    vllm = ScoringVllm(release, tmp_path, lost=True)
    with FaultServer(script=vllm) as server:
        config = drawn_by(release, server)
        with pytest.raises(RunError, match="draws from another policy, such as the base model"):
            run_isr(config, run, quiet=True)
        assert not (run / "rounds/1/expressions.parquet").exists()
        asked = len(server.asked)
        vllm.lost = False
        run_isr(config, run, quiet=True)
        assert len(server.asked) - asked == 2 * 11, "nothing that the wrong policy drew was kept"
    told = [one["payload"] for one in read_events(run) if one["kind"] == "sampler compared"]
    assert [one["answers"] for one in told] == [16, 16, 16]
    wrong, *right = [one["per_root"] for one in told]
    assert wrong > told[0]["most"] == 0.15
    assert all(gap < 0.001 for gap in right)


def test_a_sampler_without_log_probabilities_is_told_once(
    release: IsrConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultServer(script=Vllm()) as server:
        run_isr(drawn_by(release, server), tmp_path / "run")
    assert capsys.readouterr().err.count("gives no log-probabilities") == 1
    (event,) = [one for one in read_events(tmp_path / "run") if one["kind"] == "warning"]
    assert "adapter of the round" in event["payload"]["text"]


def test_what_failed_is_asked_again_and_nothing_else(release: IsrConfig, tmp_path: Path) -> None:
    name = "Paris1"
    vllm, run = Vllm(name), tmp_path / "run"
    with FaultServer(script=vllm) as server:
        config = drawn_by(release, server, tolerate=0.05)
        with pytest.raises(RunError, match="round-1-draw: 1 of 10 prompts failed at the endpoint"):
            run_isr(config, run, quiet=True)
        assert set(vllm.drawn.values()) == {1}
        run_isr(config, run, quiet=True)
    assert vllm.drawn == {one: 2 + (one == name) for one in vllm.drawn}, "once a round, it twice"
    assert len(expressions(run, 1)) == 20


def test_a_server_that_refuses_every_prompt_stops_the_run(
    release: IsrConfig, tmp_path: Path
) -> None:
    """Fewer prompts than calls that may fail in a row, and none would pass."""

    def script(asked: Asked) -> Act:
        return said("ok") if asked.path == "/v1/load_lora_adapter" else refused(400, "no images")

    with (
        FaultServer(script=script) as server,
        pytest.raises(RunError, match="none of 10 prompts got an expression, first: HTTP 400: no"),
    ):
        run_isr(drawn_by(release, server), tmp_path / "run", quiet=True)


def test_what_may_fail_is_recorded_and_the_round_goes_on(
    release: IsrConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with FaultServer(script=Vllm("NASA2")) as server:
        run_isr(drawn_by(release, server, tolerate=0.1), run, quiet=True)
    (failure,) = json.loads((run / "rounds/1/failures.json").read_text())
    assert (failure["stage"], failure["reason"]) == ("api", "HTTP 500: no (tried 1 times)")
    assert json.loads((run / "rounds/1/metrics.json").read_text())["prompts_unwritten"] == 1
    assert json.loads((run / "rounds/2/failures.json").read_text()) == []


def test_failures_of_finished_stages_are_tried_again_where_wanted(
    release: IsrConfig, tmp_path: Path
) -> None:
    run, picture = tmp_path / "run", tmp_path / "release/images/test_0_0_0.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    vllm = Vllm("NASA2")
    with FaultServer(script=vllm) as server:
        config = drawn_by(release, server, tolerate=0.1)
        run_isr(config, run, quiet=True)
        graded = {f"evaluate-{name}": 1 for name in ("round-1", "round-2", "sft", "untuned")}
        assert failures_by_stage(run) == {**graded, "round-1-draw": 1}
        picture.write_bytes(whole)
        before = len(read_events(run))
        run_isr(config, run, quiet=True, retry=True)
    assert failures_by_stage(run) == {}
    assert len(expressions(run, 1)) == 20
    assert sum(vllm.drawn.values()) == 10 + 1 + 2 * 10, "of round 1 what failed alone, then round 2"
    again = {one["stage"] for one in read_events(run)[before:] if one["kind"] == "started"}
    assert {*graded, "round-1-draw", "round-1-update", "round-2-draw"} <= again
    assert not again & {"data", "sft"}


def test_pairs_that_cannot_be_scored_are_on_record_and_no_pairs(
    release: IsrConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, run = LocalWriter.score_pairs, tmp_path / "run"

    def failing(self: LocalWriter, *words: Any) -> list[tuple[float, float] | Failure]:
        scores: list[tuple[float, float] | Failure] = [*real(self, *words)]
        return [Failure("damaged", "image"), Failure("not finite", "model"), *scores[2:]]

    monkeypatch.setattr(LocalWriter, "score_pairs", failing)
    with FaultServer(script=Vllm()) as server:
        run_isr(drawn_by(release.model_copy(update={"rounds": 1}), server), run, quiet=True)
    unscored = json.loads((run / "rounds/1/unscored.json").read_text())
    assert [one["reason"] for one in unscored] == ["damaged", "not finite"]
    told = json.loads((run / "rounds/1/metrics.json").read_text())
    assert told["dropped"]["unscored"] == 2
    assert sum(told["pairs"].values()) == len(read_pairs(run / "rounds/1/pairs.parquet"))
    assert failures_by_stage(run) == {"round-1-prefer": 1}
    assert failures_by_stage(run, "lasting_failures") == {"round-1-prefer": 1}


def test_a_run_goes_on_with_another_server(release: IsrConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with FaultServer(script=Vllm("NASA2")) as server, pytest.raises(RunError, match="1 of 10"):
        run_isr(drawn_by(release, server, tolerate=0), run, quiet=True)
    with FaultServer(script=Vllm()) as server:
        run_isr(drawn_by(release, server), run, quiet=True)
    (again,) = [event for event in read_events(run) if event["kind"] == "continued"]
    assert {"sampler.url", "sampler.tolerate"} <= set(again["payload"]["changed"])
    other = release.model_copy(update={"samples": 3})
    with pytest.raises(RunError, match="belongs to another configuration"):
        run_isr(other, run, quiet=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler.backend": "endpoint"}, "sampler: backend endpoint, url None: wanted both"),
        ({"sampler.url": "http://x/v1"}, "sampler: backend writer, url http://x/v1: wanted both"),
        ({"sampler.tolerate": 2}, "sampler.tolerate: got 2"),
        ({"sampler.backend": "vllm"}, "sampler vllm does not know the embedded writer"),
        (
            {
                "sampler.backend": "vllm",
                "writer.backend": "local",
                "writer.path": "x",
                "writer.load_in_4bit": True,
            },
            "sampler vllm does not hold the base in 4 bits",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(IsrConfig, None, {"data.toyworld": {}, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": 1}, "speed: unknown key"),
        (
            {"temperature": 0.2, "model": "x"},
            "sampler.settings: temperature: cannot be set; it is the recipe's temperature; "
            "model: cannot be set; it is the adapter of each round",
        ),
    ],
)
def test_endpoint_settings_that_cannot_act_are_told_before_any_work(
    settings: dict[str, object], words: str, release: IsrConfig, tmp_path: Path
) -> None:
    chosen = SamplerConfig(backend="endpoint", url="http://127.0.0.1:9/v1", settings=settings)
    with pytest.raises(ConfigError, match=re.escape(words)):
        run_isr(release.model_copy(update={"sampler": chosen}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
