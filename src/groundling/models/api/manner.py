"""How a server wants to be asked: which parameters it takes, and what it says where it does not.

OpenAI's gpt-5 and o-series refuse `temperature` and `top_p`; Anthropic's compatible endpoint
refuses both together, and `n`; JSON schemas are known to OpenAI's own service and to vLLM. A
setting that the user gives comes before what is thought of a model here.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from groundling.models.api.settings import EndpointConfig, Server

_REASONING = re.compile(r"(gpt-5|o1|o3|o4)(?![a-z0-9])")
_SCHEMATIC = re.compile(r"(gpt-4o|gpt-4\.1|gpt-5|o1|o3|o4)(?![a-z0-9])")

_HINTS = {
    "temperature": "set temperature to null to leave it out",
    "top_p": "set top_p to null to leave it out",
    "seed": "add seed to leave_out",
    "n": "add n to leave_out",
    "max_completion_tokens": "set limit_key to max_tokens",
    "max_tokens": "set limit_key to max_completion_tokens",
    "response_format": "set json_schema to false",
    "detail": "set detail to null",
    **dict.fromkeys(
        ("top_k", "min_p", "repetition_penalty", "logprobs", "generation_config"),
        "set server to the kind that it is",
    ),
}
"""What helps against a refused parameter."""

_REFUSALS = ("unsupported_value", "unsupported_parameter", "unknown_parameter")
"""OpenAI's codes of errors that every call would meet."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What requests hold besides the question. `top_p` None and `temperature` False leave out."""

    server: Server
    limit_key: str
    temperature: bool = True
    top_p: float | None = 1.0
    seed: bool = True
    n: bool = True
    json_schema: bool = False
    extra_body: str = "{}"
    """Further fields, as JSON."""

    def digest(self) -> str:
        """All that may change an answer, as one string."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def extra(self) -> dict[str, Any]:
        """Further fields of every request."""
        found: dict[str, Any] = json.loads(self.extra_body)
        return found

    def hint(self, data: bytes, sent: dict[str, Any]) -> tuple[str, bool]:
        """What to set, given the body of a 400 to a request; and whether every call meets it."""
        error = _error(data)
        words = str(error.get("message") or data[: 2**16].decode("utf-8", "replace"))
        named = error.get("param")
        names = [*_HINTS, *self.extra]
        found = next((name for name in names if name == named and name in sent), None)
        if found is not None:
            return self._help(found), error.get("code") in _REFUSALS
        for name in names:
            quoted = rf"['\"`]{name}['\"`]" if len(name) < 3 else rf"\b{re.escape(name)}\b"
            if (name in sent or name == "detail") and re.search(quoted, words):
                return self._help(name), False
        return "", False

    def _help(self, name: str) -> str:
        return "mend extra_body" if name in self.extra else _HINTS[name]


def manner_of(config: EndpointConfig) -> Manner:
    """How to ask an endpoint: what is known of its server and model, then what the user says."""
    name = config.model.rpartition("/")[2].lower()
    host = urlsplit(config.endpoint).hostname or ""
    openai = config.server == "openai"
    manner = Manner(config.server, "max_completion_tokens" if openai else "max_tokens")
    if config.server == "vllm":
        manner = replace(manner, json_schema=True)
    if config.server == "transformers":
        manner = replace(manner, n=False)
    if openai and _REASONING.match(name):
        manner = replace(manner, temperature=False, top_p=None)
    if host == "api.openai.com" and _SCHEMATIC.match(name):
        manner = replace(manner, json_schema=True)
    if host == "api.anthropic.com":
        manner = replace(manner, top_p=None, n=False)
    return _as_told(manner, config)


def _as_told(manner: Manner, config: EndpointConfig) -> Manner:
    """With what the user set."""
    given = config.model_fields_set
    if "temperature" in given:
        manner = replace(manner, temperature=config.temperature is not None)
    if "top_p" in given:
        manner = replace(manner, top_p=config.top_p)
    if config.limit_key is not None:
        manner = replace(manner, limit_key=config.limit_key)
    if config.json_schema is not None:
        manner = replace(manner, json_schema=config.json_schema)
    return replace(
        manner,
        seed=manner.seed and "seed" not in config.leave_out,
        n=manner.n and "n" not in config.leave_out,
        extra_body=json.dumps(config.extra_body, sort_keys=True),
    )


def _error(data: bytes) -> dict[str, Any]:
    """The error object of a reply; empty where there is none."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    found = raw.get("error", raw) if isinstance(raw, dict) else {}
    return found if isinstance(found, dict) else {}
