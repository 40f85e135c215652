"""`groundling convert-ofa` on a real, small fairseq-like file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import tiny_ofa
import torch

from groundling.cli import main
from groundling.models.ofa import OFAGrounder, OFAModel


class Settings:
    """Stands for omegaconf's objects, which some files hold."""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint as fairseq writes it: tensors, settings in namespaces, an optimiser's state."""
    path = tmp_path / "small.pt"
    settings = {"task": argparse.Namespace(patch_image_size=48), "model": argparse.Namespace()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    torch.save(
        {
            "args": None,
            "cfg": settings,
            "model": tiny_ofa.fairseq_state(tiny_ofa.model(seed=4)),
            "extra_state": {"epoch": 3},
            "last_optimizer_state": optimiser,
        },
        path,
    )
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(tiny_ofa.config().to_json_string(), encoding="utf-8")
    return path


@pytest.fixture
def words(tmp_path: Path) -> Path:
    tiny_ofa.tokenizer().save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def convert(*arguments: object) -> int:
    return main(["convert-ofa", *map(str, arguments)])


def nothing_left(out: Path) -> bool:
    return not out.exists() and not list(out.parent.glob(f".{out.name}*"))


def test_a_checkpoint_is_converted(small, config, words, tmp_path, capsys):
    out = tmp_path / "new" / "ofa"
    assert convert(small, out, "--config", config, "--tokenizer", words, "--json") == 0
    streams = capsys.readouterr()
    told = json.loads(streams.out)
    original = tiny_ofa.model(seed=4)
    assert streams.err == ""
    assert told == {
        "out": str(out),
        "size": None,
        "patch_image_size": 48,
        "tensors": len(original.state_dict()) - 2,
        "parameters": told["parameters"],
        "left_out": 7,
        "tokenizer": True,
    }
    assert {f.name for f in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
    }
    assert not list(out.parent.glob(".*"))
    made = OFAModel.from_pretrained(out).eval()
    given = {
        "input_ids": torch.tensor([[0, 9, 8, 7, 2]]),
        "patch_images": torch.linspace(-1, 1, 3 * 48 * 48).view(1, 3, 48, 48),
        "decoder_input_ids": torch.tensor([[0, 400, 500]]),
    }
    assert torch.equal(made(**given).logits, original(**given).logits)
    assert OFAGrounder.load(out).grid.side_px == 48


def test_without_a_vocabulary(small, config, tmp_path, capsys):
    out = tmp_path / "ofa"
    assert convert(small, out, "--config", config, "--patch-image-size", 32) == 0
    streams = capsys.readouterr()
    assert "pictures squeezed to 32 px" in streams.out
    assert streams.err.startswith("groundling convert-ofa: warning: no vocabulary")
    assert {f.name for f in out.iterdir()} == {"config.json", "model.safetensors"}


def test_into_the_empty_folder_that_one_is_in(small, config, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert convert(small, ".", "--config", config) == 0
    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_half_precision_is_kept(small, config, tmp_path):
    checkpoint = torch.load(small, weights_only=False)
    checkpoint["model"] = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint["model"].items()
    }
    torch.save(checkpoint, small)
    assert convert(small, tmp_path / "ofa", "--config", config) == 0
    assert OFAModel.from_pretrained(tmp_path / "ofa", dtype="auto").dtype == torch.float16
    assert OFAModel.from_pretrained(tmp_path / "ofa").dtype == torch.float32


def test_refusals_leave_nothing(small, config, words, tmp_path, capsys):
    out = tmp_path / "ofa"

    def refused(match: str, *arguments: object) -> None:
        assert convert(*arguments) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert match in line, line
        assert nothing_left(out)

    refused("no published size of OFA has these tensors; pass", small, out)
    refused("not this OFA: ", small, out, "--size", "base")
    refused("no such file", tmp_path / "absent.pt", out)
    (tmp_path / "text.pt").write_text("no checkpoint")
    refused("no file of torch.save, or a damaged one", tmp_path / "text.pt", out)
    torch.save({"weights": {}}, tmp_path / "other.pt")
    refused("wanted a table with 'model' in it", tmp_path / "other.pt", out)
    torch.save({"model": {1: torch.zeros(2)}}, tmp_path / "numbers.pt")
    refused("tensors by name", tmp_path / "numbers.pt", out)
    torch.save({"model": {"encoder.embed_tokens.weight": 3}}, tmp_path / "three.pt")
    refused("tensors by name", tmp_path / "three.pt", out)
    torch.save({"model": {"encoder.embed_tokens.weight": torch.tensor(3.0)}}, tmp_path / "0d.pt")
    refused("no published size of OFA has these tensors", tmp_path / "0d.pt", out)
    torch.save({"cfg": Settings(), "model": {}}, tmp_path / "guest.pt")
    refused("Settings, which is not loaded because it could run code", tmp_path / "guest.pt", out)
    refused("no OFA vocabulary here", small, out, "--config", config, "--tokenizer", tmp_path)
    refused("--patch-image-size must be", small, out, "--patch-image-size", 0)
    refused("wanted a square of at most", small, out, "--config", config, "--patch-image-size", 65)
    refused("no such file", small, out, "--config", tmp_path / "no.json")
    tiny_ofa.tokenizer(codes=9).save_pretrained(words)
    refused("1332 tokens; wanted 1331", small, out, "--config", config, "--tokenizer", words)


def test_what_is_there_stays(small, config, tmp_path, capsys):
    out = tmp_path / "ofa"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    assert convert(small, out, "--config", config) == 2
    assert "already there" in capsys.readouterr().err
    assert [f.name for f in out.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_nothing(small, config, tmp_path, capsys, monkeypatch):
    from groundling.models.ofa import checkpoints

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    assert convert(small, tmp_path / "ofa", "--config", config) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert nothing_left(tmp_path / "ofa")
