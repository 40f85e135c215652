"""What `groundling tagger knowledge` can be told, in the manner of `groundling.config_gmner`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from groundling.config import Count, Fraction
from groundling.config_gmner import ExampleChoice, SimulatorConfig

__all__ = ["KnowledgeConfig"]


class KnowledgeConfig(ExampleChoice):
    """Words about posts from a multimodal LLM that sees similar annotated posts (PGIM)."""

    scheme: Literal["twitter", "ccks"] = "twitter"
    """The entity types."""
    endpoint: dict[str, Any] = Field(default_factory=dict)
    """The LLM: keys of an endpoint, as `groundling experts --help` lists them."""
    simulator: SimulatorConfig | None = None
    """Instead of an endpoint: a simulated annotator in a process of its own."""
    examples: Annotated[int, Field(ge=0)] = 5
    """N, annotated posts shown with a post; 0 shows none."""
    picture: bool = True
    """Whether the post's picture is shown, where there is one."""
    example_pictures: bool = False
    """Whether the pictures of the examples are shown too: N more a question."""
    words: Count = 80
    """Most words of reasoning that are asked for; a tagger reads what its `max_length` leaves."""
    tries: Count = 2
    """Answers asked for, until one can be read."""
    max_tokens: Count = 512
    """Longest answer, in tokens."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Changes the random examples, and which answers of a simulated annotator are wrong."""
    tolerate: Fraction = 0.0
    """Share of a split's questions that may fail at the endpoint; beyond it nothing is written."""

    @model_validator(mode="after")
    def _has_one_assistant(self) -> KnowledgeConfig:
        if bool(self.endpoint) == (self.simulator is not None):
            raise ValueError("wanted either endpoint or simulator")
        return self

    @model_validator(mode="after")
    def _compares_something(self) -> KnowledgeConfig:
        if not self.text_weight and not self.image_weight:
            raise ValueError("text_weight and image_weight: both 0; one must count")
        return self
