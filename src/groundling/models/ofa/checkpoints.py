"""Opening OFA checkpoints: safetensors always; published `.bin` files once, by weights_only."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

from groundling import atomic
from groundling.errors import InputError
from groundling.models.ofa.config import OFAConfig
from groundling.models.ofa.model import OFAModel
from groundling.models.ofa.tokenizer import OFATokenizer
from groundling.models.opening import opening
from groundling.models.weights import demand_numbers, demand_sizes
from groundling.strict_json import read_object

_TIED = tuple(OFAModel._tied_weights_keys)
_SHARED = "encoder.embed_tokens.weight"
_INDEX = re.compile(r"(_rp_bucket|image_position_idx|\.version)$")
_COUNTER = "num_batches_tracked"
_SHOWN = 3
"""Names that an error spells out."""


def find_folder(name: str | Path) -> Path:
    """The folder of a checkpoint: as named, or the local copy of a Hugging Face repository.

    Nothing but configuration, vocabulary and weights is fetched, and `pytorch_model.bin` only
    where a repository has no safetensors. Raises InputError.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise InputError(f"{name}: no such folder, and no name of a Hugging Face repository")
    texts = ["config.json", "vocab.json", "merges.txt", "added_tokens.json"]
    try:
        folder = Path(snapshot_download(str(name), allow_patterns=[*texts, "model.safetensors"]))
        if not (folder / "model.safetensors").exists():
            snapshot_download(str(name), allow_patterns=["pytorch_model.bin"])
    except (OSError, ValueError) as fault:
        reason = str(fault).strip().partition("\n")[0]
        raise InputError(f"{name}: cannot be fetched: {reason}") from fault
    return folder


def open_model(folder: Path, dtype: torch.dtype) -> OFAModel:
    """The model in a folder, on the CPU, in evaluation mode. Raises InputError.

    A folder with `pytorch_model.bin` alone is given a `model.safetensors` beside it first.
    """
    config = load_config(folder / "config.json")
    demand_sizes(folder)
    keep_as_safetensors(folder, config)
    with opening(folder):
        model, info = OFAModel.load_with_report(folder, config, dtype)
    missing = [name for name in info["missing_keys"] if not name.endswith(_COUNTER)]
    faults = [f"{name} is missing" for name in sorted(missing)]
    faults += [f"{name} is unknown" for name in sorted(info["unexpected_keys"])]
    faults += [_shape(name, *shapes) for name, *shapes in sorted(info["mismatched_keys"])]
    if faults:
        raise InputError(f"{folder}: not this OFA: {_some(faults)}")
    demand_numbers(folder, model.named_parameters())
    model.eval()
    return model


def load_config(path: Path) -> OFAConfig:
    """The configuration in a file; raises InputError for none and for another family's."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; wanted the configuration of an OFA model")
    try:
        raw = read_object(path)
        if raw.get("model_type") != "ofa":
            raise InputError(f"{path}: not the configuration of an OFA model (model_type 'ofa')")
        config: OFAConfig = OFAConfig.from_dict(raw)
        problems = config.unsupported()
    except (OSError, ValueError, TypeError) as fault:
        reason = str(fault).strip().partition("\n")[0]
        raise InputError(f"{path}: cannot be read: {reason}") from fault
    if problems:
        raise InputError(f"{path}: no OFA of a published kind: {'; '.join(problems)}")
    return config


def keep_as_safetensors(folder: Path, config: OFAConfig) -> Path:
    """The `model.safetensors` of a folder, made from `pytorch_model.bin` where there is none."""
    path, published = folder / "model.safetensors", folder / "pytorch_model.bin"
    if path.is_file():
        return path
    if not published.is_file():
        raise InputError(f"{folder}: no weights; wanted model.safetensors or pytorch_model.bin")
    write_weights(checked(read_torch_file(published), config, published), path)
    return path


def read_torch_file(path: Path, *, namespaces: bool = False) -> Any:
    """What `torch.save` wrote, tensors mapped from the file; code in it is never run.

    `namespaces` admits argparse.Namespace, in which fairseq keeps its settings, and nothing else.
    Raises InputError for what is no such file or holds objects of another kind.
    """
    allowed: list[Any] = [argparse.Namespace] if namespaces else []
    _demand_plain_zip(path)
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except FileNotFoundError as fault:
        raise InputError(f"{path}: no such file") from fault
    except pickle.UnpicklingError as fault:
        found = re.search(r"GLOBAL (\S+)", str(fault))
        if found is None:
            raise InputError(f"{path}: no file of torch.save, or a damaged one") from fault
        raise InputError(
            f"{path}: holds an object of type {found.group(1)}, which is not loaded because it "
            "could run code; where you trust the file, open it with the program that wrote it and "
            "save its 'model' alone: torch.save({'model': checkpoint['model']}, NEW)"
        ) from fault
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as fault:
        reason = str(fault).strip().partition("\n")[0]
        raise InputError(f"{path}: no file of torch.save, or a damaged one: {reason}") from fault


def _demand_plain_zip(path: Path) -> None:
    """torch.save never compresses: a compressed member may unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [one for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED]
    except (OSError, zipfile.BadZipFile, ValueError):
        return  # no zip file, or a damaged one: torch tells it
    if packed:
        raise InputError(
            f"{path}: its member {packed[0].filename} is compressed, which torch.save never does; "
            "fetch the file from where it was published"
        )


def checked(state: Any, config: OFAConfig, source: Path) -> dict[str, torch.Tensor]:
    """The tensors of `state` that a model of `config` stores: each once, no index buffer.

    Raises InputError, with a few names, unless names and shapes are exactly the model's.
    """
    if not is_state(state):
        raise InputError(f"{source}: wanted a table of tensors by name")
    tensors: dict[str, torch.Tensor] = {n: t for n, t in state.items() if not _INDEX.search(n)}
    for name in _TIED:
        copy = tensors.pop(name, None)
        shared = tensors.get(_SHARED)
        if copy is not None and shared is not None and not _equal(copy, shared):
            raise InputError(f"{source}: {name} differs from {_SHARED}; OFA shares one embedding")
    with opening(source), torch.device("meta"):
        model = OFAModel(config)
    wanted = {n: t.shape for n, t in model.state_dict().items() if n not in _TIED}
    for name in wanted:
        if name.endswith(_COUNTER):
            tensors.setdefault(name, torch.tensor(0))
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in wanted]
    faults += [
        _shape(name, tensor.shape, wanted[name])
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if faults:
        raise InputError(f"{source}: not this OFA: {_some(faults)}")
    demand_numbers(source, tensors.items())
    return tensors


def is_state(found: Any) -> TypeGuard[Mapping[str, torch.Tensor]]:
    """Whether a thing is a table of tensors by name."""
    return isinstance(found, Mapping) and all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in found.items()
    )


def _shape(name: str, found: torch.Size, wanted: torch.Size) -> str:
    return f"{name} is {tuple(found)}, wanted {tuple(wanted)}"


def _some(faults: list[str]) -> str:
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + more


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    same = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return one.shape == other.shape and (same or torch.equal(one, other))


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write safetensors under a temporary name, then rename; raises InputError where it cannot."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(own, temporary, metadata={"format": "pt"})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as fault:
        raise InputError(f"{path}: cannot be written: {fault.strerror or fault}") from fault
    finally:
        temporary.unlink(missing_ok=True)


def write_checkpoint(
    folder: Path,
    config: OFAConfig,
    tensors: Mapping[str, torch.Tensor],
    tokenizer: OFATokenizer | None,
) -> None:
    """A whole new folder, or nothing: made beside under a temporary name, then renamed."""
    folder = folder.absolute()  # "." has no name
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        made = staging / "made"
        atomic.make_folder(made)
        config.save_pretrained(made)
        write_weights(tensors, made / "model.safetensors")
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        atomic.place_folder(made, folder, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
