"""Opening and keeping models of transformers: what goes wrong is one line, what is kept is whole.

A shared module, no backend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from groundling import team
from groundling.errors import InputError
from groundling.models.quiet import quiet_library
from groundling.models.saving import saving

_SHOWN = 240
"""Most characters of the library's own words in an error."""

OPENING_FAULTS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers is known to raise on files that are no checkpoint, or a damaged one."""


@contextlib.contextmanager
def opening(checkpoint: str | Path) -> Iterator[None]:
    """Inside, transformers is quiet, and what it raises is an InputError that names the checkpoint.

    The library answers for files that others wrote: whatever is wrong with them, it is the input.
    """
    with quiet_library():
        try:
            yield
        except OPENING_FAULTS as fault:
            reason = " ".join(str(fault).split()) or type(fault).__name__
            reason = reason if len(reason) <= _SHOWN else reason[: _SHOWN - 1] + "…"
            raise InputError(f"{checkpoint}: no checkpoint that can be opened: {reason}") from fault


def refuse_gaps(checkpoint: str | Path, report: Mapping[str, Any]) -> None:
    """Refuse what transformers would have filled at random, by its loading report.

    Load with `ignore_mismatched_sizes`, so that a weight of another shape is told by its name.
    """
    missing = sorted(report["missing_keys"])
    shapes = sorted(report["mismatched_keys"])
    if missing:
        raise InputError(
            f"{checkpoint}: {len(missing)} weights are missing, {missing[0]} the first of them; "
            "fetch the checkpoint again"
        )
    if shapes:
        name, stored, wanted = shapes[0]
        raise InputError(
            f"{checkpoint}: {len(shapes)} weights are of another shape than config.json says, the "
            f"first of them {name}, {tuple(stored)} instead of {tuple(wanted)}; fetch both again"
        )


def usable_device(name: str) -> str:
    """The name of a device that tensors can be made on; raises InputError for any other."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as fault:
        reason = str(fault).strip().partition("\n")[0]
        raise InputError(
            f"device {name!r} cannot be used here ({reason}); wanted cpu, or a GPU that this "
            "torch can see, such as cuda or cuda:1"
        ) from fault
    return name


def save_model(model: Any, folder: Path) -> bool:
    """Write weights (safetensors) and configuration, and say whether this process is the one.

    Of several processes the leader alone writes; where parameters are shared out, every process
    must call this, to bring its share.
    """
    settings: dict[str, Any] = {}
    if team.is_sharded(model):
        named = model.state_dict().items()
        settings["state_dict"] = {name: team.whole(value).cpu() for name, value in named}
    if not team.leads():
        return False
    with quiet_library(), saving(folder):
        model.save_pretrained(folder, **settings)
    return True
