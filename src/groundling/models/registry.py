"""The name table of backends: how a configuration names a writer and a grounder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from groundling.errors import InputError
from groundling.models.base import Grounder, Writer

WRITERS = ("tiny", "local")
GROUNDERS = ("tiny",)


def packaged(name: str) -> Path:
    """The folder of a model that ships with the package: `writer` or `grounder`."""
    return Path(str(resources.files("groundling"))) / "assets" / name


def open_writer(
    backend: str, path: str | None, *, rank: int, alpha: float, seed: int, adapter: Path | None
) -> Writer:
    """A writer with a fresh adapter (rank, α, seed), or with the one stored in `adapter`.

    `tiny` is the packaged writer of the embedded world; `local` any supported checkpoint at
    `path`. Raises InputError for an unknown name or a missing path.
    """
    from groundling.models.local import Adapter, LocalWriter

    if backend not in WRITERS:
        raise InputError(f"unknown writer {backend!r}; wanted one of {', '.join(WRITERS)}")
    if backend == "local" and path is None:
        raise InputError("writer local needs a path: the folder of its checkpoint")
    checkpoint = packaged("writer") if path is None else Path(path)
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint}: no writer here; wanted a folder with config.json")
    start = adapter if adapter is not None else Adapter(rank, alpha, seed)
    return LocalWriter.load(checkpoint, adapter=start)


def open_grounder(backend: str, path: str | Path | None) -> Grounder:
    """A grounder by name; `tiny` without a path is the packaged one. Raises InputError."""
    from groundling.models.tiny import TinyGrounder

    if backend not in GROUNDERS:
        raise InputError(f"unknown grounder {backend!r}; wanted one of {', '.join(GROUNDERS)}")
    return TinyGrounder.load(packaged("grounder") if path is None else Path(path))


def compute_threads() -> int:
    """Threads that models compute with: part of what a bit-identical result depends on."""
    import torch

    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Let models compute with `count` threads, in this process."""
    import torch

    torch.set_num_threads(count)
