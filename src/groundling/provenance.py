"""Where a run took place: versions, commit and machine, without secrets and without torch."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "groundling",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "safetensors",
    "tokenizers",
    "numpy",
    "pillow",
    "pyarrow",
)
"""Distributions whose versions can change a result."""


def provenance(**more: object) -> dict[str, object]:
    """Versions, git commit and processor count, with what the caller adds.

    A flow adds `threads` (those its models compute with) and `data` (fingerprints by name; part of
    a run's identity). Nothing is read from the environment's variables.
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _commit(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        **more,
    }


def drift(then: object, now: object, key: str = "") -> dict[str, tuple[object, object]]:
    """The dotted keys whose values differ, as (then, now); None stands for "not given"."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        found: dict[str, tuple[object, object]] = {}
        for name in [*then, *(name for name in now if name not in then)]:
            inner = f"{key}.{name}" if key else str(name)
            found |= drift(then.get(name), now.get(name), inner)
        return found
    return {} if then == now else {key: (then, now)}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _commit() -> dict[str, object] | None:
    """The commit of the checkout this package is tracked in; None for an installed copy."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def _git(*words: str) -> str | None:
    """What a git command in this package's folder prints; None where it fails."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
