"""What a stored adapter is called wherever it is handed to a server or an engine.

A shared module, no backend.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from groundling.errors import InputError


def adapter_name(folder: Path) -> str:
    """A name by the digest of the adapter's weights: another round, another name.

    Raises InputError where `folder` holds no adapter.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(f"{folder}: no adapter_model.safetensors; name an adapter's folder")
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"groundling-{digest[:16]}"
