"""Language models that write boxes: what counts as an answer, and what can be taught."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_families
import torch
from PIL import Image

from groundling.errors import ImageError, InputError
from groundling.models.base import DirectExample, GroundingExample
from groundling.models.chat import Adapter, Chat, Resources, Said
from groundling.models.grounding import NO_NUMBER
from groundling.models.vlm import VlmDirectGrounder, VlmGrounder
from groundling.prompts import locate_messages
from groundling.records import ABSENT, Box, Failure, Grounded, Prediction, Query

SIZE = (64, 48)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    sizes = {"photo": SIZE, "sliver": (900, 2)}
    for name, size in sizes.items():
        Image.new("RGB", size, "grey").save(folder / f"{name}.png")
    (folder / "torn.png").write_bytes(b"no picture")
    return {name: str(folder / f"{name}.png") for name in [*sizes, "torn"]}


def chat(question: Any, family: str = "qwen2_5_vl") -> Chat:
    model, processor = tiny_families.build(family)
    return Chat(model, processor, question, Adapter(4, 8.0, 0), Resources(batch_size=4))


def says(monkeypatch: pytest.MonkeyPatch, made: Chat, *answers: Said | Failure) -> None:
    """Have a chat give these answers."""
    rows = [one if isinstance(one, Failure) else [one] for one in answers]
    monkeypatch.setattr(made, "draw", lambda *_, **__: rows)


def test_what_a_grounder_answers(pictures: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels of the resized picture, 56 × 56 here, become pixels of the picture's own 64 × 48."""
    grounder = VlmGrounder(chat(locate_messages))
    wide, high = grounder.chat.given_wh_px(SIZE)
    assert (wide, high) != SIZE
    box = f'{{"bbox_2d": [0, 0, {wide}, {high // 2}]}}'
    torn = Failure("torn", "image")
    said = [Said(box, -0.5), Said(f"{ABSENT}.", -0.1), Said(box, None), Said("left", -1.0), torn]
    says(monkeypatch, grounder.chat, *said)
    found = grounder.ground([(pictures["photo"], "the man")] * 5)
    assert isinstance(found[0], Grounded)
    assert found[0].box.xyxy == pytest.approx((0, 0, 64, 48 * (high // 2) / high))
    assert found[0].score == pytest.approx(math.exp(-0.5))
    assert found[1] == Failure("the grounder says that nothing is there", "parse", "absent")
    assert found[2] == Failure("the answer was cut off after 128 tokens", "parse", "cut")
    assert isinstance(found[3], Failure)
    assert found[3].stage == "parse"
    assert found[4] == torn


def test_what_a_direct_grounder_answers(
    pictures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grounder = VlmDirectGrounder(chat(VlmDirectGrounder.QUESTION, "qwen3_vl"))
    said = [Said('{"bbox_2d": [0, 0, 500, 1000]}', 0.0), Said(ABSENT, -1.0), Said("?", -1.0)]
    says(monkeypatch, grounder.chat, *said)
    queries = [Query(f"p#{i}", pictures["photo"], "Ann", "PER") for i in range(3)]
    found = dict(grounder.answer(queries))
    assert found[0] == Prediction("Ann", "PER", Box(0, 0, 32, 48), score=1.0)
    assert found[1] == Prediction("Ann", "PER", None, score=math.exp(-1.0))
    assert isinstance(found[2], Failure)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava_next"])
def test_numbers_that_are_none_are_no_answer(family: str, pictures: dict[str, str]) -> None:
    """By hand and by the stock engine; the answers would all be cut off, which says nothing."""
    made = chat(locate_messages, family)
    with torch.no_grad():
        made.model.get_output_embeddings().weight[5] = math.nan
    (found,) = VlmGrounder(made).ground([(pictures["photo"], "the man")])
    assert found == Failure(NO_NUMBER, "model")


def test_pictures_that_cannot_be_used_are_failures(pictures: dict[str, str]) -> None:
    grounder = VlmGrounder(chat(locate_messages))
    for name, words in (("torn", "not a picture"), ("sliver", "aspect ratio")):
        (found,) = grounder.ground([(pictures[name], "the man")])
        assert isinstance(found, Failure)
        assert found.stage == "image"
        assert words in found.reason
        with pytest.raises(ImageError, match=words):
            grounder.loss([GroundingExample(pictures[name], "the man", Box(0, 0, 2, 2))])


def test_training_errors_name_the_query(pictures: dict[str, str]) -> None:
    grounder = VlmDirectGrounder(chat(VlmDirectGrounder.QUESTION))
    outside = DirectExample(Query("17#2", pictures["photo"], "Ann", "PER"), Box(64, 0, 90, 48))
    for call in (grounder.answer_tokens, lambda one: grounder.loss([one])):
        with pytest.raises(InputError, match=r"^17#2: Ann \(PER\): .*photo\.png: box \[64, 0, "):
            call(outside)
    torn = DirectExample(Query("17#3", pictures["torn"], "Bob", "PER"), None)
    with pytest.raises(ImageError, match=r"^17#3: Bob \(PER\): .*torn\.png: not a picture"):
        grounder.loss([torn])


def test_an_answer_to_learn_is_the_box_or_the_sentence(pictures: dict[str, str]) -> None:
    grounder = VlmDirectGrounder(chat(VlmDirectGrounder.QUESTION, "qwen3_vl"))
    query = Query("p#0", pictures["photo"], "Ann", "PER")
    wording = grounder.chat.wording
    beyond = DirectExample(query, Box(-10, 0, 32, 60))
    assert grounder.answer_tokens(beyond) == len(wording.answer('{"bbox_2d": [0, 0, 500, 1000]}'))
    assert grounder.answer_tokens(DirectExample(query, None)) == len(wording.answer(ABSENT))
    assert grounder.loss([beyond, DirectExample(query, None)]).isfinite()
