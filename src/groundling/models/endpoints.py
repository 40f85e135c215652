"""The name table of endpoints: how a configuration becomes a writer, an expert or a grounder.

The same part as `groundling.models.registry` plays for models in this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from groundling.errors import ConfigError, InputError
from groundling.models.api.settings import EndpointConfig
from groundling.models.base import Sampling
from groundling.records import Expression, Failure, Query
from groundling.settings import describe, load_config

if TYPE_CHECKING:
    from groundling.models.api.assistant import ApiAssistant
    from groundling.models.api.expert import ApiExpert
    from groundling.models.api.grounder import ApiDirectGrounder
    from groundling.models.api.ledger import Ledger, Prices
    from groundling.models.api.writer import ApiWriter


@dataclass(frozen=True, slots=True)
class Bill:
    """What an endpoint was used for: this process alone, and (`total_usd`) all runs on record.

    Dollars are None where no prices are known.
    """

    calls: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    unsure_usd: float | None
    total_usd: float | None

    def as_json(self) -> dict[str, object]:
        """The part of a command's summary that tells what it cost."""
        return {
            "calls": self.calls,
            "cache_hits": self.cache_hits,
            "tokens": {"input": self.input_tokens, "output": self.output_tokens},
            "usd": {"spent": self.usd, "unsure": self.unsure_usd, "total": self.total_usd},
        }


class Endpoint:
    """An endpoint that is open for use; its roles share connections, cache, ledger and pictures.

    `cache` is a folder for answers, `ledger` a file for the account, or an account that others
    share (`open_account`); either may be left out. Raises InputError where the ledger is in use or
    unreadable, or where the key cannot be sent safely.
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        cache: Path | None = None,
        ledger: Path | Ledger | None = None,
    ) -> None:
        from groundling.models.api.cache import AnswerCache
        from groundling.models.api.client import ApiClient
        from groundling.models.api.ledger import Ledger
        from groundling.models.api.pictures import PictureEncoder

        shared = ledger if isinstance(ledger, Ledger) else None
        own = None if isinstance(ledger, Ledger) else ledger
        terms = _prices(config), _usd(config.budget)
        account = Ledger(own, *terms) if shared is None else shared.beside(*terms)
        try:
            kept = None if cache is None else AnswerCache(cache)
            self.client = ApiClient(config, cache=kept, ledger=account)
        except BaseException:
            account.close()
            raise
        self._priced = config.price_input is not None
        self._pictures = PictureEncoder(
            config.max_pixels, config.multiple, config.picture_format, config.picture_tokens
        )

    def writer(self) -> ApiWriter:
        """A sampler of expressions (prompt A.2)."""
        from groundling.models.api.writer import ApiWriter

        return ApiWriter(self.client, self._pictures)

    def expert(self) -> ApiExpert:
        """An expert (prompt A.1)."""
        from groundling.models.api.expert import ApiExpert

        return ApiExpert(self.client, self._pictures)

    def direct_grounder(self) -> ApiDirectGrounder:
        """A direct grounder (prompt A.3)."""
        from groundling.models.api.grounder import ApiDirectGrounder

        return ApiDirectGrounder(self.client, self._pictures)

    def assistant(self) -> ApiAssistant:
        """Whatever else one may ask."""
        from groundling.models.api.assistant import ApiAssistant

        return ApiAssistant(self.client, self._pictures)

    def own_temperature(self) -> str:
        """What a person should know where the server takes no temperature; else empty."""
        return self.client.own_temperature

    def bill(self) -> Bill:
        """What was used up to now."""
        now, total = self.client.ledger.now, self.client.ledger.total
        usd = [now.usd, now.unsure_usd, total.usd]
        return Bill(
            now.calls,
            self.client.cache_hits,
            now.input_tokens,
            now.output_tokens,
            *(float(amount) if self._priced else None for amount in usd),
        )

    def close(self) -> None:
        """Close connections and the ledger."""
        self.client.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EndpointSampler:
    """A vLLM server that draws from one LoRA adapter after the other (`models.base.Sampler`).

    `settings` are keys of `EndpointConfig` but for those that the run itself sets, or that drawing
    does not act on. Pictures go there without loss and unshrunk, so that
    the server sees what the writer sees; how large they may become is the server's to say
    (`--mm-processor-kwargs`). Raises ConfigError for settings that are none of these.
    """

    _IDLE: ClassVar[Mapping[str, str]] = {
        "endpoint": "it is sampler.url",
        "server": "it is vllm",
        "model": "it is the adapter of each round",
        "temperature": "it is the recipe's temperature",
        "max_tokens": "it is the recipe's max_new_tokens",
        "convention": "nobody answers with boxes here",
        "answer": "nobody answers with boxes here",
    }

    _LIKE_THE_WRITER: ClassVar[Mapping[str, object]] = {
        "api_key_env": None,
        "picture_format": "png",
        "max_pixels": None,
    }

    def __init__(self, url: str, settings: Mapping[str, object]) -> None:
        idle = [f"{key}: cannot be set; {self._IDLE[key]}" for key in settings if key in self._IDLE]
        if idle:
            raise ConfigError("sampler.settings", idle)
        fixed = {"endpoint": url, "server": "vllm", "model": "adapter"}
        self._config = endpoint_config({**self._LIKE_THE_WRITER, **settings, **fixed})
        self._endpoint: Endpoint | None = None

    def follow(self, adapter: Path, scratch: Path) -> None:
        """Have the server load an adapter; answers are kept in `scratch`. Raises InputError."""
        self.close()
        self._endpoint = Endpoint(self._config, cache=scratch / "answers")
        self._endpoint.client.load_adapter(adapter)

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """K expressions a query from the adapter that is followed; see `ApiWriter.sample`."""
        if self._endpoint is None:
            raise InputError("no adapter to draw from; call follow first")
        return self._endpoint.writer().sample(queries, k, sampling, seed, source)

    def close(self) -> None:
        """Close connections."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None


def open_account(path: Path) -> Ledger:
    """The account that several endpoints keep in one file: what one spends, all have spent.

    Close it after them. Raises InputError where the file is in use or unreadable.
    """
    from groundling.models.api.ledger import Ledger

    return Ledger(path)


def endpoint_config(overrides: Mapping[str, object], path: Path | None = None) -> EndpointConfig:
    """The configuration of an endpoint, from a YAML file and overrides; raises ConfigError."""
    return load_config(EndpointConfig, path, overrides)


def endpoint_keys() -> str:
    """Every key of an endpoint's configuration, for `--help`."""
    return describe(EndpointConfig)


def _prices(config: EndpointConfig) -> Prices:
    from groundling.models.api.ledger import FREE, Prices

    if config.price_input is None or config.price_output is None:
        return FREE
    return Prices(Decimal(str(config.price_input)), Decimal(str(config.price_output)))


def _usd(amount: float | None) -> Decimal | None:
    return None if amount is None else Decimal(str(amount))
