from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from groundling.cli.plan import read_recipe
from groundling.config import DirectConfig, IsrConfig
from groundling.plan import Device, plan_run

FOLDER = Path(__file__).parents[1] / "recipes" / "paper"
RECIPES = sorted(FOLDER.glob("*.yaml"))
ISR = [file for file in RECIPES if "direct" not in file.stem]

TABLE_4 = {
    ("Qwen/Qwen2-VL-7B-Instruct", "OFA-Sys/ofa-large"),
    ("Qwen/Qwen2-VL-2B-Instruct", "OFA-Sys/ofa-large"),
    ("llava-hf/llava-v1.6-mistral-7b-hf", "OFA-Sys/ofa-large"),
    ("meta-llama/Llama-3.2-11B-Vision-Instruct", "OFA-Sys/ofa-large"),
    ("Qwen/Qwen2-VL-7B-Instruct", "OFA-Sys/ofa-base"),
    ("Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
}


def open_isr(file: Path) -> IsrConfig:
    config = read_recipe(file, [])
    assert isinstance(config, IsrConfig)
    return config


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_planned_and_fits_80_gib(file: Path) -> None:
    found = plan_run(read_recipe(file, []), Device("A800", 80 << 30))
    assert found.fits, found.verdict


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_value_says_where_it_is_from(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    sections = ("data:", "gmner:", "experts:", "writer:", "grounder:", "model:", "sft:", "dpo:")
    for above, line in pairwise(lines):
        told = line.partition("#")[2] or (above.strip()[:1] == "#" and above)
        named = line.strip().startswith((*sections, "grounder_tuning:", "tuning:", "backend:"))
        assert told or named or not line.strip(), line
        if told and not named and line.strip()[:1] != "#" and "images" not in line:
            assert any(word in str(told) for word in ("§", "Table", "Figure", "not stated", "Algo"))


@pytest.mark.parametrize("file", ISR, ids=lambda file: file.stem)
def test_what_the_paper_states_is_as_it_states_it(file: Path) -> None:
    config = open_isr(file)
    assert (config.lora.rank, config.lora.alpha) == (32, 64)
    sft, tuning = config.sft, config.grounder_tuning
    assert (sft.batch_size, sft.lr, sft.warmup, sft.schedule) == (32, 1e-4, 0.03, "cosine")
    assert (tuning.batch_size, tuning.lr, config.grounder.tune) == (4, 3e-5, True)
    if config.rounds:
        dpo = config.dpo
        assert (dpo.batch_size, dpo.lr, dpo.warmup, dpo.beta) == (32, 5e-6, 0.1, 0.5)
        assert (config.sft_queries, config.temperature) == (1457, 0.8)
        assert config.prompts_per_round is None
        assert (config.samples == 4) != file.stem.startswith("figure4") or "k4" in file.stem
        assert config.rounds == (5 if file.stem.startswith("figure3") else 4)


def test_full_sft_takes_all_training_queries_and_no_round() -> None:
    config = open_isr(FOLDER / "table1-full-sft.yaml")
    assert (config.rounds, config.sft_queries >= 11779) == (0, True)


def test_table_4_is_complete() -> None:
    configs = [open_isr(file) for file in FOLDER.glob("table4-*.yaml")]
    assert {(config.writer.path, config.grounder.path) for config in configs} == TABLE_4


def test_figures_vary_what_they_compare() -> None:
    strategies = {open_isr(file).strategy for file in FOLDER.glob("figure3-*.yaml")}
    assert strategies == {"full", "no-success", "no-expert"}
    assert sorted(open_isr(file).samples for file in FOLDER.glob("figure4-*.yaml")) == [1, 2, 4, 8]


def test_direct_baselines_are_of_their_own_kind() -> None:
    direct = [file for file in RECIPES if "direct" in file.stem]
    assert direct
    assert all(isinstance(read_recipe(file, []), DirectConfig) for file in direct)
