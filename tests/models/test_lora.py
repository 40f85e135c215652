from __future__ import annotations

import json

import pytest
import tiny
import tiny_families
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from stock import inputs

from groundling.errors import InputError
from groundling.models import lora
from groundling.models.chat import Resources
from groundling.models.local import Adapter, LocalWriter

PEFT_ASKS_BY_AN_OLD_NAME = "ignore:`is_gradient_checkpointing`:FutureWarning"  # transformers 5.23


def weights(writer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in writer.trainable().items()}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_only_the_language_models_linear_layers_train():
    names = list(tiny.writer().trainable())
    assert len(names) == 2 * 7 * 2  # layers × linear maps × (A, B)
    assert all("language_model.layers" in name and "lora_" in name for name in names)


def test_the_start_is_seeded_and_leaves_the_global_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = tiny.writer(seed=1), tiny.writer(seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert same(weights(first), weights(again))
    again.restart_adapter(2)
    assert not same(weights(first), weights(again))
    again.restart_adapter(1)
    assert same(weights(first), weights(again))


def test_the_start_has_pefts_scale():
    for name, value in tiny.writer().trainable().items():
        bound = value.shape[1] ** -0.5
        if "lora_B" in name:
            assert value.abs().max() == 0
        else:
            assert 0.8 * bound < value.abs().max() <= bound


def test_a_fresh_adapter_changes_nothing(processor):
    batch = inputs(processor, tiny.QUERIES, [""] * 6)
    with torch.no_grad():
        assert torch.equal(tiny.writer().model(**batch).logits, tiny.model()(**batch).logits)


@pytest.mark.filterwarnings(PEFT_ASKS_BY_AN_OLD_NAME)
def test_peft_opens_a_saved_adapter_by_itself(writer, processor, tmp_path):
    writer.save_adapter(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    theirs = PeftModel.from_pretrained(tiny.model(), tmp_path)
    batch = inputs(processor, tiny.QUERIES, [""] * 6)
    with torch.no_grad():
        assert torch.equal(theirs(**batch).logits, writer.model(**batch).logits)


def test_saving_twice_writes_the_same_bytes(writer, tmp_path):
    for name in ("one", "two"):
        writer.save_adapter(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_load_adapter_and_from_parts_bring_the_weights_back(writer, tmp_path):
    before = weights(writer)
    writer.save_adapter(tmp_path)
    tiny.move(writer, seed=9)
    assert not same(before, weights(writer))
    writer.load_adapter(tmp_path)
    assert same(before, weights(writer))
    opened = LocalWriter.from_parts(tiny.model(), tiny.processor(), adapter=tmp_path)
    assert same(before, weights(opened))
    assert all(value.requires_grad for value in opened.trainable().values())


def test_an_adapter_of_another_rank_is_refused(writer, tmp_path):
    other = LocalWriter.from_parts(tiny.model(), tiny.processor(), adapter=Adapter(2, 8))
    other.save_adapter(tmp_path)
    with pytest.raises(InputError, match=r"rank 2, alpha 8; wanted rank 4, alpha 8"):
        writer.load_adapter(tmp_path)


def test_an_adapter_of_another_model_is_refused(writer, tmp_path):
    larger = LocalWriter.from_parts(
        tiny.model(text={"intermediate_size": 64}), tiny.processor(), adapter=Adapter(4, 8)
    )
    larger.save_adapter(tmp_path)
    with pytest.raises(InputError, match="do not fit this model"):
        writer.load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t + 1e30, "holds 1e\\+30"),
        (lambda t: t.to(torch.int8), "int8; wanted one of"),
    ],
)
def test_field_m4_an_adapter_whose_weights_are_no_numbers_is_refused(
    change, message, writer, tmp_path
):
    writer.save_adapter(tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    stored = load_file(path)
    name = max(stored)
    save_file({**stored, name: change(stored[name])}, path)
    before = weights(writer)
    with pytest.raises(InputError, match=message) as told:
        writer.load_adapter(tmp_path / "a")
    assert "\n" not in str(told.value)
    assert same(before, weights(writer))


def test_what_is_no_adapter_is_refused(writer, tmp_path):
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        writer.load_adapter(tmp_path)
    writer.save_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        writer.load_adapter(tmp_path)


def test_the_stored_settings_hold_no_weights_of_the_base(writer, tmp_path):
    writer.save_adapter(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 4, 8)


def test_merging_restores_the_very_weights_even_after_a_fault(writer):
    base = {name: value.clone() for name, value in writer.model.state_dict().items()}

    def interrupted() -> None:
        with lora.merged(writer.model):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(base, writer.model.state_dict())


def test_merged_gives_the_same_logits(writer, processor):
    batch = inputs(processor, tiny.QUERIES, [""] * 6)
    with torch.no_grad():
        apart = writer.model(**batch).logits
    with lora.merged(writer.model):
        together = writer.model(**batch).logits
    assert not torch.equal(apart, together)
    tiny.assert_near(apart, together)
    torch.testing.assert_close(writer.model(**batch).logits, apart, rtol=0, atol=0)


def test_half_precision_is_not_merged(writer):
    writer.model.get_base_model().model.language_model.to(torch.bfloat16)
    layer = lora._layers(writer.model)[0]
    with lora.merged(writer.model):
        assert layer.merged_adapters == []


# ------------------------------------------------------------------------------------- targets


def parts():
    return tiny.model(), tiny.processor()


def on(*targets: str) -> LocalWriter:
    """A tiny writer with a moved adapter on these layers."""
    made = LocalWriter.from_parts(
        *parts(),
        adapter=Adapter(4, 8, 0, targets),
        resources=Resources(open_image=tiny.picture),
    )
    tiny.move(made)
    return made


def layers(writer: LocalWriter) -> set[str]:
    return {name.rpartition(".lora_")[0].partition(".layers.")[2] for name in writer.trainable()}


def rewrite_targets(folder, targets) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": targets}))


def test_targets_are_the_ends_of_layers_names():
    assert layers(on("q_proj", "v_proj")) == {
        f"{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")
    }
    assert layers(on("mlp.down_proj", "layers.1.self_attn.o_proj")) == {
        "0.mlp.down_proj",
        "1.mlp.down_proj",
        "1.self_attn.o_proj",
    }


@pytest.mark.filterwarnings(PEFT_ASKS_BY_AN_OLD_NAME)
def test_targets_stay_within_the_language_model(tmp_path):
    """The tower of LLaVA-NeXT has layers of the same names; nor does PEFT by itself adapt them."""
    writer = LocalWriter.from_parts(
        *tiny_families.build("llava_next"), adapter=Adapter(4, 8, 0, ["q_proj", "v_proj"])
    )
    assert len(writer.trainable()) == 2 * 2 * 2
    assert all(".language_model.layers." in name for name in writer.trainable())
    writer.save_adapter(tmp_path)
    alone = PeftModel.from_pretrained(tiny_families.build("llava_next")[0], tmp_path)
    assert {name for name, _ in alone.named_parameters() if "lora_" in name} == set(
        writer.trainable()
    )


@pytest.mark.parametrize("name", ["v_porj", "qkv", "lm_head", "mlp", "proj", ""])
def test_a_target_that_names_no_layer_of_the_language_model_is_refused(name):
    """Misspelt; of the tower; the head; no linear layer; part of a name; nothing."""
    with pytest.raises(InputError) as caught:
        on("q_proj", name)
    assert str(caught.value) == (
        f"lora.targets: got {name!r}; wanted linear layers of the language model by the ends of "
        "their names, such as down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_a_stored_adapter_is_opened_on_its_own_layers(tmp_path):
    before = on("q_proj", "v_proj")
    before.save_adapter(tmp_path)
    opened = LocalWriter.from_parts(
        *parts(), adapter=tmp_path, resources=Resources(open_image=tiny.picture)
    )
    assert same(weights(before), weights(opened))
    words = ["the man"] * 6
    assert opened.score(tiny.QUERIES, words) == before.score(tiny.QUERIES, words)
    rewrite_targets(tmp_path, ["v_proj", "q_proj"])  # as programs store that adapt by list
    assert same(weights(before), weights(LocalWriter.from_parts(*parts(), adapter=tmp_path)))


def test_an_adapter_on_other_layers_is_refused(writer, tmp_path):
    on("q_proj", "v_proj").save_adapter(tmp_path)
    with pytest.raises(InputError, match=r"adapter on q_proj, v_proj; wanted down_proj, gate_proj"):
        writer.load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (".*(q_proj|qkv)", r"no adapter can be on model\.visual\.blocks\.0\.attn\.qkv; wanted"),
        (".*norm", r"no adapter can be on model\.language_model\.\S*norm; wanted"),
        ("nonesuch", "no adapter can be on nonesuch; wanted linear layers"),
        (None, "no adapter can be on"),
    ],
)
def test_a_stored_adapter_that_cannot_be_opened_is_refused(targets, message, tmp_path):
    on("q_proj").save_adapter(tmp_path)
    rewrite_targets(tmp_path, targets)
    with pytest.raises(InputError, match=message):
        LocalWriter.from_parts(*parts(), adapter=tmp_path)
