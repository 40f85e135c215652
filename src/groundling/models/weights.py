"""Weights from a file: nothing is built before they fit, nothing answers unless they are numbers.

A shared module, no backend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from groundling.errors import InputError
from groundling.strict_json import read_object

Net = TypeVar("Net", bound=nn.Module)

LARGEST = math.sqrt(torch.finfo(torch.float32).max)
"""The square of a larger weight is no float32: no network is trained to have one."""

_FLOATS = ("F16", "BF16", "F32", "F64")
_WANTED = f"wanted one of {', '.join(_FLOATS)}; save it anew"
_DEPTH = re.compile(r"(^|_)(layers?|depths?|num_blocks)$")
_WIDTH = re.compile(r"(^|_)(vocab_size|hidden_size|intermediate_size|embed_dim|d_model|ffn_dim)$")
_FEW_LAYERS, _SLIM = 1000, 4096
"""A depth and a width that may be said beside any weights: a default that the model never uses."""


def read_weights(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose names and shapes are exactly those of `wanted`.

    `wanted` may lie on the meta device. Names, shapes and kinds of number are compared by the
    file's header, before anything is read. Raises InputError for anything else, and for weights
    that are not finite or beyond LARGEST.
    """
    held = stored_shapes(path)
    if held.keys() != wanted.keys():
        odd = sorted(held.keys() ^ wanted.keys())
        raise InputError(f"{path}: other weights than wanted: {len(odd)} names, first {odd[0]}")
    for name, (kind, shape) in held.items():
        if shape != tuple(wanted[name].shape):
            raise InputError(f"{path}: {name} is {shape}, wanted {tuple(wanted[name].shape)}")
        if wanted[name].is_floating_point() != (kind in _FLOATS):
            raise InputError(f"{path}: {name} is of {kind}; {_WANTED}")
    tensors = read_tensors(path)
    demand_numbers(path, tensors.items())
    return tensors


def read_net(path: Path, build: Callable[[], Net]) -> Net:
    """The network that `build` makes, with the weights in `path`. Raises InputError.

    It is built without memory first, so that sizes which the file does not bear out take none. A
    weight that the network has under several names is stored under the first of them.
    """
    try:
        with torch.device("meta"):
            outline = build()
    except (RuntimeError, ValueError, TypeError, AssertionError) as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(f"{path.parent}: its sizes make no network ({reason})") from fault
    again = repeated_names(outline)
    outlined = {name: t for name, t in outline.state_dict().items() if name not in again}
    weights = read_weights(path, outlined)
    net = build()
    net.load_state_dict(weights, strict=False)
    return net


def stored_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind of number and shape of each tensor in a safetensors file, by its header alone."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except (OSError, SafetensorError) as fault:
        raise InputError(f"{path}: no checkpoint that can be opened: {fault}") from fault


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises InputError where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as fault:
        raise InputError(f"{path}: no checkpoint that can be opened: {fault}") from fault


def demand_floats(source: object, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError for weights of another kind than floating numbers, and as `demand_numbers`.

    For a file whose every tensor is a weight.
    """
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, tensor in tensors.items():
        if tensor.dtype not in kinds:
            raise InputError(f"{source}: {name} is of {tensor.dtype}; {_WANTED}")
    demand_numbers(source, tensors.items())


def demand_numbers(source: object, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise InputError for a tensor that holds NaN, infinity or numbers beyond LARGEST.

    One pass over each tensor, without a copy: far less than reading it took. Packed and counting
    tensors are no floating numbers and are passed over.
    """
    for name, tensor in tensors:
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        values = tensor.detach()
        if values.element_size() == 1:  # torch orders no float8
            values = values.to(torch.float16)
        low, high = (float(end) for end in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"{source}: {name} is not finite; fetch or train these weights anew")
        if max(-low, high) > LARGEST:
            raise InputError(
                f"{source}: {name} holds {max(low, high, key=abs):.3g}, which no trained weight "
                "is; fetch or train these weights anew"
            )


def demand_sizes(checkpoint: str | Path) -> None:
    """Raise InputError where a config.json is far beyond the weights that lie beside it.

    Every layer has a tensor at least, and no width is 16 times the longest side of a tensor: else
    building the model would take all time or memory before the difference were seen. What is
    named by a hub name is left to the library.
    """
    files = sorted(Path(checkpoint).glob("*.safetensors")) if Path(checkpoint).is_dir() else []
    told = Path(checkpoint) / "config.json"
    if not files or not told.is_file():
        return
    shapes = [shape for file in files for _, shape in stored_shapes(file).values()]
    longest = max((side for shape in shapes for side in shape), default=0)
    for name, size in _sizes(read_object(told)):
        most = max(_FEW_LAYERS, len(shapes)) if _DEPTH.search(name) else max(_SLIM, 16 * longest)
        if size > most:
            raise InputError(
                f"{checkpoint}: config.json says {name} {size}, but the weights have "
                f"{len(shapes)} tensors with sides up to {longest}; fetch both again"
            )


def _sizes(config: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """The configured depths and widths, also those of a part's own configuration."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _sizes(value)
        elif _DEPTH.search(name) or _WIDTH.search(name):
            many = value if isinstance(value, list | tuple) else [value]
            yield from ((name, one) for one in many if isinstance(one, int))


def repeated_names(net: nn.Module) -> set[str]:
    """Further names of weights that have one already."""
    every = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in net.named_parameters()}
