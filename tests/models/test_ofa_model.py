"""The model against recorded outputs of the original, and against itself."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import tiny_ofa
import torch
from safetensors.torch import load_file
from torch.nn import functional

from groundling.models.ofa import OFAConfig, OFAModel
from groundling.models.ofa.config import SIZES, published, size_of
from groundling.models.ofa.search import beam_search

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity" / "ofa"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def original() -> OFAModel:
    if not PARITY.is_dir():
        pytest.skip("parity/ofa is not in ../shared beside the checkout")
    return OFAModel.from_pretrained(PARITY).eval()


@pytest.fixture(scope="module")
def cases(original: OFAModel) -> dict[str, torch.Tensor]:
    assert original is not None
    return load_file(PARITY / "cases.safetensors")


def apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


def inputs(cases: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: cases[name] for name in ("input_ids", "patch_images", "patch_masks")}


@torch.no_grad()
def test_logits_and_encoder_states(original, cases):
    out = original(**inputs(cases), decoder_input_ids=cases["decoder_input_ids"])
    assert apart(out.logits, cases["logits"]) < TOLERANCE
    states = cases["encoder_last_hidden_state"]
    assert apart(out.encoder_last_hidden_state, states) < TOLERANCE


@torch.no_grad()
def test_a_wide_picture(original, cases):
    wide = inputs(cases) | {"patch_images": cases["patch_images_wide"]}
    out = original(**wide, decoder_input_ids=cases["decoder_input_ids"])
    assert apart(out.logits, cases["logits_wide"]) < TOLERANCE


def test_greedy_and_beam_answers(original, cases):
    encoding = original.encode(**inputs(cases))
    every = torch.arange(original.config.vocab_size)
    greedy = beam_search(original, encoding, steps=6, beams=1, allowed=every)
    assert torch.equal(greedy.tokens[:, 0], cases["greedy"][:, 1:])
    beams = beam_search(original, encoding, steps=5, beams=5, end=False)
    assert torch.equal(beams.tokens[:, 0], cases["beam5"][:, 1:-1])


def test_loss_and_gradients(original, cases):
    """In double precision: in single, a ReLU of the convolutions whose input is 0 but for rounding
    opens or not as the processor adds up, and moves gradients by up to 8e-4.
    """
    model = deepcopy(original).double()
    tokens = cases["decoder_input_ids"]
    exact = {
        name: value.double() if value.is_floating_point() else value
        for name, value in inputs(cases).items()
    }
    logits = model(**exact, decoder_input_ids=tokens[:, :-1]).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(cases["loss"].item(), rel=TOLERANCE)
    loss.backward()
    norms = {
        name: parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    wanted = json.loads((PARITY / "grad_norms.json").read_text())
    # A key's bias shifts all scores of a query alike: its true gradient is 0, the rest is noise.
    noise = {name for name in wanted if name.endswith(("k_proj.bias", "pos_k_linear.bias"))}
    assert norms.keys() == wanted.keys()
    for name in wanted.keys() - noise:
        assert norms[name] == pytest.approx(wanted[name], rel=TOLERANCE), name
    assert max(max(norms[name], wanted[name]) for name in noise) < 1e-6


def test_stored_and_other_precisions(original):
    half = OFAModel.from_pretrained(PARITY, dtype=torch.bfloat16)
    assert (original.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    stored = load_file(PARITY / "model.safetensors")
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter, stored[name]), name
    for name, buffer in original.named_buffers():
        if name.endswith("rp_bucket"):
            assert torch.equal(buffer, half.get_buffer(name)), name


# What follows needs no recorded outputs.


@pytest.fixture(scope="module")
def model() -> OFAModel:
    return tiny_ofa.model()


def batch(size: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 200, (size, 9), generator=generator)
    for row in range(1, size):
        tokens[row, -row:] = 1
    return {
        "input_ids": tokens,
        "patch_images": torch.rand(size, 3, 64, 48, generator=generator) * 2 - 1,
        "decoder_input_ids": torch.randint(4, 200, (size, 6), generator=generator),
    }


@torch.no_grad()
def test_cached_steps_equal_the_whole(model):
    given = batch()
    whole = model(**given).logits
    encoding = model.encode(given["input_ids"], given["patch_images"])
    cache, parts = None, []
    for begin, end in ((0, 1), (1, 2), (2, 5), (5, 6)):
        step = model(
            encoder_outputs=encoding,
            decoder_input_ids=given["decoder_input_ids"][:, begin:end],
            past_key_values=cache,
            use_cache=True,
        )
        cache = step.past_key_values
        parts.append(step.logits)
    assert cache.length == 6
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_several_answers_share_one_encoding(model):
    given = batch()
    encoding = model.encode(given["input_ids"], given["patch_images"])
    several = torch.randint(4, 200, (3, 2, 4), generator=torch.Generator().manual_seed(1))
    together = model(encoder_outputs=encoding, decoder_input_ids=several.flatten(0, 1)).logits
    for k in range(2):
        alone = model(encoder_outputs=encoding, decoder_input_ids=several[:, k]).logits
        torch.testing.assert_close(together[k::2], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(model):
    given = batch(1)
    longer = functional.pad(given["input_ids"], (0, 4), value=1)
    padded = model(**given | {"input_ids": longer}).logits
    torch.testing.assert_close(padded, model(**given).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_masked_picture_is_not_seen(model):
    given = batch()
    blind = model(**given, patch_masks=torch.tensor([True, False, True])).logits
    other = given | {"patch_images": given["patch_images"].flip(-1)}
    blind_too = model(**other, patch_masks=torch.tensor([True, False, True])).logits
    torch.testing.assert_close(blind[1], blind_too[1])
    assert apart(blind[0], blind_too[0]) > 1e-3
    text_only = model(given["input_ids"], decoder_input_ids=given["decoder_input_ids"]).logits
    assert text_only.shape == blind.shape


@torch.no_grad()
def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sorted(n for n in stored if "embed_tokens" in n or "output_projection" in n) == [
        "encoder.embed_tokens.weight"
    ]
    assert not [name for name in stored if "bucket" in name]
    again = OFAModel.from_pretrained(tmp_path).eval()
    assert again.decoder.output_projection.weight is again.encoder.embed_tokens.weight
    assert again.decoder.embed_tokens.weight is again.encoder.embed_tokens.weight
    assert again.config.to_diff_dict().items() >= tiny_ofa.config().to_diff_dict().items()
    assert torch.equal(again(**batch()).logits, model(**batch()).logits)


def test_checkpointing_changes_no_gradient():
    found = []
    for on in (False, True):
        model = tiny_ofa.model(encoder_drop_path_rate=0.3, decoder_drop_path_rate=0.3)
        model.set_gradient_checkpointing(on)
        model.train()
        torch.manual_seed(5)
        model(**batch()).logits.square().mean().backward()
        found.append(
            {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            | dict(model.named_buffers())
        )
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-8, msg=name)


def test_drop_path_leaves_out_whole_examples():
    model = tiny_ofa.model(dropout=0.0).train()
    model.set_drop_path(0.5)
    layer = model.encoder.layers[1]
    assert (model.encoder.layers[0].drop_path.rate, layer.drop_path.rate) == (0.0, 0.5)
    torch.manual_seed(0)
    branch = layer.drop_path(torch.ones(400, 3, 2))
    assert set(branch.unique().tolist()) == {0.0, 2.0}
    assert (branch == branch[:, :1, :1]).all()
    assert 0.4 < (branch > 0).float().mean() < 0.6


def test_what_does_not_fit_is_refused(model):
    given = batch(1)
    with pytest.raises(ValueError, match="at most 128 can be read"):
        model(**given | {"input_ids": torch.full((1, 129), 5)})
    with pytest.raises(ValueError, match="at most 128 can be written"):
        model(**given | {"decoder_input_ids": torch.full((1, 129), 5)})
    with pytest.raises(ValueError, match="at most 8 a side"):
        model(**given | {"patch_images": torch.zeros(1, 3, 64, 144)})
    with pytest.raises(ValueError, match="neither input_ids nor encoder_outputs"):
        model(decoder_input_ids=given["decoder_input_ids"])
    with pytest.raises(ValueError, match="decoder_input_ids missing"):
        model(given["input_ids"])
    with pytest.raises(ValueError, match="normformer False"):
        OFAModel(tiny_ofa.config(normformer=False))
    with pytest.raises(ValueError, match="resnet_type 'vit'"):
        OFAModel(tiny_ofa.config(resnet_type="vit"))


@pytest.mark.parametrize(
    ("size", "millions"),
    [("tiny", 33), ("medium", 93), ("base", 182), ("large", 472), ("huge", 930)],
)
def test_published_sizes(size, millions):
    config = published(size)
    assert size_of(config) == size
    with torch.device("meta"):
        model = OFAModel(config)
    # Wang et al. 2022, Table 1, whose figures leave out some of the tables of positions.
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_no_other_size():
    assert size_of(tiny_ofa.config()) is None
    assert isinstance(published(SIZES[0]), OFAConfig)
    with pytest.raises(KeyError):
        published("enormous")
