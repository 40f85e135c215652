"""What can be said of an endpoint."""

from __future__ import annotations

import ipaddress
import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from groundling.config_gmner import FREE_KEYS
from groundling.models.box_text import BoxForm
from groundling.models.coordinates import ConventionName
from groundling.settings import Section

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

Server = Literal["openai", "vllm", "transformers"]


OWN_FIELDS = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "n", "best_of", "use_beam_search"),
        *("seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "echo"),
        *("max_tokens", "max_completion_tokens", "generation_config", "modalities"),
        *("logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "functions", "function_call"),
    }
)
"""Fields of a request that decide what is asked, or how its reply is read."""


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint and how to use it."""

    endpoint: str
    """Base URL, http or https, up to its version: https://api.openai.com/v1."""
    model: str
    """Name of the model, as the server knows it."""
    server: Server = "openai"
    """Whose extra request fields the server takes; `openai` sends none."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null, or one that is unset, sends no key."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Calls under way at once."""
    connect_timeout_s: Positive = 10.0
    """Longest wait for a connection, in seconds."""
    read_timeout_s: Positive = 120.0
    """Longest silence within a call, in seconds."""
    total_timeout_s: Positive = 300.0
    """Longest call, in seconds, however busily the server drips."""
    attempts: Count = 6
    """Tries a call, the first one included; only what can pass is tried again."""
    backoff_s: Positive = 1.0
    """Longest wait before the second try, in seconds; doubles with each further one."""
    longest_backoff_s: Positive = 60.0
    """Cap on that doubling, in seconds."""
    longest_wait_s: Positive = 120.0
    """Longest Retry-After that is waited out, in seconds; beyond it the call fails."""
    give_up_after: Count = 25
    """Calls that may fail in a row before the whole run stops."""
    max_tokens: Count = 128
    """Longest answer, in tokens, where the caller does not say."""
    temperature: NonNegative | None = 0.0
    """Sampling temperature of experts and direct grounding; 0 is greedy (not in the paper). null
    sends none, nor for gpt-5 and o-series models, unless it is set: they draw at their own."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """Share of the probability to draw from; null sends none, nor for models known to refuse it."""
    leave_out: list[Literal["seed", "n"]] = Field(default_factory=list)
    """Other parameters that the server refuses; without `n`, K samples are K requests."""
    limit_key: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Name of the limit of an answer; null takes the server's usual one."""
    json_schema: bool | None = None
    """Whether direct grounding and refinement send the form of their answers as a JSON schema
    (response_format); null does so where it is known to be taken: OpenAI's service, vLLM."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request, such as chat_template_kwargs: {enable_thinking: false}."""
    detail: Literal["auto", "low", "high"] | None = None
    """How closely images are looked at, where the server knows `detail`; null does not say."""
    max_pixels: Annotated[int, Field(ge=784)] | None = 1_003_520
    """Pictures larger than this area, in pixels, are shrunk; null never shrinks."""
    multiple: Count = 1
    """Sides of sent pictures are whole multiples of this: 28 for Qwen2.5-VL, so that it sees them
    as sent."""
    picture_format: Literal["jpeg", "png"] = "jpeg"
    """How pictures are sent: JPEG of quality 95, or PNG without loss."""
    convention: ConventionName = "relative-1000"
    """Coordinates that a direct grounder answers in."""
    answer: BoxForm = "list"
    """Form of a direct grounder's box: `list` is `[x1, y1, x2, y2]` and the prompt asks for it; the
    others are what such a model writes of its own accord."""
    price_input: NonNegative | None = None
    """Price of a million prompt tokens, in US dollars."""
    price_output: NonNegative | None = None
    """Price of a million answer tokens, in US dollars."""
    budget: NonNegative | None = None
    """Most that may be spent in all, in US dollars: by all stages of a run together, and by runs
    before this one."""
    picture_tokens: Count | None = None
    """Most prompt tokens of one picture, for the budget; null takes a token per 14 × 14 pixels."""

    def deciding(self) -> dict[str, Any]:
        """All that decides what an answer says: where one of these differs, answers differ.

        A new key counts as one of these until `FREE_KEYS` names it.
        """
        return self.model_dump(mode="json", exclude=set(FREE_KEYS))

    @field_validator("endpoint")
    @classmethod
    def _is_a_base_url(cls, url: str) -> str:
        return checked_url(url)

    @field_validator("extra_body")
    @classmethod
    def _adds_only(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OWN_FIELDS & extra.keys())
        if taken:
            raise ValueError(f"cannot set {', '.join(taken)}; the other settings do")
        try:
            json.dumps(extra, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as fault:
            raise ValueError(f"not JSON ({fault}); wanted names and JSON values") from fault
        return extra

    @model_validator(mode="after")
    def _budget_has_prices(self) -> EndpointConfig:
        if (self.price_input is None) != (self.price_output is None):
            raise ValueError("price_input and price_output: wanted both or neither")
        if self.budget is not None and self.price_input is None:
            raise ValueError("budget: needs price_input and price_output, dollars a million tokens")
        return self


def checked_url(url: str) -> str:
    """The URL without a final slash. Raises ValueError for what cannot be an endpoint's base."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as fault:
        raise ValueError(f"not a URL ({fault}); wanted http://HOST:PORT/v1") from fault
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password; keys come from the environment only")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"got {url!r}; wanted http://… or https://…, such as http://HOST:PORT/v1")
    if parts.query or parts.fragment:
        raise ValueError("holds a query or fragment; wanted the base URL alone")
    return url.strip().rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
