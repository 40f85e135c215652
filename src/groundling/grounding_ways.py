"""Opens the grounding that a configuration names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundling.assistants import Assistants
from groundling.atomic import digest_file
from groundling.baselines import TUNED
from groundling.config import DirectConfig
from groundling.config_gmner import GroundingConfig, InContextConfig
from groundling.errors import InputError
from groundling.examples import open_search
from groundling.ground import EntityGrounder
from groundling.groundings import (
    Agreement,
    DirectGrounding,
    Exempting,
    Grounding,
    IsrGrounding,
    NoGrounding,
)
from groundling.in_context import InContextGrounding, make_pool
from groundling.models.registry import open_direct, open_embedders, packaged
from groundling.records import Post, Scheme
from groundling.rundir import stored_config
from groundling.stage import FOLDER


@dataclass(frozen=True, slots=True)
class Ways:
    """What groundings are made of: settings, who is asked, and labelled posts for examples."""

    settings: GroundingConfig
    in_context: InContextConfig
    scheme: Scheme
    assistants: Assistants
    labelled: Sequence[Post]

    def open(self) -> Grounding:
        """The grounding that the settings name. Raises what opening its models raises."""
        problem = self.settings.strange_types(self.scheme)
        if problem is not None:
            raise InputError(problem)
        way = self._open()
        return Exempting(way, self.settings.never) if self.settings.never else way

    def _open(self) -> Grounding:
        run = self.settings.run
        if self.settings.way == "none":
            return NoGrounding()
        if self.settings.way == "isr":
            return open_isr(run)
        if self.settings.way == "direct":
            return self._open_direct() if run is None else open_direct_run(Path(run))
        shown = self._open_in_context()
        if self.settings.way == "icl":
            return shown
        return Agreement(open_isr(run), shown, prefer_second=self.settings.prefer == "icl")

    def _open_direct(self) -> DirectGrounding:
        endpoint = self.assistants.endpoint("direct", self.in_context.endpoint, cached=True)
        name = json.dumps(endpoint.client.config.deciding(), sort_keys=True)
        return DirectGrounding(endpoint.direct_grounder(), name)

    def _open_in_context(self) -> InContextGrounding:
        settings = self.in_context
        endpoint = self.assistants.endpoint("grounding", settings.endpoint)
        return InContextGrounding(
            endpoint.assistant(),
            endpoint.client.config.convention,
            make_pool(self.labelled),
            open_embedders(settings),
            settings,
            open_search(settings),
        )


def open_isr(run: str | None) -> IsrGrounding:
    """The writer and grounder of an ISR run; None takes those of the package."""
    models = EntityGrounder.load(None if run is None else Path(run))
    name = packaged_fingerprint() if run is None else fingerprint(Path(run))
    return IsrGrounding(models.sampler, models.grounder, models.source, models.max_new_tokens, name)


def open_direct_run(run: Path) -> DirectGrounding:
    """The model of a run of `groundling baseline direct`."""
    config = stored_config(run, DirectConfig)
    model = open_direct(config.model, config.lora, config.seed, run / TUNED)
    return DirectGrounding(model, fingerprint(run))


def packaged_fingerprint() -> str:
    """What tells the package's weights from those of another version: a digest of all of them."""
    folders = [packaged(name) for name in ("writer", "grounder", "tuned")]
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(" ".join(map(digest_file, files)).encode()).hexdigest()[:16]


def fingerprint(run: Path) -> str:
    """What tells a run's weights from another's: a digest of the digests that its stages name."""
    markers = sorted((run / FOLDER).glob("*.json"))
    told = b"".join(path.name.encode() + path.read_bytes() for path in markers)
    return hashlib.sha256(told).hexdigest()[:16]
