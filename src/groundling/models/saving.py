"""Weights that cannot be written. A shared module, no backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from groundling.errors import InputError


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Around a library's save: InputError where the disk is full or fails."""
    try:
        yield
    except SafetensorError as fault:
        raise InputError(f"{folder}: the weights cannot be written: {fault}; make room") from fault
