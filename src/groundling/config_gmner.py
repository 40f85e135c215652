"""What the commands of grounded multimodal NER can be told, in the manner of `groundling.config`.

An endpoint is a mapping of the keys that `groundling experts --help` lists; it is checked when it
is opened.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from groundling.config import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    ToyworldData,
)
from groundling.config_tagger import (
    TaggerConfig,
    TaggerOptimiser,
    TaggingConfig,
    TextData,
    UncertaintyConfig,
    VisionConfig,
)
from groundling.records import SCHEMES, BoxFrame, Scheme
from groundling.settings import FREE, FreeKeys, Section

__all__ = [
    "ExampleChoice",
    "GmnerConfig",
    "GroundingConfig",
    "InContextConfig",
    "LabelledData",
    "PostsData",
    "RefinegConfig",
    "RefinementConfig",
    "SimulatorConfig",
    "SynthesisConfig",
    "TaggerConfig",
    "TaggerOptimiser",
    "TaggingConfig",
    "TextData",
    "UncertaintyConfig",
    "VisionConfig",
]

_FREE_KEYS = """
endpoint api_key_env concurrency connect_timeout_s read_timeout_s total_timeout_s attempts backoff_s
longest_backoff_s longest_wait_s give_up_after price_input price_output budget picture_tokens
"""
FREE_KEYS = frozenset(_FREE_KEYS.split())
EndpointKeys = Annotated[dict[str, Any], FreeKeys(FREE_KEYS)]
"""Keys of an endpoint. Where it is, how long it is waited for and what it may cost change no
result: a run that was stopped by any of these goes on with others."""


class SynthesisConfig(Section):
    """Labelled sentences from an LLM (ReFineG, training stage; its numbers where known)."""

    endpoint: EndpointKeys = Field(default_factory=dict)
    """What differs here from the run's endpoint, such as another `model`."""
    sentences: Count = 10
    """Sentences a question; a seed post with entities has two questions, else one (ReFineG: 10)."""
    low: Count = 10
    """Fewest words that are asked for (ReFineG: 10); half of it is let through."""
    high: Count = 30
    """Most words that are asked for (ReFineG: 30); a third more is let through."""
    profile_posts: Count = 20
    """Seed posts from which the domain's profile is written."""
    alike: Fraction = 0.7
    """Largest Jaccard similarity of word trigrams to a seed or another sentence."""
    per_name: Count = 40
    """Most sentences that hold the same new name."""
    check_style: bool = True
    """Whether sentences that are annotated otherwise than the seeds are left out."""
    ratio: Positive = 20.0
    """Most synthetic sentences for each seed post in the training set (ReFineG: about 20)."""
    max_tokens: Count = 2048
    """Longest answer, in tokens."""
    tries: Count = 2
    """Answers asked for, until one can be read."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Changes the posts of the profile and what the ratio draws."""


class RefinementConfig(Section):
    """Uncertain mentions go to a multimodal LLM (ReFineG, refinement stage)."""

    endpoint: EndpointKeys = Field(default_factory=dict)
    """What differs here from the run's endpoint, such as another `model`."""
    budget: Fraction = 0.3
    """Most calls on a split, as a share of the mentions that the tagger finds there."""
    threshold: Fraction | None = None
    """Uncertainty above which a mention is asked about; null: the best on validation."""
    reach: Annotated[int, Field(ge=0, le=8)] = 2
    """Words by which a correction may move either end (ReFineG: one or two)."""
    picture: bool = True
    """Whether the post's picture is shown, where there is one."""
    whole_curve: bool = False
    """Whether every mention of `dev` is asked about, to draw F1 against all shares of calls."""
    tries: Count = 2
    """Answers asked for, until one can be read."""
    max_tokens: Count = 512
    """Longest answer, in tokens: the thoughts are part of it."""


class ExampleChoice(Section):
    """Which labelled examples are shown with a question (ReFineG's weights)."""

    examples: Annotated[int, Field(ge=0)] = 3
    """K, examples shown with a question; 0 is zero-shot."""
    choose: Literal["similarity", "random"] = "similarity"
    """Which examples: the nearest ones, or (a control) any."""
    text_weight: NonNegative = 0.4
    """Weight of the posts' texts."""
    image_weight: NonNegative = 0.2
    """Weight of the pictures."""
    text_encoder: str = "characters"
    """For texts: `characters` (no weights), `minilm` (its extra), or a folder or hub name."""
    image_encoder: str = "thumbnails"
    """For pictures: `thumbnails` (no weights), or the folder or hub name of a CLIP-like model."""
    index: Literal["exact", "faiss"] = "exact"
    """How the nearest are found: by a matrix product, or by an HNSW graph (the extra `ann`)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Changes the random examples."""


class InContextConfig(ExampleChoice):
    """Grounding by solved examples (ReFineG, grounding stage)."""

    endpoint: EndpointKeys = Field(default_factory=dict)
    """What differs here from the run's endpoint, such as its `convention`."""
    entity_weight: NonNegative = 0.6
    """Weight of the entities' names."""
    tries: Count = 2
    """Answers asked for, until one can be read."""
    max_tokens: Count = 512
    """Longest answer, in tokens."""

    @model_validator(mode="after")
    def _compares_something(self) -> InContextConfig:
        if not (self.text_weight or self.image_weight or self.entity_weight):
            raise ValueError("text_weight, image_weight, entity_weight: wanted one above 0")
        return self


class PostsData(Section):
    """Labelled posts with pictures, in splits."""

    source: str
    """Folder of a Twitter-GMNER release, of SPLIT.jsonl, or of the CCKS task's files."""
    images: str | None = None
    """Folder of the pictures; null takes what the posts name, or the task's `SPLIT_image`."""
    boxes: BoxFrame = "upright"
    """What boxes are drawn on: images as shown, or their `stored` pixels before EXIF turns them."""


class LabelledData(Section):
    """Posts with pictures and gold boxes, of which few are labelled for training."""

    toyworld: ToyworldData | None = None
    """The embedded world."""
    gmner: PostsData | None = None
    """A data set with splits `train`, `dev` and `test`."""
    labelled: Count | None = None
    """Posts of `train` that are used, drawn with the seed; null takes all (ReFineG: 500)."""

    @model_validator(mode="after")
    def _exactly_one(self) -> LabelledData:
        if (self.toyworld is None) == (self.gmner is None):
            raise ValueError("wanted exactly one of toyworld and gmner")
        return self


class SimulatorConfig(Section):
    """The simulated annotator of the embedded world, in place of a multimodal LLM."""

    skill: Fraction = 0.9
    """Share of its answers that are right."""
    fail: Annotated[Fraction, FREE] = 0.0
    """Share of first tries that it refuses, to see that nothing is lost."""


class GroundingConfig(Section):
    """How mentions are grounded."""

    way: Literal["none", "isr", "icl", "direct", "agreement"] = "icl"
    """`icl`: by solved examples; `agreement`: ISR and solved examples together."""
    run: str | None = None
    """isr, agreement: an ISR run, null for the package's models; direct: a run, null: endpoint."""
    prefer: Literal["isr", "icl"] = "isr"
    """agreement: whose answer counts where they differ."""
    never: list[str] = Field(default_factory=list)
    """Types that are never in a picture: nobody is asked about them (ReFineG: `location`)."""

    @model_validator(mode="after")
    def _takes_a_run(self) -> GroundingConfig:
        if self.run is not None and self.way in ("none", "icl"):
            raise ValueError(f"run: way {self.way} takes no run; leave it out")
        return self

    def strange_types(self, scheme: Scheme) -> str | None:
        """What is wrong with `never` under a scheme, in words; None where nothing is."""
        strange = [kind for kind in self.never if kind not in scheme.types]
        if not strange:
            return None
        known = ", ".join(scheme.types)
        return f"grounding.never: unknown type {strange[0]!r}; wanted some of {known}"

    @property
    def asks(self) -> bool:
        """Whether it asks an endpoint."""
        return self.way in ("icl", "agreement") or (self.way == "direct" and self.run is None)


class RefinegConfig(Section):
    """ReFineG: synthesis, a small tagger, refinement of what is uncertain, grounding."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Changes which posts are labelled, the tagger's beginning and all draws."""
    scheme: Literal["twitter", "ccks"] = "twitter"
    """The entity types."""
    data: LabelledData
    """Posts."""
    endpoint: EndpointKeys = Field(default_factory=dict)
    """The multimodal LLM: keys of an endpoint, as `groundling experts --help` lists them."""
    simulator: SimulatorConfig | None = None
    """Instead of an endpoint: a simulated annotator in a process of its own."""
    synthesis: SynthesisConfig | None = SynthesisConfig()
    """Labelled sentences from the LLM; null trains on the labelled posts alone."""
    tagger: TaggerConfig = TaggerConfig()
    """The small supervised model."""
    tuning: TaggerOptimiser = TaggerOptimiser()
    """Its training."""
    patience: Count | None = 3
    """Epochs without a better F1 on `dev` that end the training; the best epoch counts."""
    refinement: RefinementConfig | None = RefinementConfig()
    """What happens to uncertain mentions; null leaves all as they are."""
    grounding: GroundingConfig = GroundingConfig()
    """How mentions are grounded."""
    in_context: InContextConfig = InContextConfig()
    """Grounding by solved examples."""
    tolerate: Annotated[Fraction, FREE] = 0.0
    """Share of a stage's questions that may fail at the endpoint; beyond it the run stops."""
    checkpoint_every_s: Annotated[Positive, FREE] = 120.0
    """Seconds between checkpoints within the fit: what a kill can cost. It changes no result."""

    @model_validator(mode="after")
    def _has_one_assistant(self) -> RefinegConfig:
        if self.asks and bool(self.endpoint) == (self.simulator is not None):
            raise ValueError("wanted either endpoint or simulator")
        return self

    @model_validator(mode="after")
    def _is_possible(self) -> RefinegConfig:
        if self.tagger.knowledge:
            raise ValueError("tagger.knowledge: posts of this flow come without; wanted false")
        if self.tagger.backend == "spacy":
            raise ValueError("tagger.backend: spacy is not trained here; choose another")
        problem = self.grounding.strange_types(SCHEMES[self.scheme])
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def asks(self) -> bool:
        """Whether any stage asks a multimodal LLM."""
        return bool(self.synthesis or self.refinement or self.grounding.asks)


class GmnerConfig(Section):
    """GMNER with a tagger that is there already; the entity types are the tagger's."""

    endpoint: EndpointKeys = Field(default_factory=dict)
    """The multimodal LLM: keys of an endpoint, as `groundling experts --help` lists them."""
    simulator: SimulatorConfig | None = None
    """Instead of an endpoint: a simulated annotator in a process of its own."""
    refinement: RefinementConfig | None = None
    """What happens to uncertain mentions; its `threshold` must be given. null: nothing."""
    grounding: GroundingConfig = GroundingConfig(way="isr")
    """How mentions are grounded."""
    in_context: InContextConfig = InContextConfig()
    """Grounding by solved examples."""
    pool: PostsData | None = None
    """Labelled posts with pictures that the examples are from: their `train`."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> GmnerConfig:
        if self.refinement is not None and self.refinement.threshold is None:
            raise ValueError("refinement.threshold: missing; `groundling refineg` chooses one")
        if self.grounding.way in ("icl", "agreement") and self.pool is None:
            raise ValueError(f"pool: missing; grounding {self.grounding.way} needs solved examples")
        if (self.grounding.asks or self.refinement) and not (self.endpoint or self.simulator):
            raise ValueError("endpoint: missing; refinement or grounding asks a multimodal LLM")
        if self.endpoint and self.simulator:
            raise ValueError("wanted either endpoint or simulator")
        return self
