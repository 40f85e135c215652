"""Opens the grounding that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundling.assistants import Assistants
from groundling.baselines import TUNED
from groundling.config import DirectConfig
from groundling.config_gmner import GroundingConfig, InContextConfig
from groundling.examples import open_search
from groundling.ground import EntityGrounder
from groundling.groundings import (
    Agreement,
    DirectGrounding,
    Grounding,
    IsrGrounding,
    NoGrounding,
)
from groundling.in_context import InContextGrounding, make_pool
from groundling.models.endpoints import endpoint_config
from groundling.models.registry import open_direct, open_embedders, open_question
from groundling.records import Post
from groundling.rundir import stored_config


@dataclass(frozen=True, slots=True)
class Ways:
    """What groundings are made of: settings, who is asked, and labelled posts for examples.

    `common` are the endpoint's keys, to which a stage adds its own.
    """

    settings: GroundingConfig
    in_context: InContextConfig
    common: Mapping[str, Any]
    assistants: Assistants
    labelled: Sequence[Post]

    def open(self) -> Grounding:
        """The grounding that the settings name. Raises what opening its models raises."""
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
        endpoint = self.assistants.endpoint("direct", self.in_context.endpoint)
        return DirectGrounding(endpoint.direct_grounder(), endpoint.client.model)

    def _open_in_context(self) -> InContextGrounding:
        settings = self.in_context
        keys = {"endpoint": "http://unnamed", "model": "", **self.common, **settings.endpoint}
        return InContextGrounding(
            self.assistants.open("grounding", settings.endpoint),
            open_question(endpoint_config(keys).convention, settings.max_tokens),
            make_pool(self.labelled),
            open_embedders(settings),
            settings,
            open_search(settings),
        )


def open_isr(run: str | None) -> IsrGrounding:
    """The writer and grounder of an ISR run; None takes those of the package."""
    models = EntityGrounder.load(None if run is None else Path(run))
    return IsrGrounding(models.writer, models.grounder, models.source, models.max_new_tokens)


def open_direct_run(run: Path) -> DirectGrounding:
    """The model of a run of `groundling baseline direct`."""
    config = stored_config(run, DirectConfig)
    model = open_direct(config.model, config.lora, config.seed, run / TUNED)
    return DirectGrounding(model, str(run.resolve()))
