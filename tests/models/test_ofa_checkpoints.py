from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import tiny_ofa
import torch
from safetensors.torch import load_file, save_file

from groundling.errors import InputError
from groundling.models.ofa import OFAGrounder, OFAModel, checkpoints
from groundling.models.ofa.checkpoints import find_folder, load_config, open_model, read_torch_file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ofa.tiny_ofa(tmp_path_factory.mktemp("ofa"))


@pytest.fixture
def published(checkpoint: Path, tmp_path: Path) -> Path:
    """The four files of a published folder: no safetensors, no list of added tokens."""
    folder = tmp_path / "published"
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").unlink()
    model = OFAModel.from_pretrained(checkpoint)
    state = dict(model.state_dict())
    for side in ("encoder", "decoder"):
        state[f"{side}.token_rp_bucket"] = model.encoder.token_rp_bucket.long()
        state[f"{side}.image_rp_bucket"] = model.encoder.image_rp_bucket.long()
    state["decoder.image_position_idx"] = torch.zeros(1025, dtype=torch.long)
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_file_becomes_safetensors(checkpoint, published, zipped):
    if not zipped:
        state = torch.load(published / "pytorch_model.bin", weights_only=True)
        torch.save(state, published / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    OFAGrounder.load(published)
    kept, wanted = (load_file(f / "model.safetensors") for f in (published, checkpoint))
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in wanted.items())
    (published / "pytorch_model.bin").unlink()
    assert OFAGrounder.load(published).grid.side_px == 64
    assert not list(published.glob(".*"))


def change(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_square_must_be_known(published):
    change(published, patch_image_size=None)
    with pytest.raises(InputError, match="names no patch_image_size"):
        OFAGrounder.load(published)
    assert OFAGrounder.load(published, patch_image_size=48).grid.side_px == 48


def test_weights_must_be_the_models(published):
    state = torch.load(published / "pytorch_model.bin", weights_only=True)

    def refused(match: str, **changes: torch.Tensor | None) -> None:
        kept = {n: t for n, t in (state | changes).items() if t is not None}
        torch.save(kept, published / "pytorch_model.bin")
        with pytest.raises(InputError, match=match):
            OFAGrounder.load(published)
        assert not (published / "model.safetensors").exists()
        assert not list(published.glob(".*"))

    refused("encoder.layer_norm.weight is missing", **{"encoder.layer_norm.weight": None})
    refused("x.weight is unknown", **{"x.weight": torch.zeros(2)})
    refused(
        r"layer_norm.bias is \(3,\), wanted \(32,\)", **{"encoder.layer_norm.bias": torch.zeros(3)}
    )
    other = state["encoder.embed_tokens.weight"] + 1
    refused("OFA shares one embedding", **{"decoder.output_projection.weight": other})
    refused("wanted a table of tensors", name="text")
    refused(r"is missing; .* and \d+ more$", **dict.fromkeys(list(state)[:20]))


def test_safetensors_must_be_whole(checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "x")
    state = load_file(folder / "model.safetensors")
    norm = state.pop("encoder.layer_norm.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"encoder\.layer_norm\.weight is missing"):
        OFAGrounder.load(folder)
    assert capsys.readouterr().err == ""
    state |= {"encoder.layer_norm.weight": norm, "adapter.weight": norm.clone()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"adapter\.weight is unknown"):
        OFAGrounder.load(folder)
    (folder / "model.safetensors").write_bytes(b"12345678 not safetensors")
    with pytest.raises(InputError, match="no checkpoint that can be opened"):
        OFAGrounder.load(folder)


class Guest:
    """Anything that is no tensor."""


def test_code_in_a_file_is_not_run(published, tmp_path):
    torch.save({"model": Guest()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"type \S*\.Guest, which is not loaded") as caught:
        read_torch_file(tmp_path / "a.pt", namespaces=True)
    assert "\n" not in str(caught.value)
    torch.save({"args": argparse.Namespace(x=1)}, tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"type argparse\.Namespace"):
        read_torch_file(tmp_path / "b.pt")
    assert read_torch_file(tmp_path / "b.pt", namespaces=True)["args"].x == 1
    with pytest.raises(InputError, match="no such file"):
        read_torch_file(tmp_path / "c.pt")
    for content in (b"", b"no pickle", b"PK\x03\x04 no archive"):
        (published / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(InputError, match=r"no file of torch\.save, or a damaged one"):
            OFAGrounder.load(published)


def test_configurations(published):
    change(published, model_type="bart")
    with pytest.raises(InputError, match="not the configuration of an OFA model"):
        OFAGrounder.load(published)
    change(published, model_type="ofa", normformer=False)
    with pytest.raises(InputError, match="normformer False"):
        OFAGrounder.load(published)
    (published / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_config(published / "config.json")
    (published / "config.json").unlink()
    with pytest.raises(InputError, match="no such file"):
        open_model(published, torch.float32)


def test_no_weights(published):
    (published / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no weights"):
        OFAGrounder.load(published)


def test_names_of_repositories(published, monkeypatch):
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(published)

    monkeypatch.setattr(checkpoints, "snapshot_download", fetch)
    assert find_folder("OFA-Sys/ofa-tiny") == published
    assert [name for name, _ in asked] == ["OFA-Sys/ofa-tiny"] * 2
    assert asked[1][1] == ["pytorch_model.bin"]
    assert "pytorch_model.bin" not in asked[0][1]

    def fail(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here\nand not there")

    monkeypatch.setattr(checkpoints, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"cannot be fetched: not here$"):
        find_folder("OFA-Sys/ofa-tiny")
    for name in ("nowhere", "/no/such/folder", "a/b/c"):
        with pytest.raises(InputError, match="no such folder"):
            find_folder(name)
