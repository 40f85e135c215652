"""From a fairseq checkpoint to a folder that `OFAGrounder.load` and `OFAModel` open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from groundling.errors import InputError
from groundling.models.ofa.boxes import BinGrid
from groundling.models.ofa.checkpoints import (
    checked,
    is_state,
    load_config,
    read_torch_file,
    write_checkpoint,
)
from groundling.models.ofa.config import SIZES, OFAConfig, published
from groundling.models.ofa.fairseq import guess_size, port_name, port_state, recorded_side
from groundling.models.ofa.tokenizer import OFATokenizer


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written: where, the published size (None for another shape), what is in it."""

    out: Path
    size: str | None
    patch_image_size: int
    tensors: int
    parameters: int
    left_out: int
    tokenizer: bool


def convert_fairseq(
    source: Path,
    out: Path,
    *,
    size: str | None = None,
    config_file: Path | None = None,
    patch_image_size: int | None = None,
    tokenizer: Path | None = None,
) -> Conversion:
    """Write a new folder `out` from a fairseq `.pt` file, or nothing at all. Raises InputError.

    `size` is found from the tensors where it is not given; a model of no published size needs its
    own `config_file`. The square that pictures are squeezed to is `patch_image_size`, else what
    the file records, else that of the configuration. A `tokenizer` folder (vocab.json, merges.txt)
    completes the checkpoint: the file itself holds no vocabulary. Tensors keep their precision.
    """
    if size is not None and size not in SIZES:
        raise InputError(f"unknown size {size!r}; wanted one of {', '.join(SIZES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already there; name a new folder, or remove it first")
    words = None if tokenizer is None else OFATokenizer.from_pretrained(tokenizer)
    checkpoint = read_torch_file(source, namespaces=True)
    state = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not is_state(state):
        raise InputError(
            f"{source}: no fairseq checkpoint; wanted a table with 'model' in it, tensors by name"
        )
    named = port_state(state)
    found = guess_size(named)
    if size is not None and found is not None and size != found:
        raise InputError(f"{source}: this is OFA {found}, not {size}")
    config = _config(source, size or found, config_file)
    side = patch_image_size or recorded_side(checkpoint) or config.patch_image_size
    if side is None:
        raise InputError(f"{config_file}: no patch_image_size; name the square that was trained on")
    try:
        config.patch_image_size = BinGrid(side, config.num_bins, config.max_image_size).side_px
    except InputError as fault:
        raise InputError(f"{source}: {fault}") from fault
    if words is not None and len(words) != config.vocab_size:
        raise InputError(f"{tokenizer}: {len(words)} tokens; wanted {config.vocab_size}")
    tensors = checked(named, config, source)
    write_checkpoint(out, config, tensors, words)
    return Conversion(
        out=out,
        size=size or found,
        patch_image_size=side,
        tensors=len(tensors),
        parameters=sum(t.numel() for t in tensors.values() if t.is_floating_point()),
        left_out=sum(port_name(name) is None for name in state),
        tokenizer=words is not None,
    )


def _config(source: Path, size: str | None, config_file: Path | None) -> OFAConfig:
    if config_file is not None:
        return load_config(config_file)
    if size is None:
        raise InputError(
            f"{source}: no published size of OFA has these tensors; pass the model's config.json"
        )
    return published(size)
