from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_ofa
import torch
from PIL import Image

from groundling.config import GrounderOptimiser
from groundling.errors import ImageError, InputError
from groundling.images import load_image
from groundling.models.base import Grounder, GroundingExample
from groundling.models.grounding import NO_NUMBER, Compute
from groundling.models.ofa import OFAGrounder
from groundling.models.ofa.inputs import clean_expression, prompt, squeeze
from groundling.records import Box, Failure, Grounded
from groundling.train import Checkpoint, fit

SIZES = [(64, 64), (120, 40), (30, 90)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ofa.tiny_ofa(tmp_path_factory.mktemp("ofa"), seed=1)


@pytest.fixture
def grounder(checkpoint: Path) -> OFAGrounder:
    return OFAGrounder.load(checkpoint, drop_path=0.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, (width, height) in enumerate(SIZES):
        picture = Image.new("RGB", (width, height), (30 * i, 90, 200))
        picture.paste((250, 40, 40), (width // 8, height // 8, width // 2, height // 2))
        paths.append(str(folder / f"{i}.png"))
        picture.save(paths[-1])
    return paths


def examples(pictures: list[str]) -> list[GroundingExample]:
    return [
        GroundingExample(path, text, Box(w * a, h * a, w * b, h * b))
        for path, (w, h) in zip(pictures, SIZES, strict=True)
        for text, a, b in (("the red square", 0.125, 0.5), ("The right, blue!", 0.25, 0.875))
    ]


def trained(grounder: OFAGrounder, batch: list[GroundingExample], steps: int) -> float:
    adam = torch.optim.AdamW(grounder.trainable().values(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(steps):
        loss = grounder.loss(batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return loss.item()


def test_it_is_a_grounder(grounder):
    checked: Grounder = grounder
    assert checked.trainable()


def test_answers_stand_in_the_order_asked(grounder, pictures, tmp_path):
    trained(grounder, examples(pictures), 12)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    requests = [
        (pictures[0], "the red square"),
        (str(tmp_path / "torn.png"), "the red square"),
        (pictures[1], "a person on the left of the sign"),
        (pictures[0], "blue"),
        (str(tmp_path / "absent.png"), "blue"),
        (pictures[0], "The RED square"),
        (pictures[2], "?! "),
        (pictures[2], "blue"),
    ]
    answers = grounder.ground(requests)
    assert not grounder.model.training
    for row in (1, 4):
        assert isinstance(answers[row], Failure)
        assert answers[row].stage == "image"
    assert "no such file" in answers[4].reason
    assert answers[6].reason == "the expression is empty"
    assert answers[0] == answers[5]
    for row in (0, 2, 3, 7):
        answer = answers[row]
        assert isinstance(answer, Grounded), answer
        width, height = SIZES[pictures.index(requests[row][0])]
        assert 0 <= answer.box.x1 < answer.box.x2 <= width
        assert 0 <= answer.box.y1 < answer.box.y2 <= height
        assert 0 < answer.score <= 1
        alone = grounder.ground([requests[row]])[0]
        assert alone.box == answer.box
        assert alone.score == pytest.approx(answer.score, rel=1e-4)
    grounder.batch_size = 2
    again = grounder.ground(requests)
    assert [getattr(a, "box", a) for a in again] == [getattr(a, "box", a) for a in answers]


def test_each_picture_and_request_is_computed_once(grounder, pictures, monkeypatch):
    seen: list[tuple[int, ...]] = []
    whole = grounder.model.encoder.embed_images.forward
    monkeypatch.setattr(
        grounder.model.encoder.embed_images,
        "forward",
        lambda given: (seen.append(tuple(given.shape)), whole(given))[1],
    )
    opened: list[str] = []
    grounder.open_image = lambda path: (opened.append(path), load_image(path))[1]
    grounder.batch_size = 2
    requests = [(p, text) for text in ("red", "blue", "red", "left") for p in pictures[:2]]
    assert len(grounder.ground(requests)) == 8
    assert opened == pictures[:2]
    assert [shape[0] for shape in seen] == [1, 2, 1]


def test_loss_is_the_smoothed_mean_over_five_tokens(grounder, pictures, monkeypatch):
    batch = examples(pictures)
    monkeypatch.setattr(grounder.model, "train", lambda: None)
    got = grounder.loss(batch).item()
    total, vocabulary, eps = 0.0, len(grounder.tokenizer), 0.1
    for example in batch:
        picture = load_image(example.image)
        w, h = picture.size
        bins = [
            round(v * 64 / side / 64 * 999)
            for v, side in zip(example.box.xyxy, (w, h, w, h), strict=True)
        ]
        answer = [*(grounder.tokenizer.first_bin + b for b in bins), 2]
        tokens = grounder.tokenizer.encode(prompt(clean_expression(example.expression)))
        logits = grounder.model(
            input_ids=torch.tensor([tokens]),
            patch_images=squeeze(picture, 64)[None],
            decoder_input_ids=torch.tensor([[0, *answer[:-1]]]),
        ).logits[0]
        logprobs = logits.log_softmax(-1)
        for step, token in enumerate(answer):
            true = logprobs[step, token].item()
            wrong = logprobs[step].sum().item() - true
            total -= (1 - eps) * true + eps / (vocabulary - 1) * wrong
    assert got == pytest.approx(total / (5 * len(batch)), rel=1e-5)


def test_training_mode_within_loss_only(checkpoint, pictures):
    grounder = OFAGrounder.load(checkpoint)
    assert not grounder.model.training
    assert grounder.model.encoder.layers[1].drop_path.rate == pytest.approx(0.2)
    torch.manual_seed(0)
    one = grounder.loss(examples(pictures)).item()
    assert grounder.model.training
    assert grounder.loss(examples(pictures)).item() != one
    first = grounder.ground([(pictures[0], "blue")])
    assert not grounder.model.training
    assert grounder.ground([(pictures[0], "blue")]) == first


def test_it_learns(grounder, pictures):
    batch = examples(pictures)
    before = grounder.loss(batch).item()
    assert trained(grounder, batch, 30) < before * 0.7


def test_batch_norms_move_unless_frozen(checkpoint, pictures):
    norm = "encoder.embed_images.bn1."
    for frozen in (False, True):
        grounder = OFAGrounder.load(checkpoint, freeze_batch_norm=frozen)
        names = grounder.trainable()
        state = {n: t.clone() for n, t in grounder.model.state_dict().items()}
        trained(grounder, examples(pictures)[:2], 1)
        now = grounder.model.state_dict()
        for name in ("running_mean", "running_var", "num_batches_tracked", "weight"):
            assert (norm + name in names) is not frozen
            assert torch.equal(state[norm + name], now[norm + name]) is frozen, name
        assert not torch.equal(
            state["encoder.embed_images.conv1.weight"], now["encoder.embed_images.conv1.weight"]
        )


def test_every_trainable_parameter_has_a_gradient(grounder, pictures):
    names = grounder.trainable()
    grounder.loss(examples(pictures)).backward()
    without = {n for n, p in names.items() if p.requires_grad and p.grad is None}
    assert not without
    left = {n for n, p in grounder.model.named_parameters() if n not in names and p.grad is None}
    assert left == {n for n, _ in grounder.model.named_parameters()} - set(names)
    assert all(n.startswith("decoder.") for n in left)


def test_a_stopped_fit_continues_bit_for_bit(checkpoint, pictures, tmp_path):
    optimiser = GrounderOptimiser(epochs=2, batch_size=2, lr=1e-3)
    batch = examples(pictures)

    def run(path: Path | None, stop: int | None) -> dict[str, torch.Tensor]:
        grounder = OFAGrounder.load(checkpoint)

        def step(report: Any) -> None:
            if stop is not None and report.step == stop:
                raise KeyboardInterrupt

        kept = None if path is None else Checkpoint(path, every_steps=1)
        fit(grounder, grounder.loss, batch, optimiser, seed=3, checkpoint=kept, on_step=step)
        return grounder.model.state_dict()

    whole = run(None, None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "fit.safetensors", 3)
    resumed = run(tmp_path / "fit.safetensors", None)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_saved_and_loaded(grounder, pictures, tmp_path):
    trained(grounder, examples(pictures), 2)
    grounder.save(tmp_path / "kept")
    again = OFAGrounder.load(tmp_path / "kept")
    requests = [(path, "the red square") for path in pictures]
    assert again.ground(requests) == grounder.ground(requests)
    assert again.grid == grounder.grid
    assert not list((tmp_path / "kept").glob("*.bin"))


def test_what_loss_refuses(grounder, pictures, tmp_path):
    good = examples(pictures)[0]
    with pytest.raises(ImageError, match="no such file"):
        grounder.loss([GroundingExample(str(tmp_path / "x.png"), "red", good.box)])
    with pytest.raises(InputError, match=rf"^{re.escape(good.image)}: box .* not in its picture"):
        grounder.loss([GroundingExample(good.image, "red", Box(64, 0, 80, 64))])
    with pytest.raises(InputError, match="is empty"):
        grounder.loss([GroundingExample(good.image, "!", good.box)])


def test_a_long_expression_is_cut_to_what_the_encoder_reads(grounder, pictures):
    long = "left " * 79 + "x" * 500  # 80 words, as OFA reads them, and too many tokens
    row, most = grounder._prompt(clean_expression(long)), grounder.model.encoder.max_tokens
    assert len(row) == most
    assert grounder.tokenizer.decode(row).endswith('xxx " describe?')
    assert grounder._prompt("red") == grounder.tokenizer.encode(prompt("red"))
    whole, short = grounder.ground([(pictures[0], long), (pictures[0], "red")])
    assert type(whole) in (Grounded, Failure)
    assert short == grounder.ground([(pictures[0], "red")])[0]
    assert grounder.loss([GroundingExample(pictures[0], long, Box(1, 1, 9, 9))]).isfinite()


@pytest.mark.parametrize("constrained", [True, False])
def test_numbers_that_are_none_are_no_answer(grounder, pictures, constrained):
    grounder.constrained = constrained
    with torch.no_grad():
        grounder.model.encoder.layer_norm.bias.fill_(math.nan)
    (found,) = grounder.ground([(pictures[0], "red")])
    assert found == Failure(NO_NUMBER, "model")


def test_unconstrained_answers_may_be_failures(checkpoint, pictures):
    requests = [(path, text) for path in pictures for text in ("red", "blue", "left of a sign")]
    loose = OFAGrounder.load(checkpoint, constrained=False)
    with torch.no_grad():
        loose.model.encoder.embed_tokens.weight[: loose.tokenizer.first_bin] *= 3
    free = loose.ground(requests)
    reasons = {answer.reason.partition(":")[0] for answer in free if isinstance(answer, Failure)}
    assert "not four bins" in reasons
    bound = OFAGrounder.load(checkpoint).ground(requests)
    for answer in bound:
        assert isinstance(answer, Grounded) or answer.reason.startswith("no box")


def test_greedy_and_other_options(checkpoint, pictures):
    assert OFAGrounder.load(checkpoint, beams=1).ground([(pictures[0], "red")])
    smaller = OFAGrounder.load(checkpoint, patch_image_size=32)
    assert (smaller.grid.side_px, smaller.grid.last) == (32, 500)
    half = OFAGrounder.load(checkpoint, Compute(dtype=torch.bfloat16), gradient_checkpointing=True)
    assert half.model.dtype == torch.bfloat16
    assert half.model.encoder.gradient_checkpointing
    half.loss(examples(pictures)[:2]).backward()
    assert len(half.ground([(pictures[0], "red")])) == 1


def test_pictures_stay_in_their_folder(checkpoint, pictures, tmp_path):
    confined = OFAGrounder.load(checkpoint, Compute(image_root=tmp_path))
    (answer,) = confined.ground([(pictures[0], "red")])
    assert isinstance(answer, Failure)
    assert answer.stage == "image"
    assert "outside its image folder" in answer.reason

    def closed(path: str) -> Image.Image:
        raise ImageError(f"{path}: closed today")

    (answer,) = OFAGrounder.load(checkpoint, Compute(open_image=closed)).ground([("a.png", "red")])
    assert answer == Failure("a.png: closed today", "image")


def test_vocabulary_and_model_must_agree(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    tiny_ofa.tokenizer(bins=999).save_pretrained(folder)
    with pytest.raises(InputError, match="wanted those of one checkpoint"):
        OFAGrounder.load(folder)
