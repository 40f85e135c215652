from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groundling import plan
from groundling.config import DirectConfig, GmnerData, IsrConfig
from groundling.data.gmner import write_gmner_split
from groundling.errors import InputError
from groundling.plan import Device, check_fits, find_device, plan_run
from groundling.plan_page import as_json, told
from groundling.planning import ofa, terms
from groundling.planning.changes import changed, deciding
from groundling.planning.counts import counts_of
from groundling.planning.devices import Speed, duration_s, speed_of
from groundling.planning.outline import OfaOutline, TextShape, TrunkStage, VisionShape
from groundling.planning.page import count, gib, hours
from groundling.planning.pictures import RULES, PictureRule, picture_tokens
from groundling.planning.stages import rows_of
from groundling.planning.terms import Work
from groundling.records import Box, Entity, Post

GIB = 1 << 30
TEXT = TextShape(layers=3, hidden=8, heads=2, kv_heads=1, head_size=4, inner=16, vocabulary=100)
"""q = 8, k = 4."""


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


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    work = Work(rows=2, length=5, answered=6, rank=1, width=2)
    assert terms.checkpoints(TEXT, work) == 3 * 10 * 8 * 2
    assert terms.saved_by_checkpoints(TEXT, work) == 480 + terms.saved_by_layer(TEXT, work)


def test_logits_exist_at_answers_only() -> None:
    long = Work(rows=1, length=1000, answered=6, rank=1, width=2)
    assert terms.logits(TEXT, long) == 6 * 100 * (2 + 8) + 1000 * 8 * 4


def test_a_cache_holds_keys_and_values_of_the_layers_that_have_them() -> None:
    assert terms.cache(TEXT, tokens=10, seen=0, width=2) == 10 * 3 * 2 * 4 * 2
    crossing = TextShape(3, 8, 2, 1, 4, 16, 100, crossing=1)
    assert terms.cache(crossing, tokens=10, seen=7, width=2) == (10 * 2 + 7) * 2 * 4 * 2
    recurrent = TextShape(3, 8, 2, 1, 4, 16, 100, recurrent=2)
    assert terms.cache(recurrent, tokens=10, seen=0, width=2) == 10 * 2 * 4 * 2


def test_the_tower_keeps_nothing_but_needs_room() -> None:
    assert terms.tower(VisionShape(8, 16, 4, 28), picture_tokens=10, width=2) == 40 * 96 * 2


def test_the_trunk_of_ofa_by_hand() -> None:
    outline = OfaOutline("x", 0, 0, 0, 64, 8, 2, 1, 1, 16, 50, 4, (TrunkStage(1, 4, 1),))
    block = 12 * 4 * 16**2 + 4 * 4 * 16**2
    numbers = 3 * 64**2 + 2 * 4 * 32**2 + block
    assert ofa.trunk(outline, 1, 4) == 4 * numbers + 4 * 16**2 * 12
    assert ofa.cells(outline) == 16


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
    assert counts_of(IsrConfig(), None).prompts == 10000


# ------------------------------------------------------------------------------------------ a plan


def test_the_papers_run_fits_its_device() -> None:
    found = plan_run(recipe(), Device("A800", 79 * GIB, speed=speed_of("A800")))
    assert found.fits
    assert [stage.name for stage in found.stages] == [
        "grounder tuning", "SFT", "sampling", "rewards", "reference scoring", "DPO"
    ]  # fmt: skip
    assert found.writer.trained == 80_740_352
    total_h = sum(found.durations.values()) / 3600
    assert 6 < total_h < 24  # appendix C: about 12 GPU hours
    assert "fits" in found.verdict
    page = told(found)
    assert "8.29 B parameters" in page
    assert "an estimate" in page
    assert max(map(len, page.splitlines()[4:16])) < 100


def test_parts_follow_the_recipe() -> None:
    plain, more = (
        {stage.name: stage for stage in plan_run(one, Device("x", 80 * GIB)).stages}
        for one in (recipe(), recipe(samples=8, rounds=5, dpo__micro_batch=8))
    )
    assert more["sampling"].parts["cache"] > plain["sampling"].parts["cache"]
    assert more["DPO"].parts["activations"] > 1.9 * plain["DPO"].parts["activations"]
    assert more["SFT"] == plain["SFT"]
    quarter = plan_run(recipe(writer__load_in_4bit=True), Device("x", 80 * GIB))
    assert quarter.writer.resident()["weights"] < 0.5 * plain["SFT"].parts["weights"]
    stored = plan_run(recipe(writer__checkpointing=False), Device("x", 80 * GIB)).stages[-1]
    assert stored.parts["activations"] > 5 * plain["DPO"].parts["activations"]


def test_models_on_two_devices_are_not_beside_each_other() -> None:
    apart = plan_run(recipe(grounder__device="cuda:1"), Device("x", 80 * GIB))
    assert all("grounder" not in stage.parts for stage in apart.stages)
    assert all("writer" not in stage.parts for stage in apart.stages)


def test_several_devices_divide_a_batch() -> None:
    assert rows_of(recipe().grounder_tuning, 4) == 1
    assert rows_of(recipe().dpo, 2) == 4
    assert rows_of(recipe(dpo__micro_batch=None).dpo, 3) == 11
    one, four = (plan_run(recipe(), Device("x", 80 * GIB, count=n)) for n in (1, 4))
    assert deciding(list(four.stages)).peak < deciding(list(one.stages)).peak
    assert "4 × x" in told(four)


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


def test_a_direct_baseline_is_planned_by_its_own_names() -> None:
    config = DirectConfig(
        data=recipe().data, model=recipe().writer, tuning=recipe().sft, lora=recipe().lora
    )
    found = plan_run(config, Device("x", 16 * GIB, speed=speed_of("L4")))
    assert [stage.name for stage in found.stages] == ["tuning"]
    assert {key.partition(".")[0] for key in found.changes} <= {"model", "tuning"}
    assert list(as_json(found)["models"]) == ["model"]  # type: ignore[call-overload]


def test_a_model_whose_activations_are_unknown_is_noted() -> None:
    config = recipe(grounder={"backend": "dino", "path": "IDEA-Research/grounding-dino-tiny"})
    found = plan_run(config, Device("x", 80 * GIB))
    assert "activations of IDEA-Research/grounding-dino-tiny are not counted" in told(found)


# ---------------------------------------------------------------------------------------- refusing


def test_a_run_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "find_device", lambda _: Device("x", 24 * GIB))
    with pytest.raises(InputError, match=r"does not fit: .*it fits with .*check_memory=false"):
        check_fits(recipe())
    monkeypatch.setattr(plan, "find_device", lambda _: Device("x", 80 * GIB))
    check_fits(recipe())
    check_fits(DirectConfig(data=recipe().data, model=recipe().writer, tuning=recipe().sft))


def test_embedded_models_always_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "find_device", lambda _: Device("x", 1))
    check_fits(IsrConfig())
    check_fits(DirectConfig())


# ----------------------------------------------------------------------------------------- devices


def test_known_devices() -> None:
    found = speed_of("NVIDIA A100-SXM4-80GB")
    assert found is not None
    assert found.flops == pytest.approx(0.35 * 312e12)
    assert speed_of("NVIDIA L40S") != speed_of("NVIDIA L4")
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
