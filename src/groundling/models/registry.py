"""The name table of backends: how a configuration names a writer and a grounder."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.config import GrounderConfig, LoraConfig, WriterConfig
from groundling.errors import InputError
from groundling.models.base import DirectLearner, Grounder, Writer

if TYPE_CHECKING:
    import torch

    from groundling.models.chat import Chat
    from groundling.models.wording import Messages


def packaged(name: str) -> Path:
    """The folder of a model that ships with the package: `writer` or `grounder`."""
    return Path(str(resources.files("groundling"))) / "assets" / name


def open_writer(
    config: WriterConfig, lora: LoraConfig, seed: int, adapter: Path | None = None
) -> Writer:
    """A writer with a fresh adapter (rank, α, seed), or with the one stored in `adapter`.

    Raises InputError for a missing path and for what is no checkpoint.
    """
    from groundling.models.checkpoints import read_known_names
    from groundling.models.local import LocalWriter

    checkpoint = _checkpoint(config.backend, config.path, "writer")
    chat = _chat(config, checkpoint, LocalWriter.QUESTION, lora, seed, adapter)
    return LocalWriter(chat, read_known_names(Path(checkpoint) / "known_names.json"))


def open_grounder(config: GrounderConfig, tuned: Path | None = None) -> Grounder:
    """A grounder by name, as published, or as `Grounder.save` left it in `tuned`.

    Raises InputError for a missing path and for what is no checkpoint.
    """
    if config.backend == "tiny":
        from groundling.models.tiny import TinyGrounder

        return TinyGrounder.load(tuned or Path(_checkpoint("tiny", config.path, "grounder")))
    checkpoint = _checkpoint(config.backend, config.path, "grounder")
    if config.backend == "ofa":
        from groundling.models.ofa import OFAGrounder

        return OFAGrounder.load(
            tuned or checkpoint,
            device=device_of(config),
            dtype=_dtype(config),
            beams=config.beams,
            label_smoothing=config.label_smoothing,
            drop_path=config.drop_path,
            batch_size=config.batch_size,
            gradient_checkpointing=config.checkpointing,
        )
    if config.backend == "vlm":
        from groundling.models.vlm import VlmGrounder

        return VlmGrounder(_chat(config, checkpoint, VlmGrounder.QUESTION, config.lora, 0, tuned))
    if config.backend == "dino":
        from groundling.models.detectors import DinoGrounder

        return DinoGrounder.load(
            tuned or checkpoint,
            device=device_of(config),
            dtype=_dtype(config),
            batch_size=config.batch_size,
            max_pixels=config.max_pixels,
        )
    from groundling.models.detectors import FlorenceGrounder

    return FlorenceGrounder.load(
        checkpoint,
        device=device_of(config),
        dtype=_dtype(config),
        batch_size=config.batch_size,
    )


def open_direct(
    config: WriterConfig, lora: LoraConfig, seed: int, adapter: Path | None = None
) -> DirectLearner:
    """A multimodal model that is asked for boxes directly (prompt A.3). Raises InputError."""
    from groundling.models.vlm import VlmDirectGrounder

    checkpoint = _checkpoint(config.backend, config.path, "writer")
    question = VlmDirectGrounder.QUESTION
    return VlmDirectGrounder(_chat(config, checkpoint, question, lora, seed, adapter))


def _chat(
    config: WriterConfig | GrounderConfig,
    checkpoint: str,
    question: Messages,
    lora: LoraConfig,
    seed: int,
    adapter: Path | None,
) -> Chat:
    from groundling.models.chat import Adapter, Chat, Resources

    return Chat.load(
        checkpoint,
        question,
        adapter=adapter if adapter is not None else Adapter(lora.rank, lora.alpha, seed),
        device=device_of(config),
        dtype=_dtype(config),
        four_bit=config.load_in_4bit,
        resources=Resources(
            batch_size=config.batch_size,
            max_pixels=config.max_pixels,
            checkpointing=config.checkpointing,
        ),
    )


def _checkpoint(backend: str, path: str | None, kind: str) -> str:
    """The folder or hub name that a configuration means."""
    if path is None:
        if backend != "tiny":
            raise InputError(
                f"{kind} {backend} needs a path: the folder or hub name of its weights"
            )
        return str(packaged(kind))
    if not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise InputError(f"{path}: no {kind} here; wanted a folder with config.json, or a hub name")
    return path


def device_of(config: WriterConfig | GrounderConfig) -> str:
    """The device that a configuration means; tiny models are no slower on the CPU."""
    if config.device != "auto":
        return config.device
    import torch

    return "cuda" if config.backend != "tiny" and torch.cuda.is_available() else "cpu"


def _dtype(config: WriterConfig | GrounderConfig) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def compute_threads() -> int:
    """Threads that models compute with: part of what a bit-identical result depends on."""
    import torch

    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Let models compute with `count` threads, in this process."""
    import torch

    torch.set_num_threads(count)
