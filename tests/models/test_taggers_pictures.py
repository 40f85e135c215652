"""Taggers that look at pictures: that they use them, and what happens where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_taggers import bert, config, gold, post, spans, wordpiece
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from groundling.config import Optimiser
from groundling.config_gmner import UncertaintyConfig, VisionConfig
from groundling.errors import ConfigError, ImageError, InputError
from groundling.models.registry import open_tagger
from groundling.models.taggers.bilstm import BilstmTagger
from groundling.models.taggers.encoder import EncoderTagger
from groundling.models.taggers.pictures import Pictures, Tower, open_pictures
from groundling.models.taggers.sequence import SequenceTagger
from groundling.models.taggers.sight import Sight
from groundling.records import TWITTER, Failure, Post
from groundling.settings import load_config
from groundling.train import fit

VISION = VisionConfig(grid=2, width=16, heads=2, hidden=0.0)
COLOURS = {"PER": (200, 40, 40), "ORG": (40, 60, 200)}
TEXTS = ("Jordan/{} wins", "the news of Jordan/{} today", "we met Ford/{} and Ford/{}")


def world(folder: Path, seed: int) -> list[Post]:
    """Every text twice, once a person and once an organisation; only the picture tells which.

    A picture is noise with a patch of the type's colour somewhere.
    """
    draws = np.random.default_rng(seed)
    posts = []
    for text in TEXTS:
        for kind, colour in COLOURS.items():
            number = len(posts)
            pixels = draws.integers(0, 90, (24, 32, 3), dtype=np.uint8) + np.uint8(60)
            x, y = draws.integers(0, 20), draws.integers(0, 12)
            pixels[y : y + 12, x : x + 12] = colour
            path = folder / f"{seed}-{number}.png"
            Image.fromarray(pixels).save(path)
            drawn = post(text.format(kind, kind), number=number)
            posts.append(replace(drawn, id=f"{seed}-{number}", image=str(path)))
    return posts


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Post]]:
    folder = tmp_path_factory.mktemp("pictures")
    train = [post for seed in range(10) for post in world(folder, seed)]
    return {"train": train, "test": [post for seed in (90, 91) for post in world(folder, seed)]}


def bilstm(posts: Sequence[Post], vision: VisionConfig | None, **changes: Any) -> BilstmTagger:
    made = config(backend="bilstm", dropout=0.0, word_dropout=0.0, vision=vision, **changes)
    return BilstmTagger.fresh(TWITTER, made, "cpu", 0, posts)


def encoder(posts: Sequence[Post], vision: VisionConfig | None, **changes: Any) -> EncoderTagger:
    made = config(dropout=0.0, word_dropout=0.0, vision=vision, **changes)
    return EncoderTagger.from_parts(bert(), wordpiece(), TWITTER, made, posts=posts)


Maker = Callable[..., SequenceTagger[Any]]
makers = pytest.mark.parametrize("make", [bilstm, encoder])


def learn(tagger: SequenceTagger[Any], posts: Sequence[Post], epochs: int = 12) -> None:
    optimiser = Optimiser(lr=0.01, batch_size=10, epochs=epochs)
    fit(tagger, tagger.loss, posts, optimiser, seed=0, length=tagger.length)


def share_right(tagger: SequenceTagger[Any], posts: Sequence[Post]) -> float:
    """F1 where as many mentions are found as there are."""
    found = [set(spans(mentions)) for mentions in tagger.tag(posts)]
    wanted = [set(row) for row in gold(posts)]
    assert sum(map(len, found)) == sum(map(len, wanted))
    right = sum(len(mine & theirs) for mine, theirs in zip(found, wanted, strict=True))
    return right / sum(map(len, wanted))


@makers
def test_what_only_the_picture_tells_is_learnt_from_it_and_from_nothing_else(
    make: Maker, posts: dict[str, list[Post]]
) -> None:
    with_eyes, blind = make(posts["train"], VISION), make(posts["train"], None)
    learn(with_eyes, posts["train"])
    learn(blind, posts["train"])
    assert share_right(with_eyes, posts["test"]) == 1.0
    assert share_right(blind, posts["test"]) == 0.5, "each text has one answer, right half the time"
    swapped = [
        replace(one, image=other.image)
        for a, b in zip(posts["test"][::2], posts["test"][1::2], strict=True)
        for one, other in ((a, b), (b, a))
    ]
    assert share_right(with_eyes, swapped) == 0.0, "the other picture, the other answer"


@makers
def test_a_picture_that_cannot_be_read_is_a_failure_and_spoils_no_other_post(
    make: Maker, posts: dict[str, list[Post]], tmp_path: Path
) -> None:
    tagger = make(posts["train"], VISION)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    sound, other = posts["test"][:2]
    bad = [replace(sound, image=str(broken)), replace(sound, image=str(tmp_path / "none.png"))]
    found = tagger.tag([bad[0], sound, bad[1], other])
    assert [getattr(one, "stage", None) for one in found] == ["image", None, "image", None]
    assert isinstance(found[2], Failure)
    assert "no such file" in found[2].reason
    assert [found[1], found[3]] == tagger.tag([sound, other])
    assert [one.stage for one in tagger.tag(bad) if isinstance(one, Failure)] == ["image"] * 2
    with pytest.raises(ImageError, match=r"none\.png"):
        tagger.loss([sound, bad[1]])
    with pytest.raises(InputError, match=r"2 of 3 posts to learn from .* cannot be read"):
        make([sound, *bad], VISION)
    tagger.calibrate([sound, *bad])  # a failure has no confidence and is no obstacle


@makers
def test_no_picture_is_a_vector_of_its_own_and_not_a_picture_of_nothing(
    make: Maker, posts: dict[str, list[Post]], tmp_path: Path
) -> None:
    tagger = make(posts["train"], VISION)
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    without = replace(posts["test"][0], image=None)
    black = replace(without, image=str(tmp_path / "black.png"))
    seen = tagger.seen([without, black])
    assert seen is not None
    assert seen.there.tolist() == [False, True]
    sight: Any = tagger.net.sight

    def scores(one: Post) -> torch.Tensor:
        (lattice,) = tagger.lattices([one])
        return lattice.emissions

    before = scores(without), scores(black)
    assert not torch.allclose(*before)
    with torch.no_grad():
        sight.nothing += 1.0
    assert not torch.equal(scores(without), before[0])
    assert torch.equal(scores(black), before[1])


@makers
def test_posts_with_and_without_pictures_do_not_depend_on_their_company(
    make: Maker, posts: dict[str, list[Post]]
) -> None:
    tagger = make(posts["train"], VISION)
    mixed = [replace(one, image=None) if i % 2 else one for i, one in enumerate(posts["test"])]
    together = tagger.beliefs(mixed)
    for one, belief in zip(mixed, together, strict=True):
        (alone,) = tagger.beliefs([one])
        assert not isinstance(belief, Failure)
        assert not isinstance(alone, Failure)
        assert alone.spans == belief.spans
        kinds = [(0, 1, kind) for kind in COLOURS]
        expected = [belief.probability(*kind) for kind in kinds]
        assert [alone.probability(*kind) for kind in kinds] == pytest.approx(expected, abs=1e-6)


def test_training_hides_pictures_so_that_no_picture_is_learnt(
    posts: dict[str, list[Post]],
) -> None:
    def gradient(hidden: float, batch: Sequence[Post]) -> float:
        tagger = bilstm(posts["train"], VISION.model_copy(update={"hidden": hidden}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            tagger.loss(batch).backward()  # type: ignore[no-untyped-call]
        assert tagger.net.sight is not None
        found = tagger.net.sight.nothing.grad
        assert found is not None
        return float(found.abs().sum())

    assert gradient(0.0, posts["train"]) == 0.0
    assert gradient(0.5, posts["train"]) > 0.0
    assert gradient(0.0, [replace(posts["train"][0], image=None)]) > 0.0


def test_a_closed_gate_keeps_the_picture_out() -> None:
    sight = Sight(VISION, word_width=6, patch_width=3).eval()
    pictures = Pictures(lambda _: torch.zeros(3, 16, 16), 0)
    seen = pictures.of([Post("a", ("x",))] * 2, torch.device("cpu"))
    seen = replace(seen, pictures=torch.randn(2, 3, 16, 16), there=torch.tensor([True, True]))
    words = torch.randn(1, 4, 6).expand(2, -1, -1)
    with torch.no_grad():
        one, other = sight(words, seen)
        assert not torch.allclose(one, other)
        sight.gate.bias.fill_(-1e4)
        one, other = sight(words, seen)
    assert torch.equal(one, other)
    assert torch.equal(one[:, :6], words[0]), "the words themselves go through as they are"
    assert (one[:, 6:] == 0).all()


@makers
def test_a_stored_tagger_still_sees(
    make: Maker, posts: dict[str, list[Post]], tmp_path: Path
) -> None:
    tagger = make(posts["train"], VISION)
    with torch.no_grad():
        tagger.net.projection.weight *= 20  # type: ignore[operator]
    tagger.save(tmp_path)
    wanted = config(backend=tagger.config.backend)
    again = open_tagger(wanted, TWITTER, tmp_path)
    assert again.tag(posts["test"]) == tagger.tag(posts["test"])


# ------------------------------------------------------------------------------- frozen encoders


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}


def vit() -> ViTModel:
    return ViTModel(ViTConfig(**SIZES, hidden_dropout_prob=0.5), add_pooling_layer=False)


def clip_vision() -> CLIPVisionModel:
    return CLIPVisionModel(CLIPVisionConfig(**SIZES))


def clip() -> CLIPModel:
    text = {name: size for name, size in SIZES.items() if name not in ("image_size", "patch_size")}
    return CLIPModel(CLIPConfig(text_config={**text, "vocab_size": 9}, vision_config=SIZES))


def siglip() -> SiglipVisionModel:
    return SiglipVisionModel(SiglipVisionConfig(**SIZES))


@pytest.fixture(params=[vit, clip_vision, clip, siglip])
def tower(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random encoder of pictures on disk."""
    folder = tmp_path / "tower"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = request.param()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_a_frozen_encoder_is_looked_through_and_stored_whole(
    tower: Path, posts: dict[str, list[Post]], tmp_path: Path
) -> None:
    vision = VISION.model_copy(update={"encoder": str(tower)})
    tagger = bilstm(posts["train"][:6], vision)
    assert all(
        name.startswith(("sight.", "embedding.", "characters.", "lstm.", "proj", "trans"))
        for name in tagger.trainable()
    )
    seen = tagger.seen(posts["test"][:2])
    assert seen is not None
    posts_seen, patches, width = seen.pictures.shape
    assert (posts_seen, width) == (2, 16)
    assert patches in (4, 5), "SigLIP has none for the whole picture"
    loss = tagger.loss(posts["train"])
    loss.backward()  # type: ignore[no-untyped-call]
    again = tagger.seen(posts["test"][:2])
    assert again is not None
    assert torch.equal(seen.pictures, again.pictures), "its own dropout is off while others train"
    tagger.save(tmp_path / "t")
    for file in tower.iterdir():
        file.unlink()
    stored = open_tagger(config(backend="bilstm"), TWITTER, tmp_path / "t")
    assert stored.tag(posts["test"]) == tagger.tag(posts["test"])
    found: Any = stored
    assert torch.equal(found.seen(posts["test"][:2]).pictures, seen.pictures)


def test_what_is_no_encoder_of_pictures_is_told(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "bert")
    wordpiece().save_pretrained(tmp_path / "bert")
    for path in (tmp_path / "bert", tmp_path):
        with pytest.raises(InputError, match="no encoder of pictures that can be opened"):
            Tower.published(str(path), "cpu")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="cannot look at a picture"):
        Tower.published(str(tmp_path / "bert"), "cpu")
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    ResNetModel(ResNetConfig(**sizes, layer_type="basic")).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    with pytest.raises(InputError, match="gives no patches, or not as many for every picture"):
        Tower.published(str(tmp_path / "resnet"), "cpu")


# ------------------------------------------------------------------------------------- settings


def test_without_a_single_picture_there_is_nothing_to_learn() -> None:
    plain = [post("Jordan/PER wins")]
    with pytest.raises(InputError, match=r"no post to learn from has a picture.*data\.images"):
        bilstm(plain, VISION)
    assert open_pictures(None, "cpu", posts=plain) is None


def test_heads_that_do_not_divide_are_told() -> None:
    from groundling.config_gmner import TaggingConfig

    wrong = {"data.source": "x", "tagger.vision.width": 10}
    with pytest.raises(ConfigError, match="width 10 is no multiple of heads 4"):
        load_config(TaggingConfig, None, wrong)


def test_passes_with_dropout_see_the_same_picture(posts: dict[str, list[Post]]) -> None:
    how = UncertaintyConfig(kind="mc-dropout", count=3)
    tagger = bilstm(posts["train"], VISION).config.model_copy(
        update={"dropout": 0.4, "uncertainty": how}
    )
    made = BilstmTagger.fresh(TWITTER, tagger, "cpu", 0, posts["train"])
    emissions = [lattice.emissions for lattice in made.lattices(posts["test"])]
    assert len(emissions) == 3
    assert not torch.equal(emissions[0], emissions[1])


@makers
def test_it_looks_in_bfloat16_too(make: Maker, posts: dict[str, list[Post]]) -> None:
    tagger = make(posts["train"], VISION, dtype="bfloat16")
    tagger.loss(posts["train"]).backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in tagger.trainable().values()]
    assert all(one is not None and one.isfinite().all() for one in gradients)
    exact = make(posts["train"], VISION).lattices(posts["test"])[0].emissions
    rough = tagger.lattices(posts["test"])[0].emissions
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.1)
