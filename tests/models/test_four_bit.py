"""Base weights held in 4 bits: NF4 by bitsandbytes' CPU backend, tiny random models.

What a packed writer computes is held against an ordinary model whose weights are the packed ones,
unpacked: no layer of bitsandbytes takes part in the other side of a comparison.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import four_bit_round
import numpy as np
import pytest
import saved
import test_families as families
import tiny
import tiny_families
import torch
from test_families import CHOSEN, QUERIES, REFERENCE, REJECTED, STEPS, ByNoise, gradients
from torch import nn
from transformers import GenerationConfig

from groundling.config import GrounderConfig, LoraConfig, WriterConfig
from groundling.errors import InputError
from groundling.models import lora, meta
from groundling.models.base import Demonstration, Preference, Sampling
from groundling.models.checkpoints import open_checkpoint
from groundling.models.decoding import Noise
from groundling.models.engines import PackedEngine
from groundling.models.families import family_of
from groundling.models.local import Adapter, LocalWriter, Resources
from groundling.models.registry import open_grounder, open_writer
from groundling.planning import terms

bitsandbytes = pytest.importorskip("bitsandbytes")

NAMES = ("qwen2_vl", "qwen3_5", "mllama")
"""Laid out by hand; with linear attention, one answer a sequence; with cross-attention."""

DEMONSTRATIONS = [Demonstration(*pair) for pair in zip(QUERIES, CHOSEN, strict=True)]
PREFERENCES = [
    Preference(query, chosen, rejected, *reference)
    for query, chosen, rejected, reference in zip(QUERIES, CHOSEN, REJECTED, REFERENCE, strict=True)
]


def save(model, processor, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def load(folder: Path, *, adapter=None, four_bit: bool = True, **resources) -> LocalWriter:
    return LocalWriter.load(
        folder,
        adapter=adapter or Adapter(rank=4, alpha=8, seed=0),
        four_bit=four_bit,
        resources=Resources(open_image=tiny.picture, **resources),
    )


def packed(model) -> dict[str, nn.Module]:
    """Layers that bitsandbytes holds, by the names that they have without an adapter."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }


def unpacked(layer) -> torch.Tensor:
    return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def contents(model) -> dict[str, torch.Tensor]:
    """All frozen numbers: parameters, and the scales of packed ones."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            found[name] = parameter.detach().clone()
            if (state := getattr(parameter, "quant_state", None)) is not None:
                found[f"{name}.scales"] = state.absmax.clone()
    return found


def build(name: str):
    """A model of the family whose layers are as wide as whole blocks of 64 weights."""
    with pytest.MonkeyPatch.context() as patch:
        return saved.build(name, patch)


by_hand = pytest.mark.parametrize("name", ["qwen2_vl"], indirect=True)
"""For what does not differ between the families."""


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(name, tmp_path_factory) -> Path:
    return save(*build(name), tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def writer(checkpoint) -> LocalWriter:
    """In 4 bits, with an adapter that has already moved."""
    made = load(checkpoint)
    tiny.move(made)
    return made


def unpack(name: str, writer: LocalWriter, folder: Path) -> LocalWriter:
    """The same writer with its 4-bit weights in ordinary layers, run by the stock forward pass."""
    model, processor = build(name)
    layers = packed(writer.model.get_base_model())
    with torch.no_grad():
        for path, layer in layers.items():
            model.get_submodule(path).weight.copy_(unpacked(layer))
    writer.save_adapter(folder)
    return LocalWriter.from_parts(
        model.to(next(iter(layers.values())).compute_dtype),
        processor,
        adapter=folder,
        resources=Resources(engine="stock", open_image=tiny.picture),
    )


@pytest.fixture(scope="module")
def ordinary(name, writer, tmp_path_factory) -> LocalWriter:
    return unpack(name, writer, tmp_path_factory.mktemp("adapter"))


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_the_layers_of_the_language_model_are_packed_and_no_others(name, tmp_path):
    whole, processor = build(name)
    model, _ = open_checkpoint(save(whole, processor, tmp_path), torch.float32, four_bit=True)
    wanted = {
        path
        for path, module in whole.named_modules()
        if isinstance(module, nn.Linear)
        and ".language_model.layers." in path
        and not path.endswith(("in_proj_a", "in_proj_b"))  # Qwen3.5: one number a head
    }
    found = packed(model)
    assert found.keys() == wanted
    for path, layer in found.items():
        before = whole.get_submodule(path).weight
        largest = before.flatten().view(-1, 64).abs().amax(1, keepdim=True)
        off = (unpacked(layer) - before).flatten().view(-1, 64).abs()
        assert (layer.weight.dtype, layer.weight.nbytes) == (torch.uint8, before.numel() // 2)
        assert (off <= 0.17 * largest).all()  # half of NF4's widest gap, and the scale's rounding
    own = dict(model.named_parameters())
    for path, value in whole.named_parameters():
        if path.removesuffix(".weight") not in wanted:
            assert torch.equal(own[path], value), path


def test_a_head_that_is_tied_to_the_embeddings_stays_tied(tmp_path):
    whole, processor = build("qwen2_vl")
    whole.config.tie_word_embeddings = True
    whole.tie_weights()
    model, _ = open_checkpoint(save(whole, processor, tmp_path), torch.float32, four_bit=True)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, whole.lm_head.weight)


def test_scores_are_those_of_the_unpacked_weights_and_of_the_stock_pass(name, writer, ordinary):
    ours, theirs = (torch.tensor(made.score(QUERIES, CHOSEN)) for made in (writer, ordinary))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=3e-5)
    assert isinstance(writer.chat.engine, PackedEngine) == (name == "qwen2_vl")
    with torch.no_grad():
        theirs = families.plain(writer, build(name)[1], CHOSEN)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=3e-5)


def test_sampling_is_that_of_generate(name, writer, ordinary, monkeypatch):
    """The same tokens by the same noise, by `generate` of the packed and of the unpacked model."""
    monkeypatch.setattr(writer.chat.wording, "ends", (-1,))
    noise = np.stack([Noise(3, STEPS).of(query.id, 2) for query in QUERIES])
    with torch.no_grad():
        ours = writer.chat.engine.draw(tiny.prompts(writer, QUERIES), noise, 0.8, STEPS)
    batch = families.together(build(name)[1], QUERIES)
    for made in (writer, ordinary):
        for k in range(2):
            theirs = made.model.generate(
                **batch,
                logits_processor=[ByNoise(noise[:, k], 0.8)],
                generation_config=GenerationConfig(
                    do_sample=False, max_new_tokens=STEPS, eos_token_id=0, pad_token_id=0
                ),
            )[:, batch["input_ids"].shape[1] :]
            assert [list(row[k].tokens) for row in ours] == theirs.tolist()


@pytest.mark.parametrize(
    "loss",
    [lambda made: made.sft_loss(DEMONSTRATIONS), lambda made: made.dpo_loss(PREFERENCES, 0.1)],
    ids=["sft", "dpo"],
)
def test_losses_and_gradients_are_those_of_the_unpacked_weights(loss, writer, ordinary):
    """After sampling, too: a pass without gradients leaves nothing behind."""
    writer.sample(QUERIES, 1, Sampling(0.8, 3), 0, "w")
    ours, theirs = loss(writer), loss(ordinary)
    assert ours.isfinite()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    first, second = gradients(writer, ours), gradients(ordinary, theirs)
    assert torch.linalg.vector_norm(first - second) < 1e-5 * torch.linalg.vector_norm(second)


def test_checkpointing_changes_no_gradient(checkpoint, writer):
    thrifty = load(checkpoint, checkpointing=True)
    tiny.move(thrifty)
    first, second = (gradients(made, made.dpo_loss(PREFERENCES, 0.1)) for made in (thrifty, writer))
    assert torch.linalg.vector_norm(first - second) < 1e-5 * torch.linalg.vector_norm(second)


def test_steps_lower_the_loss_and_move_the_adapter_alone(checkpoint):
    made = load(checkpoint)
    before = contents(made.model)
    optimiser = torch.optim.AdamW(made.trainable().values(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = made.sft_loss(DEMONSTRATIONS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1
    moved = {key for key, value in made.model.named_parameters() if value.grad is not None}
    assert moved == made.trainable().keys()
    assert all(value.dtype == torch.float32 for value in made.trainable().values())
    after = contents(made.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@by_hand
def test_an_adapter_comes_back_onto_packed_and_onto_whole_weights(checkpoint, writer, tmp_path):
    writer.save_adapter(tmp_path)
    again = load(checkpoint, adapter=tmp_path)
    assert again.score(QUERIES, CHOSEN) == writer.score(QUERIES, CHOSEN)
    whole = load(checkpoint, adapter=tmp_path, four_bit=False)
    for path, value in whole.trainable().items():
        assert torch.equal(value, writer.trainable()[path])


def test_packed_layers_are_not_merged(writer):
    before = contents(writer.model)
    with lora.merged(writer.model):
        assert all(not layer.merged_adapters for layer in lora._layers(writer.model))
        inside = contents(writer.model)
    assert all(torch.equal(value, inside[key]) for key, value in before.items())


def test_features_of_pictures_are_those_of_the_whole_weights(tmp_path):
    model, processor = build("qwen2_vl")
    made = load(save(model, processor, tmp_path))
    paths = [query.image for query in QUERIES]
    assert made.prepare(paths) == [None] * len(paths)
    whole = LocalWriter.from_parts(model, processor, resources=Resources(open_image=tiny.picture))
    for one, other in zip(tiny.prompts(made, QUERIES), tiny.prompts(whole, QUERIES), strict=True):
        assert torch.equal(one.image.features, other.image.features)


@by_hand
def test_half_precision_computes_in_half_precision(name, checkpoint, tmp_path):
    tiny.require_attention(torch.bfloat16)
    made = LocalWriter.load(
        checkpoint,
        adapter=Adapter(4, 8),
        dtype=torch.bfloat16,
        four_bit=True,
        resources=Resources(open_image=tiny.picture),
    )
    layers = packed(made.model.get_base_model()).values()
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    floats = {p.dtype for p in made.model.get_base_model().parameters() if not p.requires_grad}
    assert floats == {torch.bfloat16, torch.uint8}
    ours, theirs = (
        torch.tensor(one.score(QUERIES, CHOSEN)) for one in (made, unpack(name, made, tmp_path))
    )
    assert (ours - theirs).abs().max() < 0.3
    made.dpo_loss(PREFERENCES, 0.1).backward()
    assert all(value.grad.isfinite().all() for value in made.trainable().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_counts_the_bytes_that_are_there(dtype, tmp_path):
    """Up to the tables of 16 and 256 levels that each layer has, however large it is."""
    whole = tiny.toy_sized()
    model, _ = open_checkpoint(save(whole, tiny.processor(), tmp_path), dtype, four_bit=True)
    held = sum(parameter.nbytes for parameter in model.parameters())
    for layer in packed(model).values():
        state = layer.weight.quant_state
        held += state.absmax.nbytes + state.state2.absmax.nbytes + state.offset.nbytes
    outline = meta.read_outline("x", whole, family_of(whole.config))
    planned = terms.weights_in_4_bits(outline.parameters, outline.linear, dtype.itemsize)
    assert held == pytest.approx(planned, rel=1e-3)
    assert outline.largest == max(unpacked(layer).numel() for layer in packed(model).values())


def test_layers_that_a_cpu_would_unpack_wrongly_are_refused(tmp_path):
    save(*tiny_families.build("qwen2_vl"), tmp_path)
    with pytest.raises(InputError, match=r"q_proj: 32 inputs; wanted a multiple of 64"):
        load(tmp_path)


@by_hand
def test_a_recipe_opens_both_models_in_4_bits(checkpoint):
    writer = open_writer(
        WriterConfig(backend="local", path=str(checkpoint), load_in_4bit=True), LoraConfig(), 0
    )
    grounder = open_grounder(GrounderConfig(backend="vlm", path=str(checkpoint), load_in_4bit=True))
    assert packed(writer.module())
    assert packed(grounder.module())


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_go_through_a_round_as_one_does(fsdp, tmp_path):
    base = save(*build("qwen2_vl"), tmp_path / "base")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, four_bit_round.__file__, str(base), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": str(fsdp).lower()},
    )
    assert done.returncode == 0, done.stderr
    four_bit_round.main(base, tmp_path / "one")
    wanted = json.loads((tmp_path / "one" / "told-0.json").read_text())
    for rank in (0, 1):
        told = json.loads((tmp_path / "two" / f"told-{rank}.json").read_text())
        assert told["drawn"] == wanted["drawn"]
        for key in ("scores", "after"):
            assert told[key] == pytest.approx(wanted[key], rel=1e-5)
