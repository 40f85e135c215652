from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groundling import plan
from groundling.config import (
    DataConfig,
    DirectConfig,
    GmnerData,
    GrounderConfig,
    IsrConfig,
    ToyworldData,
    WriterConfig,
)
from groundling.data.gmner import write_gmner_split
from groundling.errors import InputError
from groundling.plan import Device, check_fits, find_device, plan_run
from groundling.plan_page import as_json, told
from groundling.planning import ofa, terms
from groundling.planning.changes import changed
from groundling.planning.counts import counts_of
from groundling.planning.devices import Speed, duration_s, speed_of
from groundling.planning.disk import PIXEL_BYTES
from groundling.planning.outline import (
    ChatOutline,
    OfaOutline,
    TextShape,
    TrunkStage,
    VisionShape,
)
from groundling.planning.page import count, gib, hours
from groundling.planning.pictures import (
    RULES,
    PictureRule,
    PictureTokens,
    mean_area_px,
    picture_tokens,
)
from groundling.planning.stages import FEATURE_CACHE, Model, rows_of
from groundling.planning.terms import Work
from groundling.records import Box, Entity, Post

GIB = 1 << 30
TEXT = TextShape(layers=3, hidden=8, heads=2, kv_heads=1, head_size=4, inner=16, vocabulary=100)
"""q = 8, k = 4."""


def chat(text: TextShape, by_hand: bool = False) -> ChatOutline:
    """A language model of these blocks."""
    vision = VisionShape(8, 16, 4, 28)
    return ChatOutline("x", "qwen2_vl", 0, 0, 0, 0, 0, 0, text, vision, True, by_hand)


WORLD = DataConfig(toyworld=ToyworldData())


def recipe(**changes: Any) -> IsrConfig:
    """Qwen2-VL-7B and OFA-Large, as the paper, without data."""
    values: dict[str, Any] = {
        "data": {"gmner": {"source": "nowhere", "images": "nowhere"}},
        "writer": {
            "backend": "local",
            "path": "Qwen/Qwen2-VL-7B-Instruct",
            "dtype": "bfloat16",
            "checkpointing": True,
        },
        "grounder": {"backend": "ofa", "path": "OFA-Sys/ofa-large"},
        "dpo": {"micro_batch": 4},
        "sft": {"micro_batch": 4},
    }
    config = IsrConfig.model_validate(values)
    for key, value in changes.items():
        config = changed(config, key.replace("__", "."), value)
    return config


# -------------------------------------------------------------------------------- formulas, by hand


def test_a_weight_in_nf4_takes_4_bits_and_its_scales() -> None:
    assert pytest.approx(4.127, abs=5e-4) == terms.NF4_BITS
    assert terms.weights_in_4_bits(1_000_000, 800_000, 2) == pytest.approx(
        800_000 * 4.127 / 8 + 200_000 * 2, rel=1e-4
    )


def test_what_lasts() -> None:
    assert terms.weights(10, 2) == 20
    assert terms.adapter(adapter_width=100, rank=32) == 100 * 32 * 4
    assert terms.gradients(40) == 40
    assert terms.moments(40) == 80


def test_a_layer_in_full_precision() -> None:
    work = Work(rows=2, length=5, answered=6, rank=1, width=4)
    norms, inputs, attention = 16, 2 * 8 + 8 + 16, 3 * 8
    feed, adapters, normaliser, mask = 3 * 16, 7, 2, 5
    numbers = norms + inputs + attention + feed + adapters + normaliser + mask
    assert terms.saved_by_layer(TEXT, work) == 10 * 4 * numbers
    assert terms.saved_by_blocks(TEXT, work) == 3 * terms.saved_by_layer(TEXT, work)


def test_half_precision_keeps_a_copy_for_each_adapted_layer() -> None:
    work = Work(rows=1, length=1, answered=1, rank=0, width=2)
    full = 4 * (16 + 5 * 8 + 8 + 16 + 2)
    half = 2 * (4 * 8 + 3 * 16 + 1)
    assert terms.saved_by_layer(TEXT, work) == full + half


def test_only_adapted_layers_keep_what_they_read() -> None:
    attention = replace(TEXT, adapted=frozenset({"q_proj", "v_proj"}))
    assert terms.inputs_of_adapters(attention, 4) == 8
    assert terms.inputs_of_adapters(attention, 2) == 2 * 8
    assert terms.inputs_of_adapters(TEXT, 4) == 2 * 8 + 16
    assert terms.inputs_of_adapters(TEXT, 2) == 5 * 8 + 8 + 16
    work = Work(rows=1, length=1, answered=1, rank=3, width=2)
    fewer = 4 * (3 * 8 + 8 + 16 + 5 * 3)
    both = (terms.saved_by_layer(text, work) for text in (TEXT, attention))
    assert next(both) - next(both) == fewer


def test_linear_attention_keeps_more_for_its_values() -> None:
    text = replace(TEXT, recurrent=1, recurrent_width=10)
    work = Work(rows=2, length=5, answered=6, rank=1, width=2)
    more = terms.saved_by_blocks(text, work) - terms.saved_by_blocks(TEXT, work)
    assert more == 10 * 10 * 18 * 4


def test_checkpointing_keeps_inputs_and_one_layer_or_the_logits() -> None:
    work = Work(rows=2, length=5, answered=6, rank=1, width=2)
    assert terms.checkpoints(TEXT, work) == 3 * 10 * 8 * 2
    one = terms.saved_by_layer(TEXT, work) + 10 * (2 * 2 * 16 + 12 * 8)
    assert terms.passing(TEXT, replace(work, width=4)) == 10 * 2 * 4 * 16
    assert terms.logits_backward(TEXT, work) == 6 * 100 * 12 + 10 * 8 * 4
    assert terms.step(chat(TEXT), work, True) == 480 + max(one, 7520)
    talkative = replace(work, answered=600)
    assert terms.step(chat(TEXT), talkative, True) == 480 + 600 * 100 * 12 + 10 * 8 * 4


def test_without_checkpointing_all_layers_are_kept() -> None:
    work = Work(rows=2, length=5, answered=6, rank=1, width=2)
    one = terms.saved_by_layer(TEXT, work)
    assert terms.step(chat(TEXT), work, False) == 3 * one + 7520
    last = terms.saved_by_layer(TEXT, replace(work, rows=1, length=6))
    assert terms.step(chat(TEXT, by_hand=True), work, False) == 2 * one + last + 7520


def test_what_all_rows_begin_with_is_kept_once_in_every_layer() -> None:
    work = Work(rows=2, length=5, answered=6, rank=1, width=2)
    shared = terms.step(chat(TEXT), replace(work, shared=4), True)
    begun = shared - terms.step(chat(TEXT), work, True)
    assert begun == 3 * terms.saved_by_layer(TEXT, replace(work, rows=1, length=4))


def test_logits_exist_at_answers_only() -> None:
    long = Work(rows=1, length=1000, answered=6, rank=1, width=2)
    assert terms.logits(TEXT, long) == 6 * 100 * (2 + 8) + 1000 * 8 * 4


def test_a_pass_without_gradient_is_widest_in_the_feed_forward_layer() -> None:
    work = Work(rows=2, length=5, answered=0, rank=1, width=2)
    assert terms.forward_space(TEXT, work) == 10 * (12 * 16 + 12 * 8 + 4 * 8 + 5 * 2)
    deep = terms.forward_space(replace(TEXT, deep=3), work) - terms.forward_space(TEXT, work)
    assert deep == 10 * 3 * 2 * 8 * 2
    crossing = terms.forward_space(replace(TEXT, crossing=1), replace(work, sight=1000))
    assert crossing == 2000 * (8 * 6 + 4 * 14 + 2 * 8 * 2 + 5 * 2)


def test_without_adapters_there_the_feed_forward_layer_takes_less() -> None:
    text = replace(TEXT, adapted=frozenset({"q_proj", "v_proj"}))
    work = Work(rows=2, length=5, answered=0, rank=1, width=2)
    assert terms.forward_space(text, work) == 10 * (6 * 16 + 12 * 8 + 4 * 8 + 5 * 2)
    assert terms.passing(text, work) == 10 * (2 * 16 + 12 * 8)


def test_choosing_takes_double_precision_for_every_answer() -> None:
    assert terms.choice(TEXT, answers=8, width=2) == 8 * 100 * (2 + 4 + 16)


def test_a_cache_holds_keys_and_values_of_the_layers_that_have_them() -> None:
    assert terms.cache(TEXT, tokens=10, seen=0, width=2) == 10 * 3 * 2 * 4 * 2
    crossing = TextShape(3, 8, 2, 1, 4, 16, 100, crossing=1)
    assert terms.cache(crossing, tokens=10, seen=7, width=2) == (10 * 2 + 7) * 2 * 4 * 2
    recurrent = TextShape(3, 8, 2, 1, 4, 16, 100, recurrent=2)
    assert terms.cache(recurrent, tokens=10, seen=0, width=2) == 10 * 2 * 4 * 2


def test_the_tower_keeps_nothing_but_needs_room() -> None:
    plain = VisionShape(8, 16, patches=4, unit_px=28)
    assert terms.tower(plain, pictures=3, tokens=10, width=2) == 3 * 40 * (2 * 16 + 6 * 8) * 2
    rotary = replace(plain, rotary=True)
    assert terms.tower(rotary, 3, 10, 2) == 3 * 40 * 8 * (5 * 2 + 24)
    kept = terms.tower(replace(plain, kept=5), 3, 10, 2) - terms.tower(plain, 3, 10, 2)
    assert kept == 3 * 40 * (5 * 8 + 40) * 2


def test_the_trunk_of_ofa_by_hand() -> None:
    outline = OfaOutline("x", 0, 0, 0, 64, 8, 2, 1, 1, 16, 50, 4, (TrunkStage(1, 4, 1),))
    block = 12 * 4 * 16**2 + 4 * 4 * 16**2
    numbers = 3 * 64**2 + 2 * 4 * 32**2 + block
    assert ofa.trunk(outline, 1, 4) == 4 * numbers + 4 * 16**2 * 12
    assert ofa.cells(outline) == 16


def test_the_search_of_ofa_by_hand() -> None:
    outline = OfaOutline("x", 0, 0, 0, 64, 8, 2, 1, 3, 16, 50, 1, (TrunkStage(1, 1, 1),))
    tokens, pictures = 2 * (16 + 40), 3 * 2 * 64**2 * 4
    bias = 2 * 2 * 56**2 * 4
    assert ofa.bias(outline, 2, 4) == bias
    encoder = bias + max(tokens * (6 * 8 + 2 * 16) * 4, tokens * 8 * 8 * 4 + bias)
    assert ofa.search(outline, rows=2, beams=5, width=4) == pictures + encoder
    wordy, wide = replace(outline, vocabulary=50_000), replace(outline, stem=64)
    held = tokens * 8 * (2 * 3 + 2) * 4
    assert ofa.search(wordy, 2, 5, 4) == pictures + held + 2 * 5 * 50_000 * 8
    assert ofa.search(wide, 2, 5, 4) == pictures + 17 * 2 * 64 * 16**2 * 4


# ------------------------------------------------------------------------------ pictures and counts


def test_tokens_of_a_picture_are_its_merged_patches() -> None:
    found = picture_tokens(RULES["qwen2_vl"], 28, [(280, 140), (56, 56)], None)
    assert (found.most, found.mean, found.inside) == (50, (50 + 4) / 2, True)
    limited = picture_tokens(RULES["qwen2_vl"], 28, [(2800, 2800)], 256 * 28 * 28)
    assert limited.most == 256


def test_without_pictures_the_assumption_is_told() -> None:
    assert picture_tokens(PictureRule(), 28, [], None).most == 1000
    assert "assumed" in picture_tokens(PictureRule(), 28, [], None).told_by
    assert picture_tokens(PictureRule(), 28, [], 100 * 28 * 28).most == 100


def test_tiles() -> None:
    assert picture_tokens(RULES["internvl"], 28, [], None).most == 13 * 256
    assert picture_tokens(RULES["internvl"], 28, [], 448**2).most == 2 * 256
    crossing = picture_tokens(RULES["mllama"], 14, [], 1)
    assert (crossing.most, crossing.inside) == (4 * 1601, False)


def test_sizes_and_counts_come_from_the_annotations(tmp_path: Path) -> None:
    entity = Entity("Neymar", "PER", 0, 1, (Box(1, 2, 30, 40),))
    posts = [
        Post("1", ("Neymar", "scores"), (entity,)),
        Post("2", ("Paris",), (Entity("Paris", "LOC", 0, 1),)),
    ]
    write_gmner_split(tmp_path, "train", posts, {"1": (280, 280)})
    config = changed(recipe(), "data.gmner", GmnerData(source=str(tmp_path), images="x"))
    data = plan.read_data(config)
    assert (data.sizes, data.train) == (((280, 280),), (2, 1))
    planned = plan_run(config, Device("x", 80 * GIB))
    assert planned.writer.pictures is not None
    assert planned.writer.pictures.most == 100


def test_counts() -> None:
    paper = counts_of(recipe(), None)
    assert (paper.sft, paper.prompts, paper.grounded) == (1457, 10000, 4449)
    assert counts_of(recipe(prompts_per_round=500), None).prompts == 500
    assert counts_of(recipe(rounds=0, sft_queries=20000), None).sft == 11457
    assert counts_of(IsrConfig(data=WORLD), None).prompts == 10000


# ------------------------------------------------------------------------------------------ a plan


def test_the_papers_run_fits_its_device() -> None:
    found = plan_run(recipe(), Device("A800", 79 * GIB, speed=speed_of("A800")))
    assert found.fits
    assert [stage.name for stage in found.stages] == [
        "grounder tuning", "SFT", "sampling", "rewards", "reference scoring", "DPO", "evaluation"
    ]  # fmt: skip
    assert found.writer.trained == 80_740_352
    total_h = sum(found.durations.values()) / 3600
    assert 6 < total_h < 24  # appendix C: about 12 GPU hours
    assert "fits" in found.verdict
    page = told(found)
    assert "8.29 B parameters" in page
    assert "an estimate" in page
    assert max(map(len, page.splitlines()[4:16])) < 110


def test_parts_follow_the_recipe() -> None:
    plain, more = (
        {stage.name: stage for stage in plan_run(one, Device("x", 80 * GIB)).stages}
        for one in (recipe(), recipe(samples=64, rounds=5, dpo__micro_batch=8))
    )
    # by then the answers have twice as many keys and values as the prompts
    assert more["sampling"].parts["cache"] > 2 * plain["sampling"].parts["cache"]
    assert more["DPO"].parts["activations"] > 1.8 * plain["DPO"].parts["activations"]
    assert more["SFT"] == plain["SFT"]
    quarter = plan_run(recipe(writer__load_in_4bit=True), Device("x", 80 * GIB))
    assert quarter.writer.resident()["weights"] < 0.5 * plain["SFT"].parts["weights"]
    stored = plan_run(recipe(writer__checkpointing=False), Device("x", 80 * GIB)).stages[-2]
    assert stored.name == "DPO"
    assert stored.parts["activations"] > 5 * plain["DPO"].parts["activations"]


def test_the_adapter_is_counted_where_the_recipe_puts_it() -> None:
    found = plan_run(recipe(lora__targets=["q_proj", "v_proj"]), Device("x", 80 * GIB))
    assert found.writer.trained == 32 * 28 * ((3584 + 3584) + (3584 + 512))
    everywhere = plan_run(recipe(), Device("x", 80 * GIB))
    fewer, more = (
        next(stage for stage in plan.stages if stage.name == "DPO").parts["activations"]
        for plan in (found, everywhere)
    )
    assert fewer < more
    with pytest.raises(InputError, match=r"lora\.targets: got 'v_porj'; wanted .* v_proj"):
        plan_run(recipe(lora__targets=["q_proj", "v_porj"]), Device("x", 80 * GIB))


def test_4_bits_pack_the_language_models_blocks_alone() -> None:
    """Published: 8,291,375,616 in all; tower, embeddings, head, norms and biases stay whole."""
    outline = plan_run(recipe(), Device("x", 80 * GIB)).writer.outline
    assert isinstance(outline, ChatOutline)
    assert outline.linear == 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert outline.largest == 3584 * 18944
    packed = plan_run(recipe(writer__load_in_4bit=True), Device("x", 80 * GIB)).writer
    rest = 8_291_375_616 - outline.linear
    assert packed.resident()["weights"] == pytest.approx(
        outline.linear * 4.127 / 8 + 2 * rest + 2 * outline.largest, rel=1e-4
    )


def test_a_run_without_rounds_still_evaluates() -> None:
    found = plan_run(recipe(rounds=0), Device("x", 80 * GIB))
    assert [stage.name for stage in found.stages] == ["grounder tuning", "SFT", "evaluation"]
    assert found.decides.name == "evaluation"
    small = plan_run(recipe(rounds=0, writer__batch_size=1), Device("x", 80 * GIB))
    assert small.stages[-1].peak < found.stages[-1].peak


def test_an_evaluation_is_as_large_as_its_boxes_where_those_are_larger() -> None:
    few = recipe(rounds=0, writer__batch_size=1, grounder__batch_size=256)
    found = plan_run(few, Device("x", 80 * GIB))
    assert "writer" in found.stages[-1].parts
    tight = plan_run(few, Device("x", round(0.9 * found.decides.peak)))
    assert tight.changes["grounder.batch_size"] < 256  # type: ignore[operator]


@pytest.mark.parametrize(
    "grounder",
    [{"backend": "dino", "path": "IDEA-Research/grounding-dino-tiny"}, {"backend": "tiny"}],
)
def test_changes_are_such_as_the_grounder_acts_on(grounder: dict[str, object]) -> None:
    beside = recipe(grounder=grounder)
    found = plan_run(beside, Device("x", 9 * GIB))
    assert "writer.load_in_4bit" in found.changes
    told = {key.partition(".")[2] for key in found.changes if key.startswith("grounder.")}
    assert told <= set(beside.grounder.acting)


def test_what_draws_elsewhere_takes_its_own_share_or_nothing() -> None:
    vllm = plan_run(recipe(sampler={"backend": "vllm", "memory": 0.4}), Device("x", 80 * GIB))
    sampling = next(stage for stage in vllm.stages if stage.name == "sampling")
    assert sampling.parts["vLLM"] == 32 * GIB
    assert "activations" not in sampling.parts
    assert "vLLM" in told(vllm)
    server = recipe(sampler={"backend": "endpoint", "url": "http://x/v1"})
    names = [stage.name for stage in plan_run(server, Device("x", 80 * GIB)).stages]
    assert "sampling" not in names


def test_names_of_one_device_are_one_device() -> None:
    beside = plan_run(recipe(grounder__device="cuda:0"), Device("x", 80 * GIB))
    assert "grounder" in beside.stages[1].parts


def test_picture_features_are_kept_where_all_fit() -> None:
    outline = chat(replace(TEXT, hidden=1 << 10), by_hand=True)
    some = PictureTokens(100, 50, True, "", number=2000)  # 0.8 GB in float32
    many = replace(some, number=200_000)
    writer, judge = WriterConfig(), GrounderConfig()
    assert Model(outline, writer, 0, some).features(8) == {"pictures": 2000 * 100 * 4096}
    assert Model(outline, writer, 0, many).features(8) == {"pictures": 8 * 50 * 4096}
    assert Model(outline, judge, 0, many).features(8) == {"pictures": FEATURE_CACHE}
    assert Model(chat(TEXT), writer, 0, some).features(8) == {}


def test_models_on_two_devices_are_not_beside_each_other() -> None:
    apart = plan_run(recipe(grounder__device="cuda:1"), Device("x", 80 * GIB))
    assert all("grounder" not in stage.parts for stage in apart.stages)
    assert all("writer" not in stage.parts for stage in apart.stages)


def test_several_devices_divide_what_is_trained_on_and_nothing_else() -> None:
    assert rows_of(recipe().grounder_tuning, 4) == 1
    assert rows_of(recipe().dpo, 2) == 2
    assert rows_of(recipe(dpo__micro_batch=None).dpo, 3) == 11
    plans = [plan_run(recipe(), Device("x", 80 * GIB, count=count)) for count in (1, 4)]
    one, four = ({stage.name: stage.parts for stage in plan.stages} for plan in plans)
    assert four["DPO"]["activations"] < 0.5 * one["DPO"]["activations"]
    assert four["DPO"]["gradients"] == 2 * one["DPO"]["gradients"]
    assert all(four[name] == one[name] for name in ("sampling", "rewards", "reference scoring"))
    assert "4 × x" in told(plans[1])


@pytest.mark.parametrize("room", [40, 24, 16])
def test_the_changes_that_are_named_make_it_fit(room: int) -> None:
    config = recipe(writer__checkpointing=False, writer__dtype="float32", dpo__micro_batch=None)
    found = plan_run(config, Device("x", room * GIB))
    assert not found.fits
    assert found.mended
    assert found.changes["writer.dtype"] == "bfloat16"
    for key, value in found.changes.items():
        config = changed(config, key, value)
        assert f"{key}=" in found.verdict
    assert plan_run(config, Device("x", room * GIB)).fits


def test_where_nothing_helps_the_verdict_says_so() -> None:
    found = plan_run(recipe(), Device("x", GIB))
    assert not found.mended
    assert "nothing that was tried makes it fit" in found.verdict


def test_a_frozen_tower_is_run_once_however_often_the_layers_are() -> None:
    fast = Device("x", 80 * GIB, speed=Speed(1e12, 1e12, "told", measured=True))
    stored = recipe(writer__checkpointing=False)
    found, again = (plan_run(one, fast).durations["SFT"] for one in (stored, recipe()))
    vision = plan_run(recipe(), fast).writer.outline
    assert isinstance(vision, ChatOutline)
    tower_s = 1457 * 3 * 2 * vision.vision_parameters * 4 * 1000 / 1e12
    assert found - 2 * (again - found) == pytest.approx(tower_s)


def test_the_pairs_of_a_round_carry_their_pictures() -> None:
    one, five = (plan_run(recipe(rounds=n), Device("x", 80 * GIB)).disk for n in (1, 5))
    assert five["Parquet"] == 5 * one["Parquet"]
    assert one["Parquet"] > 10_000 * mean_area_px([]) * PIXEL_BYTES
    assert mean_area_px([(10, 20), (30, 40)]) == 700


def test_a_direct_baseline_is_planned_by_its_own_names() -> None:
    config = DirectConfig(
        data=recipe().data, model=recipe().writer, tuning=recipe().sft, lora=recipe().lora
    )
    found = plan_run(config, Device("x", 16 * GIB, speed=speed_of("L4")))
    assert [stage.name for stage in found.stages] == ["tuning", "evaluation"]
    assert all("grounder" not in stage.parts for stage in found.stages)
    assert {key.partition(".")[0] for key in found.changes} <= {"model", "tuning"}
    assert list(as_json(found)["models"]) == ["model"]  # type: ignore[call-overload]


def test_a_model_whose_activations_are_unknown_is_noted() -> None:
    config = recipe(grounder={"backend": "dino", "path": "IDEA-Research/grounding-dino-tiny"})
    found = plan_run(config, Device("x", 80 * GIB))
    assert "activations of IDEA-Research/grounding-dino-tiny are not counted" in told(found)


# ---------------------------------------------------------------------------------------- refusing


def test_a_run_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "find_device", lambda _, devices: Device("x", 24 * GIB, devices))
    with pytest.raises(InputError, match=r"does not fit: .*it fits with .*check_memory=false"):
        check_fits(recipe())
    monkeypatch.setattr(plan, "find_device", lambda _, devices: Device("x", 80 * GIB, devices))
    check_fits(recipe())
    check_fits(DirectConfig(data=recipe().data, model=recipe().writer, tuning=recipe().sft))


def test_a_team_is_planned_as_the_devices_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def find(_: str, devices: int) -> Device:
        asked.append(devices)
        return Device("x", 80 * GIB, devices)

    monkeypatch.setattr(plan, "find_device", find)
    monkeypatch.setattr(plan, "team", lambda: SimpleNamespace(size=3))
    check_fits(recipe())
    assert asked == [3]


def test_where_parameters_are_shared_out_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "find_device", lambda _, devices: Device("x", devices))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_fits(recipe())


def test_embedded_models_always_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "find_device", lambda _, devices: Device("x", devices))
    check_fits(IsrConfig(data=WORLD))
    check_fits(DirectConfig(data=WORLD))


# ----------------------------------------------------------------------------------------- devices


def test_known_devices() -> None:
    found = speed_of("NVIDIA A100-SXM4-80GB")
    assert found is not None
    assert found.flops == pytest.approx(0.35 * 312e12)
    assert speed_of("NVIDIA L40S") != speed_of("NVIDIA L4")
    assert speed_of("NVIDIA L40") is speed_of("NVIDIA RTX A1000") is None
    assert speed_of("cpu") is None
    assert duration_s(Speed(10, 5, ""), operations=100, read_bytes=5) == 10
    assert duration_s(Speed(10, 5, ""), operations=10, read_bytes=100) == 20


def test_a_device_as_told_or_found() -> None:
    assert find_device(room=GIB, name="H100").name == "H100"
    assert find_device(room=GIB).speed is None
    here = find_device("cpu", timed_dtype="float32")
    assert here.speed is not None
    assert "measured" in here.speed.stated
    with pytest.raises(InputError, match="no device that is known"):
        find_device(name="abacus")


def test_figures_are_readable() -> None:
    assert [gib(x * GIB) for x in (0, 0.5, 12.34)] == ["0.0", "0.50", "12.3"]
    assert [count(x) for x in (8_291_375_616, 80_740_352)] == ["8.29 B", "80.7 M"]
    assert [hours(x) for x in (90, 7200)] == ["2 min", "2.0 h"]
