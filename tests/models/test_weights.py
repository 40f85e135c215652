"""Weights that are of another kind, not finite, absurd or of absurd sizes are refused in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_taggers import KINDS, config
from torch import Tensor

from groundling.errors import InputError
from groundling.models.registry import open_tagger
from groundling.models.tiny import TinyGrounder
from groundling.models.tiny_net import TinyGrounderConfig, TinyGrounderNet
from groundling.models.weights import demand_numbers, demand_sizes, read_weights
from groundling.records import TWITTER, Failure, Post


def grounder() -> TinyGrounder:
    """A grounder of random weights."""
    torch.manual_seed(0)
    sizes = TinyGrounderConfig(("red", "square"), size_px=32, width=32, heads=2, max_words=8)
    return TinyGrounder(TinyGrounderNet(sizes).eval())


BAD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda t: t * float("nan"), "not finite"),
    "infinite": (lambda t: t + float("inf"), "not finite"),
    "one-nan": (lambda t: _one(t, float("nan")), "not finite"),
    "huge": (lambda t: _one(t, -1e30), "holds -1e\\+30"),
    "int8": (lambda t: t.to(torch.int8), "is of I8; wanted one of F16"),
    "shape": (lambda t: t[None], "wanted"),
}


def _one(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


def spoil(path: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Change the last tensor of a file."""
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    save_file({**tensors, name: change(tensors[name]).contiguous()}, path)


bad = pytest.mark.parametrize("kind", BAD)


@bad
def test_a_grounder_with_bad_weights_is_refused(kind: str, tmp_path: Path) -> None:
    grounder().save(tmp_path)
    change, message = BAD[kind]
    spoil(tmp_path / "model.safetensors", change)
    with pytest.raises(InputError, match=message):
        TinyGrounder.load(tmp_path)


@bad
@pytest.mark.parametrize("backend", KINDS)
def test_a_tagger_with_bad_weights_is_refused(kind: str, backend: str, tmp_path: Path) -> None:
    KINDS[backend]().save(tmp_path)
    change, message = BAD[kind]
    spoil(tmp_path / "model.safetensors", change)
    with pytest.raises(InputError, match=message):
        open_tagger(config(backend=backend), TWITTER, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reading_layers", 10**9),
        ("picture_layers", 10**9),
        ("width", 10**7),
        ("size_px", 10**9),
        ("max_words", 10**12),
        ("heads", 0),
        ("heads", 5),
        ("width", None),
        ("width", 1.5),
        ("words", [1, 2]),
        ("words", 7),
    ],
)
def test_absurd_sizes_of_a_grounder_take_no_memory(key: str, value: object, tmp_path: Path) -> None:
    grounder().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match="not a grounder of this kind"):
        TinyGrounder.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("word_size", 10**9), ("hidden_size", 10**6), ("hidden_size", 10**15)],
)
def test_absurd_sizes_of_a_tagger_take_no_memory(key: str, value: int, tmp_path: Path) -> None:
    posts = [Post("a", ("Kim", "sings"))]
    open_tagger(config(backend="bilstm"), TWITTER, seed=0, posts=posts).save(tmp_path)
    path = tmp_path / "tagger.json"
    told = json.loads(path.read_text())
    told["config"][key] = value
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"model\.safetensors|sizes make no network"):
        open_tagger(config(backend="bilstm"), TWITTER, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"types": [None, "PER"]},
        {"types": 5},
        {"types": None},
        {"scheme": None},
        {"temperature": 0},
        {"temperature": "1e999"},
        {"temperature": 10**400},
        {"config": []},
    ],
)
def test_wrong_facts_of_a_tagger_are_told(change: dict[str, object], tmp_path: Path) -> None:
    posts = [Post("a", ("Kim", "sings"))]
    open_tagger(config(backend="bilstm"), TWITTER, seed=0, posts=posts).save(tmp_path)
    path = tmp_path / "tagger.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"tagger\.json: no tagger's facts"):
        open_tagger(config(backend="bilstm"), TWITTER, tmp_path)


@pytest.mark.parametrize("words", [5, [5], None, ["a"]])
def test_a_wrong_vocabulary_is_told(words: object, tmp_path: Path) -> None:
    posts = [Post("a", ("Kim", "sings"))]
    open_tagger(config(backend="bilstm"), TWITTER, seed=0, posts=posts).save(tmp_path)
    (tmp_path / "vocabulary.json").write_text(json.dumps({"words": words, "alphabet": []}))
    with pytest.raises(InputError, match=r"vocabulary\.json: no vocabulary|not this tagger's"):
        open_tagger(config(backend="bilstm"), TWITTER, tmp_path)


def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        read_weights(path, {"a": torch.empty(2**40, device="meta")})


def test_numbers_in_half_precision_are_looked_at_too() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn):
        demand_numbers("x", [("w", torch.ones(3, dtype=dtype)), ("none", torch.empty(0))])
        with pytest.raises(InputError, match="x: w is not finite"):
            demand_numbers("x", [("w", torch.tensor([1, float("nan")], dtype=dtype))])


def test_a_checkpoints_configuration_may_not_dwarf_its_weights(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(8, 4), "b": torch.zeros(4)}, tmp_path / "model.safetensors")

    def told(config: dict[str, object]) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        demand_sizes(tmp_path)

    told({"num_hidden_layers": 2, "vocab_size": 8, "feature_layer": -2, "id2label": {"0": "a"}})
    demand_sizes("owner/name")
    with pytest.raises(InputError, match="num_hidden_layers 1000000000, but the weights have 2"):
        told({"text_config": {"num_hidden_layers": 10**9}})
    with pytest.raises(InputError, match="vocab_size 1000000, but"):
        told({"vocab_size": 10**6})
    with pytest.raises(InputError, match="depths 1000000, but"):
        told({"depths": [1, 10**6]})


def test_an_answer_whose_numbers_overflow_is_a_failure(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    model = grounder()
    with torch.no_grad():
        for weight in model.net.parameters():
            weight.fill_(1e18)
    found = model.ground([(str(tmp_path / "a.png"), "the red square")])[0]
    assert isinstance(found, Failure)
    assert found.stage == "model"
