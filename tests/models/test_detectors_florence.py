from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_detectors import tiny_dino, tiny_florence2
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from groundling.config import GrounderConfig
from groundling.errors import InputError
from groundling.images import load_image
from groundling.models.base import GroundingExample
from groundling.models.detectors import FlorenceGrounder
from groundling.models.detectors.boxes import LocationGrid
from groundling.models.grounding import NO_NUMBER
from groundling.models.registry import open_grounder
from groundling.records import Box, Failure, Grounded

SIZES = [(64, 48), (30, 90)]
BINS = [(100, 200, 499, 999), (0, 50, 700, 300)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_florence2(tmp_path_factory.mktemp("model") / "weights")


@pytest.fixture
def model(checkpoint: Path) -> FlorenceGrounder:
    return FlorenceGrounder.load(checkpoint, max_new_tokens=24)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for i, size in enumerate(SIZES):
        Image.new("RGB", size, ("red", "blue")[i]).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(len(SIZES))]


def answer_ids(model: FlorenceGrounder, text: str) -> list[int]:
    ids: list[int] = model.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def locations(*numbers: int) -> str:
    return "".join(f"<loc_{number}>" for number in numbers)


# --------------------------------------------------------------------------------- prompts


def test_the_prompt_is_the_librarys(model: FlorenceGrounder, pictures: list[str]) -> None:
    expressions = ["the man", "The person in red, on the left."]
    ids, mask = model._prompts(expressions)
    made = model.processor(
        images=[load_image(path) for path in pictures],
        text=[f"<OPEN_VOCABULARY_DETECTION>{expression}" for expression in expressions],
        padding=True,
        return_tensors="pt",
    )
    assert torch.equal(ids, made["input_ids"])
    assert torch.equal(mask, made["attention_mask"])
    for path, pixels in zip(pictures, made["pixel_values"], strict=True):
        assert torch.equal(model.pictures.read(path).pixels, pixels)


def test_special_tokens_in_an_expression_are_left_out_and_long_ones_cut(
    model: FlorenceGrounder,
) -> None:
    ids, mask = model._prompts(["a<loc_5> man</s>{input}", "man " * 400, "<OD> <image>"])
    shown = [model.processor.tokenizer.decode(row[mask[i] > 0]) for i, row in enumerate(ids)]
    start = "<image>" * 17 + "<s>Locate "
    assert shown[0] == f"{start}a man{{input}} in the image.</s>"
    assert ids.shape[1] == model.model.config.text_config.max_position_embeddings
    assert shown[1].startswith(f"{start}man man man")
    assert shown[1].endswith("</s>")
    assert shown[2].count("<image>") == 17


def test_the_other_task(checkpoint: Path) -> None:
    model = FlorenceGrounder.load(checkpoint, task="<CAPTION_TO_PHRASE_GROUNDING>")
    ids, _ = model._prompts(["the man"])
    assert "Locate the phrases in the caption: the man</s>" in model.processor.tokenizer.decode(
        ids[0]
    )


# --------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"<s>man{locations(1, 2, 3, 4)}</s>", 4),
        (f"man{locations(1, 2, 3, 4)}</s><pad><pad>", 3),
        (f"<s>man{locations(1, 2, 3, 4, 5, 6, 7, 8)}</s>", 4),
        (f"<s>man{locations(1, 2, 3, 4)}dog{locations(5, 6, 7, 8)}</s>", 4),
    ],
)
def test_the_first_box_of_an_answer(model: FlorenceGrounder, text: str, place: int) -> None:
    assert model._first_box(answer_ids(model, text)) == place


@pytest.mark.parametrize(
    "text",
    [
        "<s></s>",
        "<s>man</s>",
        f"<s>{locations(1, 2, 3, 4)}</s>",
        f"<s>man{locations(1, 2, 3)}</s>",
        f"<s>man{locations(1, 2, 3, 4, 5)}</s>",
        f"<s>man{locations(1, 2, 3, 4)}dog</s>",
        f"<s>man<poly>{locations(1, 2, 3, 4, 5, 6)}</poly></s>",
        f"<s>man{locations(1, 2, 3, 4)}<sep>{locations(1, 2, 3, 4)}</s>",
        f"<s><s>man{locations(1, 2, 3, 4)}</s>",
    ],
)
def test_anything_else_is_a_failure(model: FlorenceGrounder, text: str) -> None:
    found = model._first_box(answer_ids(model, text))
    assert isinstance(found, Failure)
    assert found.stage == "parse"
    assert "not phrases with boxes of four" in found.reason


def test_an_answer_without_its_end_is_a_failure(model: FlorenceGrounder) -> None:
    row = answer_ids(model, f"<s>man{locations(1, 2, 3, 4)}")
    found = model._first_box(row)
    assert isinstance(found, Failure)
    assert "cut off after 8 tokens" in found.reason
    long = answer_ids(model, "<s>" + "man" * 10)[:19] + answer_ids(model, locations(1, 2, 3, 4))
    forced = model._first_box([*long, model.processor.tokenizer.eos_token_id])
    assert isinstance(forced, Failure)  # an end that generation forced at the limit of 24
    assert "cut off" in forced.reason


# ------------------------------------------------------------------------------- answering


def teach(model: FlorenceGrounder, pictures: Sequence[str], answers: Sequence[str]) -> None:
    """Have the tiny model give one answer a picture."""
    ids, mask = model._prompts(["the man"] * len(pictures))
    pixels = torch.stack([model.pictures.read(path).pixels for path in pictures])
    labels = torch.tensor([answer_ids(model, text) for text in answers])
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=1e-2)
    model.model.eval()  # no dropout: two answers, quickly
    for _ in range(80):
        loss = model.model(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


@pytest.fixture(scope="module")
def taught(checkpoint: Path, pictures: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = FlorenceGrounder.load(checkpoint)
    teach(model, pictures, [f"<s>the man{locations(*numbers)}</s>" for numbers in BINS])
    folder = tmp_path_factory.mktemp("taught")
    model.save(folder)
    return folder


@pytest.mark.parametrize("beams", [1, 3])
def test_a_box_for_each_picture(
    taught: Path, pictures: list[str], beams: int, tmp_path: Path
) -> None:
    model = FlorenceGrounder.load(taught, beams=beams, max_new_tokens=24)
    requests = [(path, "the man") for path in (*pictures, *pictures[::-1])]
    requests += [(pictures[0], " "), (str(tmp_path / "gone.png"), "the man")]
    found = model.ground(requests)
    assert found[:2] == found[3:1:-1]
    for answer, numbers, size in zip(found[:2], BINS, SIZES, strict=True):
        assert isinstance(answer, Grounded)
        assert answer.box == LocationGrid().to_pixels(numbers, size)
        assert answer.score is not None
        assert 0.5 < answer.score <= 1
    assert [a.stage for a in found if isinstance(a, Failure)] == ["ground", "image"]
    alone = [model.ground([request])[0] for request in requests[:2]]
    for one, other in zip(alone, found, strict=False):
        assert isinstance(one, Grounded)
        assert isinstance(other, Grounded)
        assert one.box == other.box
        assert one.score == pytest.approx(other.score, abs=1e-5)


def test_the_score_is_that_of_the_four_tokens(taught: Path, pictures: list[str]) -> None:
    model = FlorenceGrounder.load(taught, max_new_tokens=24)
    (answer,) = model.ground([(pictures[0], "the man")])
    said = answer_ids(model, f"<s>the man{locations(*BINS[0])}</s>")
    ids, mask = model._prompts(["the man"])
    start = model.model.config.text_config.decoder_start_token_id
    with torch.no_grad():
        logits = model.model(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=model.pictures.read(pictures[0]).pixels[None],
            decoder_input_ids=torch.tensor([[start, *said[:-1]]]),
        ).logits[0]
    logprobs = logits.log_softmax(-1)[range(len(said)), said]
    place = said.index(answer_ids(model, "<loc_100>")[0])
    assert isinstance(answer, Grounded)
    assert answer.score == pytest.approx(math.exp(logprobs[place : place + 4].sum()), rel=1e-4)


def test_an_untrained_model_gives_failures(model: FlorenceGrounder, pictures: list[str]) -> None:
    found = model.ground([(path, "the man") for path in pictures])
    assert all(isinstance(answer, Failure) and answer.stage == "parse" for answer in found)
    assert model.ground([]) == []


@pytest.mark.parametrize("beams", [1, 3])
def test_numbers_that_are_none_are_no_answer(
    checkpoint: Path, pictures: list[str], beams: int
) -> None:
    model = FlorenceGrounder.load(checkpoint, beams=beams, max_new_tokens=24)
    with torch.no_grad():
        model.model.model.multi_modal_projector.image_proj_norm.bias.fill_(math.nan)
    assert model.ground([(pictures[0], "the man")]) == [Failure(NO_NUMBER, "model")]


def test_a_picture_is_seen_once(taught: Path, pictures: list[str]) -> None:
    model = FlorenceGrounder.load(taught, max_new_tokens=24)
    seen: list[int] = []
    handle = model.model.model.vision_tower.convs[0].register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0]))
    )
    model.ground([(path, text) for path in pictures for text in ("the man", "the man ", "a man")])
    handle.remove()
    assert seen == [2]


# ------------------------------------------------------------------------- what it is not for


def test_it_is_not_trained(model: FlorenceGrounder, pictures: list[str]) -> None:
    assert model.trainable() == {}
    with pytest.raises(InputError, match=r"cannot be fine-tuned here; set grounder\.tune to false"):
        model.loss([GroundingExample(pictures[0], "the man", Box(0, 0, 5, 5))])


def test_other_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of type grounding-dino; wanted florence2"):
        FlorenceGrounder.load(tiny_dino(tmp_path / "dino"))
    made = FlorenceGrounder.load(checkpoint)
    made.processor.image_processor = CLIPImageProcessorPil()
    with pytest.raises(InputError, match="crops pictures"):
        FlorenceGrounder(made.model, made.processor)


def test_a_recipe_says_how_many_beams_are_kept(checkpoint: Path) -> None:
    for more, wanted in (({}, 3), ({"beams": 1}, 1)):
        recipe = {"backend": "florence2", "path": str(checkpoint), "tune": False, "device": "cpu"}
        opened = open_grounder(GrounderConfig.model_validate(recipe | more))
        assert isinstance(opened, FlorenceGrounder)
        assert opened.beams == wanted
