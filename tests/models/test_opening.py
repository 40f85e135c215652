"""Files that are no checkpoint, devices that are not there: one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_families
from tiny_detectors import tiny_dino, tiny_florence2
from tiny_ofa import tiny_ofa

from groundling.errors import InputError
from groundling.models.chat import Chat
from groundling.models.detectors import DinoGrounder, FlorenceGrounder
from groundling.models.grounding import Compute
from groundling.models.ofa import OFAGrounder
from groundling.models.opening import opening, usable_device
from groundling.prompts import locate_messages

Open = Callable[[Path, str], Any]


def tiny_writer(folder: Path) -> Path:
    model, processor = tiny_families.build("qwen3_vl")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], Open]] = {
    "dino": (tiny_dino, lambda path, name: DinoGrounder.load(path, Compute(name))),
    "florence2": (
        tiny_florence2,
        lambda path, name: FlorenceGrounder.load(path, Compute(name)),
    ),
    "ofa": (tiny_ofa, lambda path, name: OFAGrounder.load(path, Compute(name))),
    "writer": (
        tiny_writer,
        lambda path, name: Chat.load(path, locate_messages, device=name),
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Open]:
    made, load = KINDS[request.param]
    return made(tmp_path_factory.mktemp("model")), load


def test_a_damaged_checkpoint_and_a_missing_device(kind: tuple[Path, Open]) -> None:
    folder, load = kind
    with pytest.raises(InputError, match=r"^device 'cuda:99' cannot be used here \("):
        load(folder, "cuda:99")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="no checkpoint that can be opened: ") as caught:
        load(folder, "cpu")
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = tiny_florence2(tmp_path / "florence2")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["d_model"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"weights are of another shape .* instead of \(.*48"):
        FlorenceGrounder.load(folder)


def test_a_checkpoint_without_its_tokenizer(tmp_path: Path) -> None:
    folder = tiny_florence2(tmp_path / "florence2")
    for path in folder.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "merges", "special", "added")):
            path.unlink()
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        FlorenceGrounder.load(folder)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_devices_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="cannot be used here"):
        usable_device(name)
    assert usable_device("cpu") == "cpu"


def test_the_librarys_words_in_one_line() -> None:
    with (
        pytest.raises(InputError, match=r"^here: no checkpoint .*: a b$"),
        opening("here"),
    ):
        raise ValueError("a\n   b\n")
    with pytest.raises(InputError) as caught, opening("here"):
        raise RuntimeError("x" * 5000)
    assert len(str(caught.value)) < 400
    with pytest.raises(InputError, match=r"^as it was$"), opening("here"):
        raise InputError("as it was")
