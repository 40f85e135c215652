from __future__ import annotations

import pytest
import tiny
import torch
from PIL import Image
from stock import inputs, logprob
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.errors import ImageError, InputError
from groundling.models import qwen2vl
from groundling.models.local import LocalWriter, Resources
from groundling.models.packing import Prompt, Row, answer_logprobs
from groundling.models.qwen2vl import PictureRules, Qwen2VL, Qwen2VLProcessor, prompt_positions

PATHS = ["square-1", "wide-2", "odd-3", "square-4", "tall-5", "wide-6"]


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture
def net(model, processor):
    return Qwen2VL(model, PictureRules(processor.image_processor))


def test_patches_are_those_of_the_stock_image_processor(net, processor):
    for path in PATHS:
        stock = processor.image_processor(images=[tiny.picture(path)], return_tensors="pt")
        ours = net.rules.patches([net.rules.fit(tiny.picture(path))])[0]
        once = stock["pixel_values"].view(len(ours), 3, 2, 14, 14)
        assert torch.equal(once[:, :, 0], once[:, :, 1])
        torch.testing.assert_close(ours, once[:, :, 0].flatten(1), rtol=0, atol=2e-6)


def test_features_equal_the_stock_tower_for_mixed_sizes(net, model, processor):
    pictures = [tiny.picture(path) for path in PATHS]
    batch = processor.image_processor(images=pictures, return_tensors="pt")
    with torch.no_grad():
        stock = model.get_image_features(**batch, return_dict=True).pooler_output
    ours = net.look([net.rules.fit(picture) for picture in pictures])
    assert [tokens.grid for tokens in ours] == [(2, 2), (2, 4), (3, 3), (2, 2), (3, 2), (2, 4)]
    for mine, theirs in zip(ours, stock, strict=True):
        tiny.assert_near(mine.features, theirs)


def test_the_tower_takes_no_more_patches_than_it_may(net, monkeypatch):
    pictures = [net.rules.fit(tiny.picture(f"square-{seed}")) for seed in range(5)]
    alone = [net.look([picture])[0].features for picture in pictures]
    taken = []
    tower = net.tower
    monkeypatch.setattr(
        net, "tower", lambda patches, grid: taken.append(len(patches)) or tower(patches, grid)
    )
    monkeypatch.setattr(qwen2vl, "TOWER_PATCHES", 40)  # a square has 16
    together = net.look(pictures)
    assert taken == [2, 2, 1]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.features, other, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(qwen2vl, "TOWER_PATCHES", 1)
    net.look(pictures)
    assert taken[3:] == [1] * 5


def test_positions_equal_the_models_rope_index(model, processor):
    for query in tiny.QUERIES:
        batch = inputs(processor, [query], [""])
        stock, _ = model.model.get_rope_index(
            batch["input_ids"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["image_grid_thw"],
        )
        ids = batch["input_ids"][0].tolist()
        rows, columns = (side // 2 for side in batch["image_grid_thw"][0, 1:].tolist())
        ours = prompt_positions(len(ids), ids.index(processor.image_token_id), (rows, columns))
        assert ours.tolist() == stock[:, 0].tolist()


def test_max_pixels_overrides_the_checkpoint(processor):
    rules = PictureRules(processor.image_processor, max_pixels=28 * 56)
    assert rules.fit(tiny.picture("wide-0").resize((560, 280))).size == (56, 28)


def test_a_sliver_of_a_picture_is_refused(net):
    with pytest.raises(ImageError, match="6000×20 px"):
        net.rules.fit(tiny.picture("square-0").resize((6000, 20)))


def test_another_family_is_refused():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(InputError, match="wanted a full-attention Qwen2-VL"):
        Qwen2VL(LlamaForCausalLM(config), PictureRules(tiny.processor().image_processor))


def test_processor_survives_a_folder(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    again = Qwen2VLProcessor.from_pretrained(tmp_path)
    first, second = (inputs(one, tiny.QUERIES, [""] * 6) for one in (processor, again))
    assert first["input_ids"].tolist() == second["input_ids"].tolist()
    assert torch.equal(first["pixel_values"], second["pixel_values"])


def test_axes_that_take_turns_equal_the_stock_model(processor):
    turns = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1] * 6}
    model = tiny.model(text={"hidden_size": 48, "rope_parameters": turns})
    net = Qwen2VL(model, PictureRules(processor.image_processor))
    answer = processor.tokenizer("the man on the left<|im_end|>")["input_ids"]
    for query in tiny.QUERIES:
        ids = inputs(processor, [query], [""])["input_ids"][0].tolist()
        picture = net.look([net.rules.fit(tiny.picture(query.image))])[0]
        prompt = Prompt(tuple(ids), ids.index(processor.image_token_id), picture)
        with torch.no_grad():
            ours, _ = answer_logprobs(net, [Row(prompt, (tuple(answer),))])
            stock = logprob(model, processor, query, "the man on the left")
        torch.testing.assert_close(ours.sum(), stock, rtol=1e-5, atol=1e-4)


class OtherResize(Qwen2VLImageProcessorPil):
    """Stands in for a machine whose stock processor resizes otherwise than Pillow's bicubic."""

    def resize(self, image, size, resample, factor, **settings):
        del resample
        return super().resize(image, size, Image.Resampling.BILINEAR, factor, **settings)


def test_field_m12_pixels_are_those_of_the_machines_stock_processor():
    """Patches equal its own, and the scores by hand those of the stock forward pass."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    processor, other = tiny.processor(), OtherResize(size=size)
    picture = tiny.picture("odd-4")
    rules = PictureRules(other)
    ours = rules.patches([rules.fit(picture)])[0]
    theirs = other(images=[picture], return_tensors="pt")["pixel_values"]
    theirs = theirs.view(len(theirs), 3, -1, 14 * 14)[:, :, 0].flatten(1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    pillow = PictureRules(processor.image_processor)
    assert (ours - pillow.patches([pillow.fit(picture)])[0]).abs().max() > 0.1
    processor.image_processor = other
    scores = [
        LocalWriter.from_parts(
            tiny.model(),
            processor,
            resources=Resources(open_image=tiny.picture, engine=engine, max_pixels=limit),
        ).score(tiny.QUERIES[3:5], ["the man", "a"])
        for engine, limit in (("auto", None), ("stock", None), ("auto", 2000), ("stock", 2000))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[2] == pytest.approx(scores[3], abs=1e-5)
