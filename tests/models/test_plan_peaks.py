"""What a plan says against the peak of the code itself, at published sizes but without numbers.

See `meter`; what a GPU does beyond it is in docs/planning.md.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import meter
import pytest
import tiny
import tiny_ofa
import torch
from meter import Meter
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from groundling import train
from groundling.cli.plan import read_recipe
from groundling.config import IsrConfig
from groundling.models import chat, meta
from groundling.models.base import Demonstration, GroundingExample, Preference, Sampling
from groundling.models.grounding import Compute
from groundling.models.ofa import OFAGrounder, OFAModel, grounder
from groundling.models.ofa.config import published
from groundling.models.ofa.inputs import prompt
from groundling.models.ofa.search import Beams
from groundling.planning import ofa, stages
from groundling.planning.pictures import RULES, picture_tokens
from groundling.planning.stages import Model, Stage, plan_stages
from groundling.records import Box, Query

TABLE_1 = Path(__file__).parents[2] / "recipes" / "paper" / "table1-isr.yaml"
SAMPLED = 4
"""Tokens that are drawn: the peak is at the prompts."""


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    meter.act_as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(stages, "PROMPT_BATCHES", 1)


def recipe(**writer: object) -> IsrConfig:
    """The paper's, with its grounder elsewhere and other settings of its writer."""
    values = read_recipe(TABLE_1, []).model_dump()
    values["writer"] |= writer
    values["grounder"]["device"] = "cuda:1"
    return IsrConfig.model_validate(values)


def queries(count: int) -> list[Query]:
    return [Query(f"q{i}", f"p{i}", "Neymar", "PER") for i in range(count)]


class Run:
    """Stages of a recipe on a writer without numbers, and what is planned for them."""

    def __init__(
        self, family: str, config: IsrConfig, monkeypatch: pytest.MonkeyPatch, layers: int | None
    ) -> None:
        self.config = config
        self.writer, self.outline = meter.writer(
            family,
            monkeypatch,
            layers=layers,
            dtype=getattr(torch, config.writer.dtype),
            checkpointing=config.writer.checkpointing,
            batch_size=config.writer.batch_size,
            targets=config.lora.targets,
        )
        sides, unit_px = [meter.sides_of(family)], self.outline.vision.unit_px
        self.pictures = picture_tokens(RULES[family], unit_px, sides, meter.MOST_PX)
        self._assume_its_prompts(monkeypatch)
        self._texts = [meter.expression(self.writer, config.max_new_tokens, x) for x in "QZ"]

    def _assume_its_prompts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plan for prompts as long as the tiny tokenizer makes them."""
        (row,) = self.writer.chat.rows([chat.Ask("p0", "Neymar (PER)")], [("a",)])
        pictures = self.pictures.most if self.pictures.inside else 0
        monkeypatch.setattr(stages, "PROMPT_TOKENS", len(row.prompt.ids) - pictures)
        monkeypatch.setattr(stages, "SHARED_TOKENS", getattr(row.prompt, "image_start", 0))

    def planned(self, name: str, longest: int | None = None) -> int:
        """Bytes, the reserve left out; `longest` in place of the recipe's longest answer."""
        changes = {} if longest is None else {"max_new_tokens": longest}
        config = self.config.model_copy(update=changes)
        writer = Model(self.outline, config.writer, config.lora.rank, self.pictures)
        judge = Model(meta.outline_grounder(config.grounder), config.grounder, 0, None)
        stage = next(one for one in plan_stages(config, writer, judge, 1) if one.name == name)
        return allocated(stage)

    def measured(self, work: Callable[[], object]) -> int:
        """Bytes at the peak of some work, the writer itself included."""
        for parameter in self.writer.trainable().values():
            parameter.grad = None
        tensors = meter.tensors_of(self.writer.model)
        with Meter(*tensors) as metered:
            work()
        return metered.peak + meter.size_of(tensors)

    def sft(self) -> None:
        optimiser = self.config.sft.model_copy(update={"epochs": 1, "batch_size": 8})
        examples = [Demonstration(query, self._texts[0]) for query in queries(16)]
        train.fit(self.writer, self.writer.sft_loss, examples, optimiser, seed=0)

    def dpo(self) -> None:
        optimiser = self.config.dpo.model_copy(update={"batch_size": 8})
        examples = [Preference(query, *self._texts, -1.0, -2.0) for query in queries(16)]
        loss = partial(self.writer.dpo_loss, beta=optimiser.beta)
        train.fit(self.writer, loss, examples, optimiser, seed=0)

    def score(self) -> None:
        asked = queries(self.config.writer.batch_size)
        self.writer.score_pairs(asked, *([text] * len(asked) for text in self._texts))

    def sample(self) -> None:
        asked = queries(self.config.writer.batch_size)
        sampling = Sampling(self.config.temperature, SAMPLED)
        self.writer.sample(asked, self.config.samples, sampling, 0, "writer")

    def check(self, *names: str) -> None:
        """Each stage within 20 %, and so what it takes beside the writer itself."""
        resident = meter.size_of(meter.tensors_of(self.writer.model))
        works = {
            "SFT": self.sft,
            "DPO": self.dpo,
            "reference scoring": self.score,
            "sampling": self.sample,
        }
        for name in names:
            measured = self.measured(works[name])
            planned = self.planned(name, SAMPLED if name == "sampling" else None)
            told(name, planned, measured, resident)
            assert planned == pytest.approx(measured, rel=0.2), name
            assert planned - resident == pytest.approx(measured - resident, rel=0.2), name


def told(name: str, planned: int, measured: int, resident: int) -> None:
    """Print what `pytest -rP` shows."""
    beside = (planned - resident) / (measured - resident)
    print(f"{name}: planned {planned / measured:.3f} of {measured / meter.GIB:.2f} GiB, ", end="")
    print(f"{beside:.3f} of what is beside the model's {resident / meter.GIB:.2f} GiB")


def allocated(stage: Stage) -> int:
    return stage.peak - stage.parts["reserve"]


# --------------------------------------------------------------------------------- the meter itself


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_meter_counts_as_torchs_own_profiler(checkpointing: bool) -> None:
    """Of real numbers on the CPU, where every allocation is told."""
    writer = tiny.writer(checkpointing=checkpointing)
    batch = [Preference(query, "the man", "the woman", -1.0, -2.0) for query in tiny.QUERIES]
    writer.prepare([query.image for query in tiny.QUERIES])
    writer.dpo_loss(batch, 0.5).backward()
    gradients = [parameter.grad for parameter in writer.trainable().values()]
    features = [one.features for one in writer.chat.engine._features._kept.values()]
    gc.collect()
    with Meter(*meter.tensors_of(writer.model), *gradients, *features, grain=64) as metered:
        writer.dpo_loss(batch, 0.5).backward()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as told:
        writer.dpo_loss(batch, 0.5).backward()
    now = peak = 0
    for event in sorted(told.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert metered.peak == pytest.approx(peak, rel=0.02)


# ----------------------------------------------------------------------------------------- writers


TRAINING, DRAWING = ("SFT", "DPO"), ("sampling", "reference scoring")


def test_two_layers_of_the_papers_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    Run("qwen2_vl", recipe(batch_size=8), monkeypatch, layers=2).check("DPO", "sampling")


@pytest.mark.slow
@pytest.mark.parametrize("family", meter.HUB)
def test_four_layers_of_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(family, recipe(batch_size=4), monkeypatch, layers=4).check(*TRAINING, *DRAWING)


@pytest.mark.slow
@pytest.mark.parametrize("family", meter.HUB)
def test_four_layers_without_checkpointing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(batch_size=4, checkpointing=False)
    Run(family, config, monkeypatch, layers=4).check(*TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "mllama"])
def test_four_layers_in_full_precision(
    family: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(batch_size=4, dtype="float32", checkpointing=checkpointing)
    Run(family, config, monkeypatch, layers=4).check("DPO", *DRAWING)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_on_two_layers_of_a_block(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(batch_size=4, checkpointing=checkpointing)
    lora = config.lora.model_copy(update={"targets": ["q_proj", "v_proj"]})
    config = config.model_copy(update={"lora": lora})
    Run("qwen2_vl", config, monkeypatch, layers=4).check("DPO", *DRAWING)


@pytest.mark.slow
def test_the_papers_writer_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    Run("qwen2_vl", recipe(), monkeypatch, layers=None).check(*TRAINING, *DRAWING)


# --------------------------------------------------------------------------------------------- OFA


class Judge:
    """An OFA of a published size without numbers; its answers are made up."""

    def __init__(self, size: str, monkeypatch: pytest.MonkeyPatch, checkpointing: bool) -> None:
        shape = published(size)
        with torch.device("meta"):
            model = OFAModel(shape)
        model.tie_weights()
        model = meter.faked(model)
        model.set_drop_path(0.2)
        model.set_gradient_checkpointing(checkpointing)
        words = tiny_ofa.tokenizer(shape.vocab_size - 8192 - 1000, 8192, 1000)
        picture = Image.new("RGB", (640, 480))
        compute = Compute(batch_size=32, open_image=lambda _: picture)
        side_px = shape.patch_image_size or 0
        self.grounder = OFAGrounder(model, words, compute, side_px=side_px)
        search = grounder.beam_search

        def made_up(*args: Any, **options: Any) -> Beams:
            found = search(*args, **options)
            tokens = torch.full(found.tokens.shape, words.first_bin)
            return Beams(tokens, torch.zeros(found.logprobs.shape))

        monkeypatch.setattr(grounder, "beam_search", made_up)
        self.text_tokens = len(words.encode(prompt(_words(7))))

    def tune(self) -> None:
        box = Box(1, 2, 300, 400)
        examples = [GroundingExample(f"p{i}", _words(i), box) for i in range(8)]
        optimiser = recipe().grounder_tuning.model_copy(update={"epochs": 1})
        train.fit(self.grounder, self.grounder.loss, examples, optimiser, seed=0)

    def ground(self) -> None:
        self.grounder.ground([(f"p{i}", _words(i)) for i in range(32)])

    def measured(self, work: Callable[[], object]) -> int:
        tensors = meter.tensors_of(self.grounder.model)
        with Meter(*tensors) as metered:
            work()
        return metered.peak + meter.size_of(tensors)


def _words(number: int) -> str:
    return "the man on the left " + "a" * (number % 8)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", ["base", "large"])
def test_ofa_whole(size: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(size, monkeypatch, checkpointing)
    monkeypatch.setattr(ofa, "TEXT_TOKENS", judge.text_tokens)
    config = recipe()
    settings = {"path": f"OFA-Sys/ofa-{size}", "checkpointing": checkpointing}
    config = config.model_copy(update={"grounder": config.grounder.model_copy(update=settings)})
    model = Model(meta.outline_grounder(config.grounder), config.grounder, 0, None)
    found = {one.name: one for one in plan_stages(config, a_writer(config), model, 1)}
    resident = meter.size_of(meter.tensors_of(judge.grounder.model))
    for name, work in (("rewards", judge.ground), ("grounder tuning", judge.tune)):
        planned, measured = allocated(found[name]), judge.measured(work)
        told(name, planned, measured, resident)
        assert planned == pytest.approx(measured, rel=0.2), name
        assert planned - resident == pytest.approx(measured - resident, rel=0.2), name


def a_writer(config: IsrConfig) -> Model:
    """For a plan of which only the grounder matters."""
    outline = meta.outline_writer(config.writer)
    pictures = picture_tokens(RULES[outline.model_type], outline.vision.unit_px, [], None)
    return Model(outline, config.writer, config.lora.rank, pictures)
