"""What each command can be told, one frozen object per command; the defaults are the papers'.

The docstring under a field gives its unit and source and is its help. `groundling.settings` reads,
checks, describes and writes these objects; its functions are offered from here as well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from groundling.records import BoxFrame
from groundling.settings import (
    FREE,
    Section,
    describe,
    dump_yaml,
    load_config,
    read_overrides,
    refuse_idle,
)

__all__ = [
    "AblateConfig",
    "DataConfig",
    "DirectConfig",
    "DpoOptimiser",
    "ExpertsConfig",
    "GmnerData",
    "GrounderConfig",
    "GrounderOptimiser",
    "Hardware",
    "IsrConfig",
    "LoraConfig",
    "Optimiser",
    "SamplerConfig",
    "Section",
    "SftOptimiser",
    "ToyworldData",
    "WriterConfig",
    "describe",
    "dump_yaml",
    "load_config",
    "read_overrides",
]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Optimiser(Section):
    """AdamW with a learning-rate schedule, as `groundling.train.fit` runs it."""

    lr: Positive
    """Peak learning rate."""
    batch_size: Count
    """Examples a step."""
    epochs: Count
    """Passes over the examples."""
    micro_batch: Count | None = None
    """Examples that go through the model at once, their gradients summed; null: the whole batch."""
    warmup: Fraction = 0.0
    """Share of all steps over which the learning rate climbs linearly from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes after the warm-up: down to 0, or not at all."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay, a share of lr a step."""
    max_grad_norm: Positive = 1.0
    """Global L2 norm that the gradient is clipped to."""


class SftOptimiser(Optimiser):
    """Supervised fine-tuning of the writer (ISR §3.4.1)."""

    lr: Positive = 1e-4
    """Peak learning rate (ISR §4.1: 1e-4)."""
    batch_size: Count = 32
    """Examples a step (ISR §4.1: 32)."""
    epochs: Count = 3
    """Passes over D_SFT (not stated in the paper)."""
    warmup: Fraction = 0.03
    """Share of steps that warm up (ISR §4.1: 3 %)."""


class GrounderOptimiser(Optimiser):
    """Fine-tuning of the grounder on expert expressions (ISR §3.3)."""

    lr: Positive = 3e-5
    """Peak learning rate (ISR §4.1: 3e-5)."""
    batch_size: Count = 4
    """Examples a step (ISR §4.1: 4)."""
    epochs: Count = 3
    """Passes over the groundable training entities (not stated in the paper)."""
    warmup: Fraction = 0.06
    """Share of steps that warm up (not stated in the paper)."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate goes after the warm-up (not stated in the paper)."""


class DpoOptimiser(Optimiser):
    """One round of preference optimisation; a fresh AdamW each round (ISR §3.4.2)."""

    lr: Positive = 5e-6
    """Peak learning rate (ISR §4.1: 5e-6)."""
    batch_size: Count = 32
    """Pairs a step (ISR §4.1: 32)."""
    epochs: Count = 1
    """Passes over a round's pairs (not stated in the paper)."""
    warmup: Fraction = 0.1
    """Share of steps that warm up (ISR §4.1: 10 %)."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate goes after the warm-up (not stated in the paper)."""
    beta: Positive = 0.5
    """β of the DPO loss, per nat (ISR eq. 8, §4.1: 0.5)."""


class LoraConfig(Section):
    """The writer's low-rank adapter (ISR §4.1)."""

    rank: Count = 32
    """Rank of each update (ISR §4.1: 32)."""
    alpha: Positive = 64
    """α; updates are scaled by α / rank (ISR §4.1: 64)."""
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    """The language model's layers by ends of names, as [q_proj, v_proj]; null: all linear ones."""


class ToyworldData(Section):
    """The embedded world: pictures and posts drawn on the spot, with exact answers."""

    train_queries: Count = 11457
    """Training queries, D_SFT and D_PL together (the paper's Table 5)."""
    validation_queries: Count = 1500
    """Queries that rates and rounds are chosen on."""
    test_queries: Count = 1500
    """Queries that are read once, at the end."""
    vague: Fraction = 0.0
    """Share of names in posts whose clause fits names of any type: harder to tag."""


class GmnerData(Section):
    """A Twitter-GMNER release."""

    source: str
    """Folder that holds `txt/` and `xml/`."""
    images: str
    """Folder of the pictures, `ID.jpg`."""
    boxes: BoxFrame = "upright"
    """What boxes are drawn on: images as shown, or their `stored` pixels before EXIF turns them."""


class DataConfig(Section):
    """Where posts come from: exactly one of the keys."""

    toyworld: ToyworldData | None = None
    """The embedded world."""
    gmner: GmnerData | None = None
    """Twitter-GMNER files."""

    @model_validator(mode="after")
    def _exactly_one(self) -> DataConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            wanted = " or ".join(type(self).model_fields)
            raise ValueError(f"wanted exactly one of {wanted}, got {' and '.join(given) or 'none'}")
        return self


class Hardware(Section):
    """Where and how a model computes."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` is a GPU where there is one, but the CPU for `tiny`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights that are not trained, and of the computation."""
    batch_size: Count = 64
    """Prompts or requests that run together outside training; results differ by rounding only."""
    max_pixels: Count | None = None
    """Largest area of a picture after resizing, in pixels; null as the checkpoint says."""
    checkpointing: bool = False
    """Whether training computes activations twice instead of storing them."""
    load_in_4bit: bool = False
    """Whether the language model is held in 4 bits (NF4, bitsandbytes); adapters are not."""


def _named(path: str | None, known: ValidationInfo) -> str | None:
    """A model's path; only `tiny` can do without."""
    if path is None and known.data.get("backend", "tiny") != "tiny":
        raise ValueError("missing; wanted the folder or hub name of its weights")
    return path


class WriterConfig(Hardware):
    """The multimodal LLM that writes expressions (ISR §4.1: Qwen2-VL-7B)."""

    backend: Literal["tiny", "local"] = "tiny"
    """`tiny` is the embedded world's own; `local` any supported checkpoint."""
    path: Annotated[str | None, Field(validate_default=True)] = None
    """Folder or hub name of its weights; null takes those that `tiny` ships."""

    _path_is_named = field_validator("path")(_named)


class SamplerConfig(Section):
    """What draws the expressions of a round from π_{t−1} (ISR eq. 6; §4.1: vLLM)."""

    backend: Literal["writer", "vllm", "endpoint"] = "writer"
    """`writer` is the writer itself, `vllm` vLLM in this process, `endpoint` a vLLM server."""
    url: Annotated[str | None, FREE] = None
    """endpoint: base URL, such as http://HOST:PORT/v1; the server must see the run directory."""
    settings: Annotated[dict[str, Any], FREE] = Field(default_factory=dict)
    """endpoint: other keys of its configuration, which `groundling experts --help` lists."""
    tolerate: Annotated[Fraction, FREE] = 0.01
    """endpoint: share of a round's prompts that may fail there; beyond it the run stops."""
    memory: Fraction = 0.4
    """vllm: share of the GPU's memory that it may take while it draws."""

    @model_validator(mode="after")
    def _names_its_server(self) -> SamplerConfig:
        if (self.url is None) == (self.backend == "endpoint"):
            raise ValueError(f"backend {self.backend}, url {self.url}: wanted both or neither")
        acting = {"writer": (), "vllm": ("memory",), "endpoint": ("url", "settings", "tolerate")}
        refuse_idle(self, self.backend, acting[self.backend])
        return self


class GrounderConfig(Hardware):
    """The visual grounding model (ISR §4.1: OFA-Large)."""

    backend: Literal["tiny", "ofa", "vlm", "dino", "florence2"] = "tiny"
    """Name of the backend; `vlm` is a multimodal LLM that writes boxes, `dino` Grounding DINO."""
    path: Annotated[str | None, Field(validate_default=True)] = None
    """Folder or hub name of its weights; null takes those that `tiny` ships."""
    tune: bool = True
    """Whether to fine-tune it on the expert expressions first (ISR §3.3)."""
    beams: Count = 5
    """OFA, Florence-2: hypotheses kept while decoding; Florence-2's default is 3, as published."""
    label_smoothing: Fraction = 0.1
    """OFA: share of the target spread over the vocabulary in training (OFA's own: 0.1)."""
    drop_path: Fraction = 0.2
    """OFA: rate at which residual branches are dropped in training (OFA's own: 0.2)."""
    lora: LoraConfig = LoraConfig()
    """vlm: the part of the model that is trained."""

    _path_is_named = field_validator("path")(_named)

    @model_validator(mode="before")
    @classmethod
    def _decodes_as_published(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("backend") == "florence2":
            return {"beams": 3, **given}
        return given

    @model_validator(mode="after")
    def _suits_its_backend(self) -> GrounderConfig:
        if self.backend == "florence2" and self.tune:
            raise ValueError("florence2 answers as published; set tune: false")
        refuse_idle(self, self.backend, self.acting)
        return self

    @property
    def acting(self) -> tuple[str, ...]:
        """The fields that its backend acts on."""
        common = ("path", "tune", "device", "dtype", "batch_size")
        if self.backend == "tiny":  # always on the CPU, in float32
            return ("path", "tune", *(["device"] if self.device == "cpu" else []))
        own = {
            "ofa": ("checkpointing", "beams", "label_smoothing", "drop_path"),
            "vlm": ("max_pixels", "checkpointing", "load_in_4bit", "lora"),
            "dino": ("max_pixels",),
            "florence2": ("beams",),
        }
        return (*common, *own[self.backend])


class ExpertsConfig(Section):
    """Where expert expressions come from (ISR §3.2: GPT-4o, with the gold box drawn)."""

    path: str | None = None
    """Expressions JSONL; null takes those that the data set brings along."""


class IsrConfig(Section):
    """Iterative self-refinement (ISR §3.4, Algorithm 1); the defaults are the paper's."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Changes the split sampling, D_SFT, draws and initial adapters."""
    data: DataConfig
    """Posts with their pictures and gold boxes; the embedded world is `toyworld: {}`."""
    experts: ExpertsConfig = ExpertsConfig()
    """Expert expressions."""
    writer: WriterConfig = WriterConfig()
    """The policy π."""
    sampler: SamplerConfig = SamplerConfig()
    """What draws from the policy."""
    grounder: GrounderConfig = GrounderConfig()
    """The judge of expressions."""
    lora: LoraConfig = LoraConfig()
    """The part of the writer that is trained."""
    sft_queries: Count = 1457
    """|D_SFT|, queries with expert expressions that start the writer (ISR §4.1: 1457)."""
    grounder_tuning: GrounderOptimiser = GrounderOptimiser()
    """Fine-tuning of the grounder."""
    sft: SftOptimiser = SftOptimiser()
    """Fine-tuning of the writer: π_0."""
    dpo: DpoOptimiser = DpoOptimiser()
    """The update of each round: π_t."""
    rounds: Annotated[int, Field(ge=0)] = 4
    """T, rounds of preference learning (ISR Table 3: 4); 0 stops after fine-tuning."""
    samples: Count = 4
    """K, expressions drawn a prompt (ISR §4.1: 4)."""
    temperature: Positive = 0.8
    """Sampling temperature (ISR §4.1: 0.8)."""
    max_new_tokens: Count = 64
    """Longest expression, in tokens (not stated in the paper)."""
    prompts_per_round: Count | None = None
    """Prompts drawn from D_PL each round; null takes all of it (ISR Algorithm 1: a batch)."""
    strategy: Literal["full", "no-success", "no-expert"] = "full"
    """Which expressions may be chosen: the ablation of ISR Figure 3."""
    checkpoint_every_s: Annotated[Positive, FREE] = 20.0
    """Seconds between checkpoints within a fit: what a kill can cost. It changes no result."""
    check_memory: Annotated[bool, FREE] = True
    """Whether to refuse a run that its device cannot hold by `groundling plan`."""
    reward_box: Literal["largest", "any"] = "largest"
    """The gold box that a reward asks for, where there are several (ISR footnote 2: largest)."""

    @model_validator(mode="after")
    def _can_be_sampled(self) -> IsrConfig:
        if self.sampler.backend == "vllm" and self.writer.load_in_4bit:
            raise ValueError(
                "sampler vllm does not hold the base in 4 bits; set load_in_4bit: false"
            )
        if self.sampler.backend == "vllm" and self.writer.backend == "tiny":
            raise ValueError("sampler vllm does not know the embedded writer; leave sampler out")
        return self

    @model_validator(mode="after")
    def _leaves_prompts(self) -> IsrConfig:
        world = self.data.toyworld
        if self.rounds and world is not None and self.sft_queries >= world.train_queries:
            raise ValueError(
                f"sft_queries: got {self.sft_queries}; wanted fewer than "
                f"data.toyworld.train_queries ({world.train_queries}), the rest being D_PL"
            )
        return self


class DirectConfig(Section):
    """Direct grounding (ISR Table 1): a model fine-tuned to answer an entity with its box."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Changes the split sampling, the order of examples and the initial adapter."""
    data: DataConfig
    """Posts with their pictures and gold boxes; the embedded world is `toyworld: {}`."""
    model: WriterConfig = WriterConfig()
    """The model that is asked with prompt A.3."""
    lora: LoraConfig = LoraConfig()
    """The part of the model that is trained."""
    tuning: SftOptimiser = SftOptimiser()
    """Fine-tuning on all training queries: the largest gold box, or "absent"."""
    checkpoint_every_s: Annotated[Positive, FREE] = 20.0
    """Seconds between checkpoints within the fit: what a kill can cost. It changes no result."""
    check_memory: Annotated[bool, FREE] = True
    """Whether to refuse a run that its device cannot hold by `groundling plan`."""


class AblateConfig(Section):
    """A comparison of ways to train, each over several seeds; rates are chosen on validation."""

    recipe: str
    """The ISR recipe that every variant starts from; a path beside this file."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """What every variant changes in the recipe, by dotted key (`data.toyworld.test_queries`)."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
    """Seeds that every variant runs with; the first one also serves the rate searches."""
    sft_lrs: list[Positive]
    """Peak learning rates to try for the start of the writer (D_SFT)."""
    full_sft_lrs: list[Positive]
    """Peak learning rates to try for fine-tuning on all training queries."""
    full_sft_epochs: Count = 3
    """Passes over all training queries."""
    dpo_lrs: list[Positive]
    """Peak learning rates to try for the rounds."""
    samples: list[Count]
    """K, expressions drawn a prompt (ISR Figure 4)."""
    strategies: list[Literal["full", "no-success", "no-expert"]]
    """Which expressions may be chosen (ISR Figure 3)."""
