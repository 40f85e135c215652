from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_detectors import bert_tokenizer, tiny_dino, tiny_florence2, tiny_mm_dino
from transformers.models.grounding_dino.modeling_grounding_dino import (
    build_label_maps,
    generate_masks_with_special_tokens_and_transfer_map,
)

from groundling.errors import ImageError, InputError
from groundling.images import load_image
from groundling.models.detectors import DinoGrounder
from groundling.models.detectors.dino import pad_right, phrase_scores
from groundling.models.detectors.opening import Picture, PictureReader, seen_once
from groundling.models.detectors.phrases import PhraseReader
from groundling.models.grounding import NO_NUMBER, Compute
from groundling.records import Failure, Grounded

SIZES = [(64, 64), (120, 60), (50, 90), (80, 80)]
EXPRESSIONS = ["the red square", "a blue circle on the left of the man", "person"]


@pytest.fixture(scope="module", params=[tiny_dino, tiny_mm_dino])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("model") / "weights")
    return made


@pytest.fixture
def model(checkpoint: Path) -> DinoGrounder:
    return DinoGrounder.load(checkpoint, Compute(batch_size=4))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, draws = tmp_path_factory.mktemp("pictures"), torch.Generator().manual_seed(0)
    for i, (width, height) in enumerate(SIZES):
        noise = torch.randint(0, 256, (height // 10, width // 10, 3), generator=draws)
        picture = Image.fromarray(noise.to(torch.uint8).numpy()).resize((width, height))
        picture.save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(len(SIZES))]


def asked(pictures: list[str]) -> list[tuple[str, str]]:
    return [(path, expression) for path in pictures for expression in EXPRESSIONS]


def same(one: Grounded | Failure, other: Grounded | Failure, tolerance_px: float = 1e-2) -> bool:
    assert isinstance(one, Grounded)
    assert isinstance(other, Grounded)
    gaps = [abs(a - b) for a, b in zip(one.box.xyxy, other.box.xyxy, strict=True)]
    assert one.score is not None
    assert other.score == pytest.approx(one.score, abs=1e-4)
    return max(gaps) <= tolerance_px


# ------------------------------------------------------------------------------------- text


def words(numbers: tuple[int, ...] | list[int]) -> str:
    return " ".join(bert_tokenizer().convert_ids_to_tokens(list(numbers)))


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("The RED square", "the red square"),
        ("the red squares.", "the red square ##s"),
        ("  Mr. Bean?? ", "mr bean"),
        ("3.5 persons, in red...", "3 5 person ##s , in red"),
        ("a zebra", "a [UNK]"),
        ("", ""),
        (" . ?", ""),
    ],
)
def test_an_expression_is_one_phrase(expression: str, read: str) -> None:
    assert words(PhraseReader(bert_tokenizer(), 32).read(expression)) == read


def test_no_special_token_can_be_spelt() -> None:
    """Lower-cased they are words; what a tokenizer finds all the same is left out."""
    tokenizer = bert_tokenizer()
    found = PhraseReader(tokenizer, 32).read("[CLS] the [SEP] man [PAD] [MASK]")
    assert not {0, 101, 102, 103} & set(found)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "man"})
    assert words(PhraseReader(tokenizer, 32).read("the man")) == "the"


def test_a_phrase_is_closed_by_a_full_stop_and_long_ones_are_cut() -> None:
    reader = PhraseReader(bert_tokenizer(), 10)
    batch = reader.batch([reader.read("the man"), reader.read("the red man on " * 9)])
    assert words(batch.input_ids[0].tolist()) == "[CLS] the man . [SEP]" + " [PAD]" * 5
    assert words(batch.input_ids[1].tolist()) == "[CLS] the red man on the red man . [SEP]"
    assert batch.attention_mask.tolist() == [[1] * 5 + [0] * 5, [1] * 10]
    assert batch.text.tolist() == [[True] * 5 + [False] * 5, [True] * 10]
    assert batch.phrase[0].tolist() == [False, True, True] + [False] * 7
    assert batch.phrase[1].tolist() == [False] + [True] * 7 + [False] * 2


def test_the_model_sees_one_phrase() -> None:
    """Its own masks: the words and their full stop see each other, padded or not; its own label
    map finds one label, which is the phrase that we score.
    """
    reader = PhraseReader(bert_tokenizer(), 16)
    batch = reader.batch([reader.read("Mr. Bean"), reader.read("the red man on the left")])
    arguments: tuple[Any, ...] = (batch.input_ids,)
    if generate_masks_with_special_tokens_and_transfer_map.__code__.co_argcount == 2:
        arguments += (torch.tensor([101, 102, 1012, 1029]),)
    masks, _ = generate_masks_with_special_tokens_and_transfer_map(*arguments)
    for row, length in enumerate((2, 6)):
        assert masks[row, 1 : length + 2, 1 : length + 2].all()
        assert masks[row, 1 : length + 2].sum() == (length + 1) ** 2
    for row, labels in enumerate(build_label_maps(torch.zeros(2, 1, 16), batch.input_ids)):
        assert labels.bool().tolist() == [batch.phrase[row].tolist()]


def test_a_tokenizer_with_other_delimiters_is_refused() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.sep_token = "[unused1]"
    with pytest.raises(InputError, match=r"wanted \[101, 102, 1012, 1029\]"):
        PhraseReader(tokenizer, 32)


def test_scores_of_a_phrase() -> None:
    logits = torch.tensor([[[9.0, 0.0, math.log(3), -math.inf], [9.0, -9.0, 9.0, -math.inf]]])
    phrase = torch.tensor([[False, True, True, False]])
    mean, best = (phrase_scores(logits, phrase, how) for how in ("mean", "max"))
    assert mean[0].tolist() == pytest.approx([0.625, 0.5], abs=1e-3)
    assert best[0].tolist() == pytest.approx([0.75, 1.0], abs=1e-3)


# --------------------------------------------------------------------------------- pictures


def test_padding_goes_right_and_below() -> None:
    made = [Picture(torch.ones(3, 4, 6), (6, 4)), Picture(torch.full((3, 5, 2), 2.0), (2, 5))]
    pixels, mask = pad_right(made)
    assert pixels.shape == (2, 3, 5, 6)
    assert mask.shape == (2, 5, 6)
    assert pixels[0, :, :4].eq(1).all()
    assert pixels[0, :, 4:].eq(0).all()
    assert pixels[1, :, :, :2].eq(2).all()
    assert pixels[1, :, :, 2:].eq(0).all()
    assert torch.equal(mask.bool(), pixels[:, 0] != 0)


def test_a_sliver_is_padded_to_as_many_cells_as_there_are_queries(
    model: DinoGrounder, tmp_path: Path
) -> None:
    for size in ((300, 2), (2, 300)):
        Image.new("RGB", size, "red").save(tmp_path / "sliver.png")
        (found,) = model.ground([(str(tmp_path / "sliver.png"), "red")])
        assert isinstance(found, Grounded | Failure)
        if isinstance(found, Grounded):
            assert found.box.x2 <= size[0]
            assert found.box.y2 <= size[1]


def test_a_picture_that_cannot_be_resized_is_a_failure(model: DinoGrounder, tmp_path: Path) -> None:
    Image.new("RGB", (9000, 1)).save(tmp_path / "line.png")
    (found,) = model.ground([(str(tmp_path / "line.png"), "red")])
    assert isinstance(found, Failure)
    assert found.stage == "image"
    assert "9000 × 1 pixels cannot be resized" in found.reason


def test_a_picture_that_torchvision_refuses_is_a_failure(
    model: DinoGrounder, pictures: list[str]
) -> None:
    """Its resizing raises RuntimeError where Pillow's raises ValueError."""

    def refuse(**_: object) -> None:
        raise RuntimeError("Input and output sizes should be greater than 0")

    model.pictures = PictureReader(refuse, load_image)
    (found,) = model.ground([(pictures[0], "red")])
    assert isinstance(found, Failure)
    assert "64 × 64 pixels cannot be resized" in found.reason


def test_max_pixels_needs_a_rule_by_edges(checkpoint: Path) -> None:
    made = DinoGrounder.load(checkpoint)
    made.processor.image_processor.size = {"height": 40, "width": 40}
    with pytest.raises(InputError, match="max_pixels is no limit to pictures resized to"):
        DinoGrounder(made.model, made.processor, max_pixels=900)


def test_max_pixels_bounds_the_resized_area(checkpoint: Path, pictures: list[str]) -> None:
    plain, small = DinoGrounder.load(checkpoint), DinoGrounder.load(checkpoint, max_pixels=900)
    for path in pictures:
        assert plain.pictures.read(path).pixels[0].numel() > 900
        read = small.pictures.read(path)
        assert read.pixels[0].numel() <= 900
        assert read.size_wh_px == plain.pictures.read(path).size_wh_px
    assert all(isinstance(found, Grounded) for found in small.ground(asked(pictures)))


def test_shared_views_are_the_same_views(model: DinoGrounder, pictures: list[str]) -> None:
    backbone = model.model.model.backbone
    pixels, mask = pad_right([model.pictures.read(path) for path in pictures])
    which = [0, 1, 0, 2, 1]
    counted = []
    handle = backbone.conv_encoder.register_forward_pre_hook(
        lambda _, given: counted.append(len(given[0]))
    )
    with torch.no_grad():
        plain, positions = backbone(pixels[which], mask[which])
        with seen_once(backbone, which, torch.device("cpu")):
            shared, shared_positions = backbone(pixels[which], mask[which])
        backbone(pixels[which], mask[which])
    handle.remove()
    assert counted == [5, 3, 5]
    for (a, b), (c, d) in zip(plain, shared, strict=True):
        assert torch.allclose(a, c, atol=1e-5)
        assert torch.equal(b, d)
    assert all(map(torch.equal, positions, shared_positions))


# -------------------------------------------------------------------------------- answering


def test_answers_lie_in_their_pictures(model: DinoGrounder, pictures: list[str]) -> None:
    found = model.ground(asked(pictures))
    for (path, _), answer in zip(asked(pictures), found, strict=True):
        assert isinstance(answer, Grounded)
        width, height = SIZES[pictures.index(path)]
        assert 0 <= answer.box.x1 < answer.box.x2 <= width
        assert 0 <= answer.box.y1 < answer.box.y2 <= height
        assert answer.score is not None
        assert 0 <= answer.score <= 1
    assert len({answer.box for answer in found if isinstance(answer, Grounded)}) > 4


def test_an_answer_does_not_depend_on_its_company(model: DinoGrounder, pictures: list[str]) -> None:
    requests = asked(pictures)
    alone = [model.ground([request])[0] for request in requests]
    assert all(map(same, alone, model.ground(requests)))
    assert all(map(same, alone, model.ground(requests[::-1])[::-1]))
    assert model.ground(requests) == model.ground(requests)
    assert model.ground(requests + requests) == model.ground(requests) * 2


def test_the_answer_is_the_librarys_best_query(model: DinoGrounder, pictures: list[str]) -> None:
    """Read another way: through the stock processor, one picture and one text at a time."""
    for path, expression in asked(pictures):
        picture = load_image(path)
        made = model.processor(images=picture, text=f"{expression}.", return_tensors="pt")
        with torch.no_grad():
            seen = model.model(**made)
        seen.logits[..., 0] = seen.logits[..., made["input_ids"].shape[1] - 2 :] = -math.inf
        (theirs,) = model.processor.post_process_grounded_object_detection(
            seen, made["input_ids"], threshold=0.0, target_sizes=[picture.size[::-1]]
        )
        best = theirs["scores"].argmax()
        (found,) = model.ground([(path, expression)])
        assert isinstance(found, Grounded)
        assert found.score == pytest.approx(theirs["scores"][best].item(), abs=1e-5)
        limits = picture.size * 2
        for ours, edge, limit in zip(
            found.box.xyxy, theirs["boxes"][best].tolist(), limits, strict=True
        ):
            assert ours == pytest.approx(min(max(edge, 0), limit), abs=1e-2)


def test_a_padded_batch(checkpoint: Path, pictures: list[str]) -> None:
    """Not what a picture alone gives (see docs/detectors.md), but for pictures of one shape."""
    requests = asked(pictures)
    padded = DinoGrounder.load(checkpoint, Compute(batch_size=len(requests)), pad=True)
    plain = DinoGrounder.load(checkpoint)
    squares = [request for request in requests if request[0] in (pictures[0], pictures[3])]
    assert all(map(same, padded.ground(squares), plain.ground(squares)))
    shapes: list[torch.Size] = []
    handle = padded.model.model.backbone.register_forward_pre_hook(
        lambda _, given: shapes.append(given[0].shape)
    )
    together = padded.ground(requests)
    handle.remove()
    assert shapes == [(12, 3, 60, 60)]  # the shorter side 40, the longer at most 60, all together
    for (path, _), one, other in zip(requests, together, plain.ground(requests), strict=True):
        assert isinstance(one, Grounded)
        assert isinstance(other, Grounded)
        assert other.score == pytest.approx(one.score, abs=0.2)
        width, height = SIZES[pictures.index(path)]
        assert 0 <= one.box.x1 < one.box.x2 <= width
        assert 0 <= one.box.y1 < one.box.y2 <= height


def test_failures_stand_in_their_places(
    model: DinoGrounder, pictures: list[str], tmp_path: Path
) -> None:
    noise = tmp_path / "noise.png"
    noise.write_bytes(b"not a picture")
    requests = [
        (pictures[0], "the man"),
        (str(noise), "the man"),
        (pictures[1], " ? "),
        (str(tmp_path / "gone.png"), "the man"),
        (pictures[1], "the man"),
    ]
    found = model.ground(requests)
    assert [type(answer) for answer in found] == [Grounded, Failure, Failure, Failure, Grounded]
    stages = [answer.stage for answer in found if isinstance(answer, Failure)]
    assert stages == ["image", "ground", "image"]
    assert model.ground([]) == []
    assert model.ground(requests[1:4]) == found[1:4]


@pytest.mark.parametrize("what", ["logits", "pred_boxes"])
def test_numbers_that_are_none_are_no_answer(
    model: DinoGrounder, pictures: list[str], what: str
) -> None:
    def spoil(_: Any, __: Any, made: Any) -> Any:
        made[what] = torch.full_like(made[what], math.nan)
        return made

    handle = model.model.register_forward_hook(spoil)
    found = model.ground([(pictures[0], "the man"), (pictures[1], "the man")])
    handle.remove()
    assert found == [Failure(NO_NUMBER, "model")] * 2


def test_pictures_are_read_once_and_from_their_folder(
    checkpoint: Path, pictures: list[str], tmp_path: Path
) -> None:
    opened: list[str] = []

    def open_image(path: str) -> Image.Image:
        opened.append(path)
        return load_image(path)

    model = DinoGrounder.load(checkpoint, Compute(batch_size=2, open_image=open_image))
    model.ground(asked(pictures))
    assert opened == pictures
    model.ground(asked(pictures[:1]))
    assert opened == [*pictures, pictures[0]]  # anew: the file may have changed
    confined = DinoGrounder.load(checkpoint, Compute(image_root=tmp_path))
    (found,) = confined.ground([(pictures[0], "the man")])
    assert isinstance(found, Failure)
    assert "outside its image folder" in found.reason


def test_half_precision(checkpoint: Path, pictures: list[str]) -> None:
    model = DinoGrounder.load(checkpoint, Compute(dtype=torch.bfloat16))
    assert {p.dtype for p in model.trainable().values()} == {torch.bfloat16}
    assert all(isinstance(found, Grounded) for found in model.ground(asked(pictures)))


# ---------------------------------------------------------------------------------- storing


def test_what_is_saved_answers_alike(
    model: DinoGrounder, pictures: list[str], tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.mul_(1.01)
    model.save(tmp_path / "tuned")
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    again = DinoGrounder.load(tmp_path / "tuned", Compute(batch_size=4))
    assert again.ground(asked(pictures)) == model.ground(asked(pictures))
    assert again.trainable().keys() == model.trainable().keys()


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        DinoGrounder.load(tmp_path)
    with pytest.raises(InputError, match="of type florence2; wanted grounding-dino or mm-"):
        DinoGrounder.load(tiny_florence2(tmp_path / "florence"))


def test_missing_weights_are_not_made_up(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    DinoGrounder.load(checkpoint).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "text_projection" in name)
    save_file({n: t for n, t in weights.items() if n != name}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"1 weights are missing, {name}"):
        DinoGrounder.load(tmp_path)


def test_the_whole_picture_reader_raises_image_errors(model: DinoGrounder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        model.pictures.read(str(tmp_path / "gone.png"))
