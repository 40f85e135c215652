"""Adapters that other programs stored: their scales, their layers' names, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from stock import inputs

from groundling.errors import InputError
from groundling.models.local import LocalWriter, Resources
from groundling.models.lora import parameters

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # PEFT asks by an old name
)

INSIDE = r".*language_model.*\.(q_proj|v_proj|down_proj)"
TEXTS = ["the man on the left", "a", "the tower", "b c", "the woman", "x"]
EARLIER = {
    "qwen2_vl": "model.",
    "qwen2_5_vl": "model.",
    "llava_next": "language_model.model.",
    "mllama": "language_model.model.",
    "internvl": "language_model.model.",
}
"""What stood in front of `layers.` before transformers 4.52, by family."""


def theirs(folder: Path, model: Any, **settings: Any) -> Any:
    """An adapter that PEFT alone made, moved and stored; the PEFT model."""
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": INSIDE, "task_type": "CAUSAL_LM", **settings}
    )
    wrapped = get_peft_model(model, config).eval()
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in parameters(wrapped).values():
            value.copy_(0.1 * torch.randn(value.shape, generator=draws))
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return wrapped


def opened(folder: Path, name: str = "qwen2_vl") -> LocalWriter:
    return LocalWriter.from_parts(
        *tiny_families.build(name), adapter=folder, resources=Resources(open_image=tiny.picture)
    )


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def rename(folder: Path, old: str, new: str) -> None:
    """The tensors' names with another beginning."""
    path = folder / "adapter_model.safetensors"
    save_file({key.replace(old, new): value for key, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 32, r"layers\.1\.mlp\.down_proj": 2}},
        {"rank_pattern": {r"model\.language_model\.layers\.0\.self_attn\.v_proj": 2, "q_proj": 8}},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"target_modules": ["v_proj", "mlp.down_proj"], "layers_to_transform": [1]},
        {"target_modules": ["language_model.layers.1.self_attn.q_proj"]},
        {"target_modules": INSIDE, "exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_field_m5_scales_and_patterns_are_pefts_own(settings: dict[str, Any], tmp_path) -> None:
    """Log-probabilities are those of PEFT by itself, and again after being saved from here."""
    model = theirs(tmp_path / "a", tiny.model(), **settings)
    writer = opened(tmp_path / "a")
    batch = inputs(tiny.processor(), tiny.QUERIES, TEXTS)
    with torch.no_grad():
        expected = model(**batch).logits.log_softmax(-1)
        plain = tiny.model()(**batch).logits.log_softmax(-1)
        found = writer.model(**batch).logits.log_softmax(-1)
    assert (expected - plain).abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-6
    writer.save_adapter(tmp_path / "b")
    again = PeftModel.from_pretrained(tiny.model(), tmp_path / "b").eval()
    with torch.no_grad():
        assert (again(**batch).logits.log_softmax(-1) - expected).abs().max() < 1e-6
    opened(tmp_path / "b").load_adapter(tmp_path / "a")


def test_field_m5_another_scale_is_no_match_for_a_writer(tmp_path) -> None:
    theirs(tmp_path / "plain", tiny.model())
    theirs(tmp_path / "stabilised", tiny.model(), use_rslora=True)
    theirs(tmp_path / "patterned", tiny.model(), alpha_pattern={"q_proj": 1})
    writer = opened(tmp_path / "plain")
    with pytest.raises(InputError, match="rank 4, alpha 8, use_rslora; wanted rank 4, alpha 8: "):
        writer.load_adapter(tmp_path / "stabilised")
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.q_proj has a rank or alpha of"):
        writer.load_adapter(tmp_path / "patterned")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias lora_only"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights loftq"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"a_setting_of_tomorrow": {"x": 1}}, "a_setting_of_tomorrow"),
        ({"use_dora": True, "bias": "all"}, "bias all, use_dora"),
    ],
)
def test_field_m5_what_is_not_honoured_is_refused_by_name(settings, told, tmp_path) -> None:
    theirs(tmp_path, tiny.model())
    edit(tmp_path, **settings)
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert f"adapter with {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 0}, "r: got 0; wanted a rank"),
        ({"lora_alpha": "8"}, "lora_alpha: got '8'; wanted a number"),
        ({"rank_pattern": {"q_proj": 1.5}}, "q_proj: got 1.5; wanted a rank"),
        ({"alpha_pattern": ["q_proj"]}, r"alpha_pattern: got \['q_proj'\]; wanted an object"),
        ({"target_modules": "(q_proj"}, "not a pattern of names"),
        ({"target_modules": ["q_proj"]}, "tensors do not fit|adapter on"),
        ({"target_modules": ["v_proj", "q_proj", "qkv", "down_proj"]}, None),
    ],
)
def test_odd_settings_are_one_line(settings, told, tmp_path) -> None:
    """The last names a layer of the tower too, which this adapter holds no weights of: it is
    opened, as a list stands for layers of the language model."""
    theirs(tmp_path, tiny.model())
    edit(tmp_path, **settings)
    if told is None:
        opened(tmp_path)
        return
    with pytest.raises(InputError, match=told):
        opened(tmp_path)


def test_weights_that_are_no_pair_of_matrices_are_refused_by_name(tmp_path) -> None:
    theirs(tmp_path, tiny.model())
    path = tmp_path / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.lm_head.weight": torch.ones(2, 2)}, path)
    with pytest.raises(InputError, match=r"holds base_model\.model\.lm_head\.weight"):
        opened(tmp_path)


def test_an_adapter_on_the_tower_is_refused_by_name(tmp_path) -> None:
    theirs(tmp_path, tiny.model(), target_modules=["q_proj", "qkv"])
    with pytest.raises(InputError, match=r"no adapter can be on model\.visual\.blocks\.0\.attn"):
        opened(tmp_path)


@pytest.mark.parametrize("name", sorted(EARLIER))
@pytest.mark.parametrize("by", ["list", "pattern"])
def test_field_m6_layers_named_as_before_transformers_4_52(name, by, tmp_path) -> None:
    """Renamed and opened: equal to the later naming to 1e-6, patterns included."""
    settings = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 1}}
    theirs(tmp_path / "later", tiny_families.build(name)[0], **settings)
    shutil.copytree(tmp_path / "later", tmp_path / "earlier")
    rename(tmp_path / "earlier", "model.language_model.", EARLIER[name])
    begin = EARLIER[name].replace(".", r"\.")
    layer = rf"{begin}layers\.1\.mlp\.down_proj"
    edit(
        tmp_path / "earlier",
        alpha_pattern={layer: 1},
        target_modules=["q_proj", "v_proj", "down_proj"]
        if by == "list"
        else rf"^(?:{begin})(?!.*(vision|visual)).*\.(q_proj|v_proj|down_proj)$",
    )
    assert EARLIER[name] + "layers" in str(
        list(load_file(tmp_path / "earlier/adapter_model.safetensors"))
    )
    later, earlier = opened(tmp_path / "later", name), opened(tmp_path / "earlier", name)
    scores = [one.score(tiny.QUERIES, TEXTS) for one in (later, earlier)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    later.load_adapter(tmp_path / "earlier")
    assert later.score(tiny.QUERIES, TEXTS) == pytest.approx(scores[0], abs=1e-6)
    earlier.save_adapter(tmp_path / "again")
    keys = list(load_file(tmp_path / "again/adapter_model.safetensors"))
    assert all(key.startswith("base_model.model.model.language_model.layers.") for key in keys)


def test_field_m6_the_tower_in_the_earlier_naming_is_refused(tmp_path) -> None:
    theirs(tmp_path, tiny.model(), target_modules=["q_proj", "qkv"])
    rename(tmp_path, "model.language_model.", "model.")
    rename(tmp_path, "model.visual.", "visual.")
    with pytest.raises(InputError, match=r"no adapter can be on visual\.blocks\.0\.attn\.qkv"):
        opened(tmp_path)
