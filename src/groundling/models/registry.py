"""The name table of backends: how a configuration names a writer and a grounder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, overload

from groundling.config import GrounderConfig, IsrConfig, LoraConfig, WriterConfig
from groundling.config_gmner import ExampleChoice, TaggerConfig
from groundling.errors import InputError
from groundling.models.base import (
    Case,
    DirectLearner,
    Embedder,
    FittedTagger,
    Grounder,
    LocatedCase,
    Question,
    Sampler,
    Solved,
    TrainableTagger,
    Writer,
)
from groundling.records import Post, Scheme

if TYPE_CHECKING:
    import torch

    from groundling.models.chat import Chat
    from groundling.models.coordinates import ConventionName
    from groundling.models.wording import Messages


def packaged(name: str) -> Path:
    """The folder of a model that ships with the package: `writer` or `grounder`."""
    return Path(str(resources.files("groundling"))) / "assets" / name


def open_writer(
    config: WriterConfig, lora: LoraConfig, seed: int, adapter: Path | None = None
) -> Writer:
    """A writer with a fresh adapter, or with the one stored in `adapter` and its own settings.

    Raises InputError for what is no checkpoint.
    """
    from groundling.models.checkpoints import read_known_names
    from groundling.models.local import LocalWriter

    checkpoint = _checkpoint(config.path, "writer")
    chat = _chat(config, checkpoint, LocalWriter.QUESTION, lora, seed, adapter)
    return LocalWriter(chat, read_known_names(Path(checkpoint) / "known_names.json"))


def open_grounder(config: GrounderConfig, tuned: Path | None = None) -> Grounder:
    """A grounder by name, as published, or as `Grounder.save` left it in `tuned`.

    Raises InputError for what is no checkpoint.
    """
    if config.backend == "tiny":
        from groundling.models.tiny import TinyGrounder

        return TinyGrounder.load(tuned or Path(_checkpoint(config.path, "grounder")))
    checkpoint = _checkpoint(config.path, "grounder")
    if config.backend == "vlm":
        from groundling.models.vlm import VlmGrounder

        return VlmGrounder(_chat(config, checkpoint, VlmGrounder.QUESTION, config.lora, 0, tuned))
    from groundling.models.grounding import Compute

    compute = Compute(device_of(config), _dtype(config), config.batch_size)
    if config.backend == "ofa":
        from groundling.models.ofa import OFAGrounder

        return OFAGrounder.load(
            tuned or checkpoint,
            compute,
            beams=config.beams,
            label_smoothing=config.label_smoothing,
            drop_path=config.drop_path,
            gradient_checkpointing=config.checkpointing,
        )
    if config.backend == "dino":
        from groundling.models.detectors import DinoGrounder

        return DinoGrounder.load(tuned or checkpoint, compute, max_pixels=config.max_pixels)
    from groundling.models.detectors import FlorenceGrounder

    return FlorenceGrounder.load(checkpoint, compute, beams=config.beams)


def open_sampler(config: IsrConfig) -> Sampler:
    """The configured way to draw from the writer other than by itself.

    Raises InputError for settings that do not fit, ConfigError for unknown ones.
    """
    sampler, writer = config.sampler, config.writer
    if sampler.backend == "endpoint":
        from groundling.models.endpoints import EndpointSampler

        assert sampler.url is not None
        return EndpointSampler(sampler.url, sampler.settings)
    from groundling.models.vllm_sampler import VllmSampler

    return VllmSampler.load(
        _checkpoint(writer.path, "writer"),
        rank=config.lora.rank,
        dtype=writer.dtype,
        max_pixels=writer.max_pixels,
        memory_share=sampler.memory,
    )


def open_direct(
    config: WriterConfig, lora: LoraConfig, seed: int, adapter: Path | None = None
) -> DirectLearner:
    """A multimodal model that is asked for boxes directly (prompt A.3). Raises InputError."""
    from groundling.models.vlm import VlmDirectGrounder

    checkpoint = _checkpoint(config.path, "writer")
    question = VlmDirectGrounder.QUESTION
    return VlmDirectGrounder(_chat(config, checkpoint, question, lora, seed, adapter))


@overload
def open_tagger(config: TaggerConfig, scheme: Scheme, folder: Path) -> FittedTagger: ...


@overload
def open_tagger(
    config: TaggerConfig, scheme: Scheme, *, seed: int = 0, posts: Sequence[Post] = ()
) -> TrainableTagger: ...


def open_tagger(
    config: TaggerConfig,
    scheme: Scheme,
    folder: Path | None = None,
    *,
    seed: int = 0,
    posts: Sequence[Post] = (),
) -> FittedTagger:
    """A tagger by name, as its `save` left it in `folder`, or else a fresh one.

    `seed` and `posts`, whose words and characters it gets to know, are for a fresh one. Raises
    InputError for what cannot be opened.
    """
    if config.uncertainty.kind == "ensemble" and folder is not None:
        from groundling.models.taggers.ensemble import EnsembleTagger

        return EnsembleTagger.load(
            folder, scheme, config, lambda member: open_tagger(config.single, scheme, member)
        )
    device = _device(config.device)
    if config.backend == "bilstm":
        from groundling.models.taggers.bilstm import BilstmTagger

        if folder is not None:
            return BilstmTagger.load(folder, scheme, config, device)
        return BilstmTagger.fresh(scheme, config, device, seed, posts)
    if config.backend == "spacy":
        from groundling.models.taggers.spacy_pipeline import SpacyTagger

        return SpacyTagger.open(scheme, config, folder)
    if config.backend == "generative":
        from groundling.models.taggers.generative import GenerativeTagger

        if folder is not None:
            return GenerativeTagger.load(folder, scheme, config, device)
        if config.path is None:
            raise InputError("tagger.path: missing; wanted the folder or hub name of a BART or T5")
        weights = _checkpoint(config.path, "tagger")
        return GenerativeTagger.fresh(weights, scheme, config, device, seed)
    from groundling.models.taggers.encoder import EncoderTagger

    if folder is not None:
        return EncoderTagger.load(folder, scheme, config, device)
    from groundling.models.embeddings import packaged_minilm

    named = config.path
    checkpoint = packaged_minilm() if named is None else _checkpoint(named, "encoder")
    return EncoderTagger.fresh(checkpoint, scheme, config, device, seed, posts)


def open_ensemble(config: TaggerConfig, scheme: Scheme, folders: Sequence[Path]) -> FittedTagger:
    """Taggers that were fitted one by one as one, not calibrated yet. Raises InputError."""
    from groundling.models.taggers.ensemble import EnsembleTagger, member

    opened = [open_tagger(config.single, scheme, folder) for folder in folders]
    return EnsembleTagger(list(map(member, opened)), scheme, config)


def open_embedders(settings: ExampleChoice) -> tuple[Embedder, Embedder]:
    """What makes vectors of texts, and of pictures. Raises InputError for what is no encoder."""
    from groundling.models.embeddings import open_picture_embedder, open_text_embedder

    device = _device("auto")
    return (
        open_text_embedder(settings.text_encoder, device),
        open_picture_embedder(settings.image_encoder, device),
    )


def open_question(
    convention: ConventionName, max_tokens: int
) -> Callable[[Case, Sequence[Solved]], Question[LocatedCase]]:
    """How a case and its solved examples become a question with boxes in a convention."""
    from groundling.models.in_context import in_context_question

    return lambda case, shown: in_context_question(case, shown, convention, max_tokens)


def open_index() -> Callable[..., list[list[int]]]:
    """An approximate search for the nearest examples, as `selection.nearest`."""
    from groundling.models.faiss_index import approximately_nearest

    return approximately_nearest


def _chat(
    config: WriterConfig | GrounderConfig,
    checkpoint: str,
    question: Messages,
    lora: LoraConfig,
    seed: int,
    adapter: Path | None,
) -> Chat:
    from groundling.models.chat import Adapter, Chat, Resources

    fresh = Adapter(lora.rank, lora.alpha, seed, lora.targets)
    return Chat.load(
        checkpoint,
        question,
        adapter=adapter or fresh,
        device=device_of(config),
        dtype=_dtype(config),
        four_bit=config.load_in_4bit,
        resources=Resources(
            batch_size=config.batch_size,
            max_pixels=config.max_pixels,
            checkpointing=config.checkpointing,
        ),
    )


def _checkpoint(path: str | None, kind: str) -> str:
    """The folder or hub name that a configuration means; without one, what ships as `kind`."""
    if path is None:
        return str(packaged(kind))
    if not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise InputError(f"{path}: no {kind} here; wanted a folder with config.json, or a hub name")
    return path


def device_of(config: WriterConfig | GrounderConfig) -> str:
    """The device that a configuration means; tiny models are no slower on the CPU."""
    tiny = config.backend == "tiny" and config.device == "auto"
    return "cpu" if tiny else _device(config.device)


def _device(device: str) -> str:
    """A device, where `auto` is a GPU if there is one."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(config: WriterConfig | GrounderConfig) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def compute_threads() -> int:
    """Threads that models compute with: part of what a bit-identical result depends on."""
    import torch

    return torch.get_num_threads()


@contextmanager
def few_threads(*models: WriterConfig | GrounderConfig) -> Iterator[None]:
    """Within it one thread computes, where all of `models` are tiny ones.

    Their sums are too small to share: threads that wait for each other at every sum gain little,
    and lose nearly all where another process keeps one of them from its core. One thread also
    makes results the same whatever the number of cores. What the user says by OMP_NUM_THREADS
    stays, and so do the threads of larger models.
    """
    before = compute_threads()
    tiny = bool(models) and all(model.backend == "tiny" for model in models)
    if tiny and not os.environ.get("OMP_NUM_THREADS"):
        use_threads(1)
    try:
        yield
    finally:
        use_threads(before)


def use_threads(count: int) -> None:
    """Let models compute with `count` threads, in this process."""
    import torch

    torch.set_num_threads(count)
