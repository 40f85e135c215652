"""What the packaged models say, and of what: small images, long names, strangers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from groundling import EntityAnswer, EntityFailure, EntityGrounder
from groundling.cli import main
from groundling.gmner import Told, ground_posts
from groundling.grounding_ways import open_isr
from groundling.models.registry import packaged
from groundling.records import Failure, Mention, Post

KNOWN = ("Mara Quill", "PER")

pytestmark = pytest.mark.skipif(
    not (packaged("writer") / "model.safetensors").is_file(),
    reason="the package was built without its models",
)


@pytest.fixture(scope="module")
def shipped() -> EntityGrounder:
    return EntityGrounder.load()


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.effect_noise((120, 90), 80).convert("RGB").save(path)
    return str(path)


@pytest.mark.parametrize("size", [(1, 100), (100, 1), (1, 1), (2, 90), (30, 40), (224, 224)])
def test_field_m1_a_box_has_area_and_lies_in_its_image(
    shipped: EntityGrounder, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "small.png"
    Image.effect_noise(size, 80).convert("RGB").save(path)
    words = ("the man", "the windmill on the left", "the woman", "the grey tower", "the red sign")
    for one in shipped.grounder.ground([(str(path), text) for text in words]):
        if isinstance(one, Failure):
            assert (one.stage, "no area" in one.reason) == ("parse", True)
        else:
            x1, y1, x2, y2 = one.box.xyxy
            assert x1 >= 0
            assert y1 >= 0
            assert x2 - x1 >= 0.5
            assert y2 - y1 >= 0.5
            assert x2 <= size[0]
            assert y2 <= size[1]


def test_field_m2_a_sliver_beyond_the_pixel_limit_is_a_failure_that_says_why(
    shipped: EntityGrounder, tmp_path: Path
) -> None:
    path = str(tmp_path / "sliver.png")
    Image.new("RGB", (30, 5000), (90, 120, 30)).save(path)
    (answer,) = shipped.ground(path, [KNOWN])
    assert isinstance(answer, EntityFailure)
    assert answer.failure.stage == "image"
    assert "exceed the 12544 pixels allowed; crop it" in answer.failure.reason


def test_field_m3_a_name_of_20000_letters_is_a_failure_of_the_prompt(
    shipped: EntityGrounder, photo: str
) -> None:
    long = "a" * 20_000
    (answer,) = shipped.ground(photo, [(long, "PER")])
    assert isinstance(answer, EntityFailure)
    assert answer.failure.stage == "prompt"
    shipped_as_a_run = EntityGrounder(shipped.writer, shipped.grounder)
    (answer,) = shipped_as_a_run.ground(photo, [(long, "PER")])
    assert isinstance(answer, EntityFailure)
    assert answer.failure.stage == "prompt"
    assert "characters; wanted at most 1000" in answer.failure.reason
    assert len(answer.failure.reason) < 200


def test_field_m11_ground_gives_no_answer_about_a_stranger(
    photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ground", photo, "--entity", "Eileen Collins:PER", "--entity", "Mara Quill:PER"]
    assert main([*words, "--json"]) == 1
    shown = capsys.readouterr()
    stranger, known = json.loads(shown.out)["answers"]
    assert stranger["error"]["stage"] == "prompt"
    assert stranger["error"]["kind"] == "unknown-name"
    assert "never trained on Eileen Collins (PER)" in stranger["error"]["reason"]
    assert "--run" in stranger["error"]["reason"]
    assert "box" not in stranger
    assert known["known"] is True
    assert "box" in known


def test_field_m11_a_known_name_of_another_type_is_a_stranger(
    shipped: EntityGrounder, photo: str
) -> None:
    known, stranger = shipped.ground(photo, [KNOWN, ("Mara Quill", "ORG")])
    assert isinstance(known, EntityAnswer)
    assert isinstance(stranger, EntityFailure)


def test_field_m11_gmner_gives_no_answer_about_a_stranger(tmp_path: Path, photo: str) -> None:
    post = Post("p", ("Mara", "Quill", "met", "Eileen", "Collins"), (), photo)
    items = [(post, Mention(0, 2, "PER", 0.9)), (post, Mention(3, 5, "PER", 0.9))]
    known, stranger = open_isr(None).locate(items, tmp_path / "work").located
    assert not isinstance(known, Failure)
    assert isinstance(stranger, Failure)
    assert stranger.kind == "unknown-name"


def test_field_r5_a_stranger_does_not_cost_its_post(tmp_path: Path, photo: str) -> None:
    post = Post("p", ("Mara", "Quill", "met", "Eileen", "Collins"), (), photo)
    mentions = {"p": [Mention(0, 2, "PER", 0.9), Mention(3, 5, "PER", 0.9)]}
    told = Told()
    (said,) = ground_posts(
        [post], mentions, {}, open_isr(None), tmp_path / "work", told, quiet=True
    )
    assert [one.name for one in said.predictions] == ["Mara Quill"]
    assert [(one.name, one.failure.kind) for one in said.failed] == [
        ("Eileen Collins", "unknown-name")
    ]
    assert (told.posts, told.failed_posts, told.boxes + told.absent) == (0, 1, 1)
    assert not told.complete
