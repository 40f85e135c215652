"""Opens the multimodal LLM that the stages of a run ask: an endpoint, or a simulated annotator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from groundling.config_gmner import SimulatorConfig
from groundling.errors import ConfigError, RunError
from groundling.models.base import Assistant
from groundling.models.endpoints import Endpoint, endpoint_config, open_account

if TYPE_CHECKING:
    from groundling.models.api.ledger import Ledger
    from groundling.models.api.settings import EndpointConfig


class Assistants:
    """One assistant for each stage that asks, all closed together.

    `common` are keys of an endpoint's configuration, or `simulator` says how good a simulated
    annotator is to be; it is then started as a process of its own when it is first needed. One
    account of tokens and money lies in `folder`, and one budget holds for all stages together.
    """

    def __init__(
        self,
        common: Mapping[str, Any],
        simulator: SimulatorConfig | None,
        folder: Path,
        seed: int = 0,
    ) -> None:
        self._common, self._simulator, self._folder, self._seed = common, simulator, folder, seed
        self._process: subprocess.Popen[str] | None = None
        self._url = ""
        self._opened: list[Endpoint] = []
        self._account: Ledger | None = None

    def open(self, stage: str, own: Mapping[str, Any]) -> Assistant:
        """The assistant of a stage; see `endpoint`."""
        return self.endpoint(stage, own).assistant()

    def check(self, stage: str, own: Mapping[str, Any]) -> None:
        """Raise ConfigError where `endpoint` would, before anything is done."""
        if self._simulator is None:
            self._config(stage, {**self._common, **own})
        else:
            self._config(stage, {"endpoint": "http://simulator", "model": "simulated", **own})

    def endpoint(self, stage: str, own: Mapping[str, Any], *, cached: bool = False) -> Endpoint:
        """The endpoint of a stage, whose `own` keys come before the common ones.

        `cached` keeps its answers in `folder`, for those who have no journal. Raises ConfigError
        for keys that are none, InputError for an endpoint that cannot be used.
        """
        found = self._simulated() if self._simulator is not None else self._common
        config = self._config(stage, {**found, **own})
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._account is None:
            self._account = open_account(self._folder / "ledger.jsonl")
        endpoint = Endpoint(
            config,
            cache=self._folder / f"{stage}.cache" if cached else None,
            ledger=self._account,
        )
        self._opened.append(endpoint)
        return endpoint

    @staticmethod
    def _config(stage: str, keys: Mapping[str, Any]) -> EndpointConfig:
        try:
            return endpoint_config(keys)
        except ConfigError as fault:
            raise ConfigError(f"endpoint of {stage}", fault.problems) from fault

    def _simulated(self) -> dict[str, Any]:
        """The simulated annotator's endpoint; started if need be."""
        assert self._simulator is not None
        skill, fail = self._simulator.skill, self._simulator.fail
        if self._process is None:
            module = "groundling.toyworld.simulator"
            words = ["--skill", str(skill), "--fail", str(fail), "--seed", str(self._seed)]
            command = [sys.executable, "-m", module, "--attached", *words]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self._url = self._url or self._process.stdout.readline().strip()
        if not self._url:
            raise RunError("the simulated annotator did not start; run again")
        name = f"simulated-{skill:g}-{self._seed}"
        return {"endpoint": self._url, "model": name, "api_key_env": None, "backoff_s": 0.01}

    def close(self) -> None:
        """Close connections, and end the simulated annotator."""
        for endpoint in self._opened:
            endpoint.close()
        if self._account is not None:
            self._account.close()
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()

    def __enter__(self) -> Assistants:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
