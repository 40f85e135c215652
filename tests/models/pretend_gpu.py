"""A device that is pretended: its tensors say that they are elsewhere and compute here.

On a GPU an operation on tensors of two devices is an error that a CPU never shows. With this it
is one here too:

    model = sent(model)
    with pretended():
        …  # "meta" is the device's name: torch has no other that is not really there

Parameters have no gradients: autograd knows the devices of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_COPIES = {"aten::_to_copy", "aten::copy_"}
"""What may take a tensor from one device to another."""


class Away(torch.Tensor):
    """A tensor on the pretended device; `here` holds its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Away:
        made: Away = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    """Makes new tensors on the device that is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Makes tensors of numbers: torch would leave the numbers out on "meta"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_away(kwargs.get("device")):
            del kwargs["device"]
            return func(*args, **kwargs).to(DEVICE)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Away):
            kwargs.setdefault("dtype", args[0].dtype)
            return torch.tensor(args[1], **kwargs).to(DEVICE)
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """The device is there."""
    with _Literals(), _Dispatch(), torch.no_grad():
        yield


def sent(module: torch.nn.Module) -> torch.nn.Module:
    """A module with its parameters and buffers on the pretended device, those that are not yet."""
    for part in module.modules():
        for name, held in part._parameters.items():
            if held is not None and not isinstance(held, Away):
                away = torch.nn.Parameter(Away(held.detach()), requires_grad=False)
                part._parameters[name] = away
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Away):
                part._buffers[name] = Away(buffer)
    return module


def _is_away(device: Any) -> bool:
    return device is not None and torch.device(device) == DEVICE


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of torch on tensors of one device; single numbers of the CPU go with any."""
    name = func._schema.name
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
    away = [tensor for tensor in tensors if isinstance(tensor, Away)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Away) and tensor.dim()]
    indexed = name in ("aten::index", "aten::index_put_") and isinstance(args[0], Away)
    if away and here and name not in _COPIES and not indexed:
        raise RuntimeError(f"{name}: tensors of two devices")
    goes = bool(away)
    if kwargs.get("device") is not None:
        goes = _is_away(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(_numbers, (args, kwargs))
    made = func(*args, **kwargs)
    for tensor in away:
        if made is tensor.here:  # done in place
            return tensor
    return tree_map(_taken, made) if goes else made


def _numbers(part: Any) -> Any:
    return part.here if isinstance(part, Away) else part


def _taken(part: Any) -> Any:
    return Away(part) if isinstance(part, torch.Tensor) else part
