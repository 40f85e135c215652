"""The measurement of the paper's main run: its dry run, its made-up data and models, its page."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForImageTextToText
from unpacking import unpack

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import paper_shapes
import paper_shapes_data as data
import paper_shapes_models as models
from paper_shapes_meter import Measured, Meter, Record, TimeIsUp
from paper_shapes_page import page, rows, summary

from groundling.config import GmnerData, IsrConfig, load_config
from groundling.corpus import read_release, split_training
from groundling.errors import InputError
from groundling.models.meta import outline_ofa, outline_writer
from groundling.models.ofa import OFAConfig, OFAModel
from groundling.models.ofa.inputs import PROMPT
from groundling.models.wording import Wording
from groundling.planning.pictures import RULES, picture_tokens
from groundling.planning.stages import Stage
from groundling.prompts import ask_for_expression

GIB = 1 << 30
WRITER, GROUNDER = "Qwen/Qwen2-VL-7B-Instruct", "OFA-Sys/ofa-large"
PLANNED = ["grounder tuning", "SFT", "sampling", "rewards", "reference scoring", "DPO"]
PLANNED += ["evaluation"]
RELEASE = Path(__file__).parents[2] / "shared" / "data" / "twitter-gmner-v2.tar.gz"


def cells(text: str, stage: str) -> list[list[str]]:
    """The rows of a page's tables that begin with a stage."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {stage}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ------------------------------------------------------------------------------------- the dry run


def test_a_dry_run_stops_goes_on_and_measures_every_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.require_attention(torch.bfloat16)
    words = ["--dry-run", "--quiet", "--queries", "5", "--out", str(tmp_path)]
    measured = tmp_path / "measured.json"

    ticks = itertools.count()  # each look at the clock is a second
    assert paper_shapes.main([*words, "--minutes", "0.14"], lambda: next(ticks)) == 3
    first = json.loads(measured.read_text())["stages"]
    assert list(first) == ["pictures", "data", "grounder"], "those that begin before second 8"
    assert not json.loads(capsys.readouterr().out)["complete"]

    assert paper_shapes.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    stages = json.loads(measured.read_text())["stages"]
    assert told["complete"]
    assert [stage["name"] for stage in told["stages"]] == PLANNED
    assert all(stage["seconds"] > 0 and stage["projected_s"] > 0 for stage in told["stages"])
    assert told["peak_gib"] is None, "no memory is measured on a CPU"
    assert {name: stages[name] for name in first} == first
    assert [one["resumed"] for one in stages.values()] == [False] * 3 + [True] * 8
    text = (tmp_path / "paper-shapes.md").read_text()
    for name in PLANNED:
        memory, time = cells(text, name)
        assert (memory[3:6], time[1] != "") == ([""] * 3, True)
    assert "It measures nothing" in text
    assert "20 of 20 answers ran on to 6 tokens" in text

    before = measured.read_bytes()
    assert paper_shapes.main(words) == 0
    assert measured.read_bytes() == before


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = ["--out", str(tmp_path / "out")]
    dry = ["--dry-run", *out]
    for words, reason in [
        (out, "no GPU here; --dry-run"),
        ([*dry, "--page", "page.md"], "no figures to publish"),
        ([*dry, "--queries", "0"], "wanted at least 1"),
        ([*dry, "--xml", str(tmp_path)], "no XML that states"),
        ([*dry, "--set", "writer.path=Qwen/Qwen3-VL-8B-Instruct"], "wanted qwen2_vl"),
        ([*dry, "--set", "rounds=0"], "and rounds"),
    ]:
        with pytest.raises(SystemExit) as stop:
            paper_shapes.main(words)
        assert stop.value.code == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------- data and models


def test_the_release_has_the_sizes_of_the_data_and_its_largest_picture_in_both_parts(
    tmp_path: Path,
) -> None:
    sizes, told = data.read_sizes(None)
    assert (len(sizes), sizes[-1], told) == (5612, (1200, 1200), "Twitter-GMNER v2")
    small = [(width // 20, height // 20) for width, height in sizes if min(width, height) >= 400]
    counts = data.Counts(sft=10, prompts=20, graded=3)
    data.write_release(tmp_path, small, counts, seed=0)
    corpus = read_release(GmnerData(source=str(tmp_path), images=str(tmp_path / "images")))
    assert corpus.without_picture() == 0
    train = corpus.cases("train")
    assert len(train) == counts.train
    assert sum(case.entity.groundable for case in train) == counts.grounded == 12
    largest = [split_training(train, 10, 0)[part] for part in (0, 1)]
    for part in largest:
        taken = {Path(case.query.image).stem for case in part}
        assert any(corpus.sizes_wh_px.get(post) == (60, 60) for post in taken)


@pytest.mark.slow
@pytest.mark.skipif(not RELEASE.is_file(), reason="needs the release's annotations")
def test_the_table_of_sizes_is_that_of_the_release(tmp_path: Path) -> None:
    unpack(RELEASE, tmp_path)
    found, _ = data.read_sizes(next(tmp_path.rglob("xml")))
    assert found == data.read_sizes(None)[0]
    unit = 28
    assert picture_tokens(RULES["qwen2_vl"], unit, found, None).most == 1849


@pytest.fixture(scope="module")
def processor() -> Any:
    """That of the full-size writer."""
    return models.writer_processor(models.writer_facts(WRITER, small=False))


def test_every_drawn_token_is_a_word_that_both_models_read_as_one(processor: Any) -> None:
    assert len(processor.tokenizer) == 152064
    wording = Wording(processor, ask_for_expression)
    drawn = tuple(range(2000, 152064, 2345))
    text = wording.text(drawn)
    assert len(text.split()) == len(drawn) == 64
    assert len(wording.answer(text)) == 65, "and the end"
    config = OFAConfig(**models.grounder_facts(GROUNDER, small=False))
    tokenizer = models.grounder_tokenizer(config)
    assert len(tokenizer) == config.vocab_size == 59457
    asked = len(tokenizer.encode(PROMPT.format(text.strip())))
    assert asked - len(tokenizer.encode(PROMPT.format(""))) in (63, 64)
    assert models.prompt_tokens(processor) == pytest.approx(80, abs=20), "as a plan takes it to be"


def test_full_size_models_have_exactly_the_planned_parameters(processor: Any) -> None:
    recipe = load_config(IsrConfig, paper_shapes.RECIPE)
    facts = models.writer_facts(WRITER, small=False)
    config = models.writer_config(facts, processor.tokenizer)
    with torch.device("meta"):
        writer = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
        grounder = OFAModel(OFAConfig(**models.grounder_facts(GROUNDER, small=False)))
    grounder.tie_weights()
    counted = [sum(value.numel() for value in one.parameters()) for one in (writer, grounder)]
    planned = [outline_writer(recipe.writer), outline_ofa(GROUNDER)]
    assert counted == [outline.parameters for outline in planned]
    assert counted[0] == 8_291_375_616


# ------------------------------------------------------------------------------ measuring, the page


def event(kind: str, stage: str, **payload: object) -> dict[str, Any]:
    return {"kind": kind, "stage": stage, "payload": payload}


def test_a_meter_stores_times_and_failures_and_ends_between_stages(tmp_path: Path) -> None:
    seconds = iter([0.0, 1.0, 3.5, 4.0, 4.0, 6.0, 9.0])
    record = Record(tmp_path / "measured.json", {"device": "x"})
    meter = Meter(record, None, until_s=8.0, clock=lambda: next(seconds))
    meter(event("started", "sft"))
    meter(event("fitted", "sft"))
    meter(event("finished", "sft"))
    meter(event("started", "draw"))
    meter(event("stopped", "draw", reason="OutOfMemoryError"))
    assert record.stages == {
        "sft": Measured(2.5),
        "draw": Measured(2.0, stopped="OutOfMemoryError"),
    }
    with pytest.raises(TimeIsUp, match="judge"):
        meter(event("started", "judge"))
    again = Record(tmp_path / "measured.json", {"device": "x"})
    assert again.stages == record.stages
    with pytest.raises(InputError, match="measured with device x, now y"):
        Record(tmp_path / "measured.json", {"device": "y"})


def test_a_meter_reads_the_peaks_of_each_stage_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers = {
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 30 * GIB,
        "max_memory_reserved": 33 * GIB,
        "memory_reserved": 20 * GIB,
        "mem_get_info": (59 * GIB, 80 * GIB),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, n=name, a=answer: (asked.append(n), a)[1])
    record = Record(tmp_path / "measured.json", {})
    meter = Meter(record, torch.device("cuda", 0), until_s=1.0, clock=lambda: 0.0)
    meter(event("started", "sft"))
    assert asked == ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    meter(event("finished", "sft"))
    assert record.stages["sft"] == Measured(0.0, 30 * GIB, 33 * GIB, GIB)
    assert record.stages["sft"].held == 34 * GIB


def about(**changes: Any) -> dict[str, Any]:
    recipe = load_config(IsrConfig, paper_shapes.RECIPE)
    return {
        "command": "python bench/paper_shapes.py",
        "recipe": "table1-isr.yaml",
        "config": recipe.model_dump(mode="json"),
        "made": {"sft": 100, "prompts": 200, "graded": 10},
        "dry_run": False,
        "device": "H100, 79.6 GiB",
        "versions": dict.fromkeys(("python", "torch", "transformers", "peft"), "1"),
        "models": "a and b",
        "sizes": "the data",
        "prompt_tokens": 68,
        **changes,
    }


def test_a_page_compares_projects_and_flags() -> None:
    recipe = load_config(IsrConfig, paper_shapes.RECIPE)
    plan = [Stage("SFT", {"weights": 20 * GIB, "reserve": 4 * GIB})]
    plan.append(Stage("sampling", {"weights": 30 * GIB}))
    plan.append(Stage("evaluation", {"weights": 11 * GIB, "cache": 11 * GIB}))
    measured = {
        "sft": Measured(50.0, 18 * GIB, 19 * GIB, GIB, resumed=True),
        "round-1-draw": Measured(20.0, 35 * GIB, 38 * GIB, GIB),
        "evaluate-sft": Measured(9.0, 18 * GIB, 19 * GIB, GIB),
        "evaluate-round-1": Measured(11.0, 20 * GIB, 21 * GIB, GIB),
    }
    made = data.Counts(sft=100, prompts=200, graded=10)
    found = rows(plan, {"SFT": 600.0, "sampling": 60.0}, recipe, made, measured)
    assert [row.name for row in found] == ["SFT", "sampling", "evaluation"]
    assert [row.ratio for row in found] == [24 / 20, 30 / 39, 22 / 22]
    assert [row.off for row in found] == [False, True, False], "1.20 is just within 20 %"
    assert found[0].projected_s == 50.0 * 1457 * 3 / 100
    assert found[1].projected_s == 20.0 * 4 * 10000 / 200
    told = summary(found, measured)
    assert (told["complete"], told["off"], told["peak_gib"]) == (True, ["sampling"], 39.0)
    assert [one["planned_gib"] for one in told["stages"]] == [24.0, 30.0, 22.0]

    text = page(found, measured, about(), drawn=(800, 800))
    sft, drawing = cells(text, "SFT")[0], cells(text, "sampling")[0]
    assert sft == ["SFT†", "weights 20.0, reserve 4.0", "24.0", "18.0", "19.0", "20.0", "1.20"]
    assert drawing[-1] == "0.77 **off**"
    evaluation = cells(text, "evaluation")[0]
    assert evaluation[1:] == ["weights 11.0, cache 11.0", "22.0", "20.0", "21.0", "22.0", "1.00"]
    assert cells(text, "sampling")[1][1:] == [
        "20.0 s, 200 prompts",
        "10 prompts/s",
        "1.1 h",
        "1 min",
    ]
    assert "Highest: 39.0 GiB in round-1-draw, within 78 GiB." in text
    assert "2 of 3 stages; off: sampling." in text
    assert "800 of 800 answers ran on to 64 tokens: 2560 tokens a second." in text


def test_a_page_says_what_ran_out_of_memory_and_what_has_no_figures() -> None:
    recipe = load_config(IsrConfig, paper_shapes.RECIPE)
    plan = [Stage("SFT", {"weights": 20 * GIB})]
    made = data.Counts(100, 200, 10)
    measured = {"sft": Measured(5.0, 70 * GIB, 77 * GIB, GIB, stopped="OutOfMemoryError")}
    found = rows(plan, {}, recipe, made, measured)
    assert (found[0].seconds, found[0].projected_s, found[0].ratio) == (None, None, None)
    assert summary(found, measured)["stopped"] == {"sft": "OutOfMemoryError"}
    text = page(found, measured, about())
    assert "Stage sft stopped: OutOfMemoryError." in text
    assert "not within 78 GiB" in text
    evaluated = {
        "evaluate-sft": Measured(9.0, 18 * GIB, 19 * GIB, GIB),
        "evaluate-round-1": Measured(1.0, 9 * GIB, 9 * GIB, GIB, stopped="OutOfMemoryError"),
    }
    [row] = rows([Stage("evaluation", {"weights": 20 * GIB})], {}, recipe, made, evaluated)
    assert (row.measured, row.ratio) == (evaluated["evaluate-round-1"], None)
    nothing = page(rows(plan, {}, recipe, made, {}), {}, about(dry_run=True))
    assert "No memory was measured" in nothing
