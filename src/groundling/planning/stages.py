"""What each stage of a run holds in memory at its peak, part by part, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from groundling.config import GrounderConfig, IsrConfig, Optimiser, WriterConfig
from groundling.planning import ofa, terms
from groundling.planning.outline import ChatOutline, GrounderOutline, OfaOutline
from groundling.planning.pictures import PictureTokens
from groundling.planning.terms import BYTES, Work

PROMPT_TOKENS = 80
"""Tokens of a prompt beside its picture: A.2, the chat template and a name. An assumption."""

SHARED_TOKENS = 50
"""Of these, those before the picture, the same in all prompts: computed once a batch where the
layers are laid out by hand. An assumption."""

BOX_TOKENS = 128
"""Longest answer of a grounder that writes boxes, in the form that takes most tokens."""

FEATURE_CACHE = 1 << 30
"""Most memory for kept picture features, where the layers are laid out by hand."""

PROMPT_BATCHES = 8
"""Batches whose prompts, and so picture features, are held together while drawing and scoring."""

TOWER_PATCHES = 1 << 14
"""Patches that go through the tower together, where the layers are laid out by hand."""

RESERVE_SHARE = 0.08
RESERVE_BASE = 1 << 30
"""The reserve: the libraries' own context, and what an allocator loses to gaps."""


@dataclass(frozen=True, slots=True)
class Model:
    """An outline, its configuration and the pictures as it sees them."""

    outline: GrounderOutline
    config: WriterConfig | GrounderConfig
    rank: int
    pictures: PictureTokens | None

    @property
    def width(self) -> int:
        """Bytes of a number in the precision of the weights."""
        return BYTES[self.config.dtype]

    @property
    def trained(self) -> int:
        """Numbers that are trained."""
        if isinstance(self.outline, ChatOutline):
            return self.outline.adapter_width * self.rank
        return self.outline.trained

    @property
    def trained_bytes(self) -> int:
        """The same in bytes: adapters are float32, other parameters as the weights."""
        chat = isinstance(self.outline, ChatOutline)
        return self.trained * (terms.FULL if chat else self.width)

    def resident(self) -> dict[str, int]:
        """What the model takes by being there."""
        outline = self.outline
        if not isinstance(outline, ChatOutline):
            return {"weights": terms.weights(outline.parameters, self.width)}
        whole = terms.weights(outline.parameters, self.width)
        if self.config.load_in_4bit:
            whole = terms.weights_in_4_bits(outline.parameters, outline.linear, self.width)
            whole += outline.largest * self.width  # the one that is unpacked at the time
        parts = {"weights": whole, "adapter": terms.adapter(outline.adapter_width, self.rank)}
        return parts | self.features(0)

    def features(self, asked: int) -> dict[str, int]:
        """Picture features in memory while `asked` prompts are at hand; none for other families.

        A writer keeps those of all pictures if they fit, or none; a grounder keeps the latest.
        """
        if not (isinstance(self.outline, ChatOutline) and self.outline.by_hand and self.pictures):
            return {}
        one = self.outline.text.hidden * self.width
        every = self.pictures.number * self.pictures.most * one
        kept = every if 0 < every <= FEATURE_CACHE else 0
        if isinstance(self.config, GrounderConfig):
            kept = kept or FEATURE_CACHE
        return {"pictures": max(kept, round(asked * self.pictures.mean * one))}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage and its parts in bytes; `planned` is false where activations are not known."""

    name: str
    parts: dict[str, int]
    planned: bool = True

    @property
    def peak(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def plan_stages(
    config: IsrConfig, writer: Model, grounder: Model, devices: int, room: int = 0
) -> list[Stage]:
    """Every stage that the recipe has, in the order of the run, the evaluations last.

    The grounder that rewards stays loaded beside the writer, unless they are on different devices.
    With several devices the batches of training are divided among them; each holds the models
    whole, and draws, scores and grounds whole batches of its own. `room` are the free bytes of one,
    of which vLLM takes its share where it draws.
    """
    apart = _place(config.writer.device) != _place(config.grounder.device)
    beside_writer = {} if apart else {"grounder": sum(grounder.resident().values())}
    beside_grounder = {} if apart else {"writer": sum(writer.resident().values())}
    longest = config.max_new_tokens
    found = []
    if config.grounder.tune:
        found.append(_tuning(grounder, config.grounder_tuning, devices))
    found.append(_fit("SFT", writer, config.sft, devices, 1, longest, beside_writer))
    grounding = _grounding(config, grounder, beside_grounder)
    if config.rounds:
        found += [
            *_sampling(config, writer, beside_writer, room),
            grounding,
            _scoring(writer, longest, beside_writer),
            _fit("DPO", writer, config.dpo, devices, 2, longest, beside_writer),
        ]
    answers = _drawing("evaluation", writer, 1, longest, beside_writer)
    found.append(max(answers, Stage("evaluation", grounding.parts, grounding.planned), key=_peak))
    return [_with_reserve(stage) for stage in found]


def _place(device: str) -> str:
    """The device that a name means; the first GPU has several."""
    return "cuda:0" if device in ("auto", "cuda") else device


def _peak(stage: Stage) -> int:
    return stage.peak


def _with_reserve(stage: Stage) -> Stage:
    reserve = RESERVE_BASE + round(RESERVE_SHARE * stage.peak)
    return Stage(stage.name, {**stage.parts, "reserve": reserve}, stage.planned)


def rows_of(optimiser: Optimiser, devices: int) -> int:
    """Examples that go through the model of one device at once: its share of a micro-batch."""
    return -(-min(optimiser.batch_size, optimiser.micro_batch or optimiser.batch_size) // devices)


def work_of(model: Model, rows: int, answers: int, answer_tokens: int) -> Work:
    """Rows of prompt and answers; those of a family that cannot pack have a row for each answer."""
    outline, pictures = model.outline, model.pictures
    assert isinstance(outline, ChatOutline)
    assert pictures is not None
    shared = SHARED_TOKENS if outline.by_hand else 0
    prompt = PROMPT_TOKENS - shared + (pictures.most if pictures.inside else 0)
    together = answers if outline.packs else 1
    return Work(
        rows=rows * answers // together,
        length=prompt + together * answer_tokens,
        answered=rows * answers * answer_tokens,
        rank=model.rank,
        width=model.width,
        sight=0 if pictures.inside else pictures.most,
        shared=shared,
    )


def _tuning(grounder: Model, optimiser: Optimiser, devices: int) -> Stage:
    name = "grounder tuning"
    outline = grounder.outline
    if isinstance(outline, ChatOutline):
        return _fit(name, grounder, optimiser, devices, 1, BOX_TOKENS, {})
    parts = {**grounder.resident(), **_training(grounder, devices)}
    if isinstance(outline, OfaOutline):
        rows, checkpointing = rows_of(optimiser, devices), grounder.config.checkpointing
        space = ofa.step(outline, rows, grounder.width, checkpointing)
        parts["activations"] = max(space, _updating(grounder))
    return Stage(name, parts, planned=isinstance(outline, OfaOutline))


def _training(model: Model, devices: int) -> dict[str, int]:
    """Gradients and moments; several devices exchange gradients in buckets as large (DDP)."""
    size = model.trained_bytes
    copies = 1 if devices == 1 else 2
    return {"gradients": copies * terms.gradients(size), "moments": terms.moments(size)}


def _updating(model: Model) -> int:
    """AdamW's step over all parameters at once, after the activations: one copy of what trains."""
    return model.trained_bytes


def _fit(
    name: str,
    model: Model,
    optimiser: Optimiser,
    devices: int,
    answers: int,
    answer_tokens: int,
    beside: dict[str, int],
) -> Stage:
    outline = model.outline
    assert isinstance(outline, ChatOutline)
    rows = rows_of(optimiser, devices)
    work = work_of(model, rows, answers, answer_tokens)
    space = terms.step(outline, work, model.config.checkpointing)
    parts = {
        **model.resident(),
        **model.features(rows),
        **_training(model, devices),
        "activations": max(space, _seeing(model, work.rows), _updating(model)),
        **beside,
    }
    return Stage(name, parts)


def _seeing(model: Model, pictures: int) -> int:
    """The tower's own peak, which is over before the language model's begins."""
    outline, tokens = model.outline, model.pictures
    assert isinstance(outline, ChatOutline)
    assert tokens is not None
    if outline.by_hand:
        pictures = max(1, TOWER_PATCHES // (tokens.most * outline.vision.patches))
    return terms.tower(outline.vision, pictures, tokens.most, model.width)


def _drawing(
    name: str, model: Model, samples: int, answer_tokens: int, beside: dict[str, int]
) -> Stage:
    """Answers to a batch of prompts: the higher of two moments, as parts.

    While the prompts are run, their keys and values come to be. At the end, those of the answers
    have been added: by hand to one copy of the prompt, in buffers that are copied as they grow;
    elsewhere to a copy of the prompt for each answer.
    """
    outline = model.outline
    assert isinstance(outline, ChatOutline)
    rows = model.config.batch_size
    work = work_of(model, rows, 1, 0)
    drawn = samples * answer_tokens
    prompts = 1 if outline.by_hand else samples

    def cache(copies: int, grown: int) -> int:
        tokens, seen = rows * (copies * work.length + grown), rows * copies * work.sight
        return terms.cache(outline.text, tokens, seen, model.width)

    begun, ended = cache(1, 0), cache(prompts, drawn)
    space = max(terms.forward_space(outline.text, work), _seeing(model, rows))
    chosen = terms.choice(outline.text, rows * samples, model.width)
    begin = {"cache": begun, "activations": space}
    end = {"cache": ended, "activations": max(chosen, ended if outline.by_hand else 0)}
    widest = max(begin, end, key=lambda moment: sum(moment.values()))
    held = model.features(PROMPT_BATCHES * rows)
    return Stage(name, {**model.resident(), **held, **widest, **beside})


def _sampling(config: IsrConfig, writer: Model, beside: dict[str, int], room: int) -> list[Stage]:
    """The draws of a round, by the writer itself or by vLLM; none here where a server draws."""
    sampler = config.sampler
    if sampler.backend == "endpoint":
        return []
    if sampler.backend == "vllm":
        taken = {"vLLM": round(sampler.memory * room)}
        return [Stage("sampling", {**writer.resident(), **taken, **beside})]
    return [_drawing("sampling", writer, config.samples, config.max_new_tokens, beside)]


def _grounding(config: IsrConfig, grounder: Model, beside: dict[str, int]) -> Stage:
    """Boxes for a batch of expressions: those of the rewards, and of the evaluations."""
    outline = grounder.outline
    if isinstance(outline, ChatOutline):
        return _drawing("rewards", grounder, 1, BOX_TOKENS, beside)
    parts = grounder.resident()
    if isinstance(outline, OfaOutline):
        beams, rows = config.grounder.beams, config.grounder.batch_size
        parts["activations"] = ofa.search(outline, rows, beams, grounder.width)
    return Stage("rewards", {**parts, **beside}, planned=isinstance(outline, OfaOutline))


def _scoring(writer: Model, answer_tokens: int, beside: dict[str, int]) -> Stage:
    outline = writer.outline
    assert isinstance(outline, ChatOutline)
    rows = writer.config.batch_size
    work = work_of(writer, rows, 2, answer_tokens)
    space = max(terms.forward_space(outline.text, work), terms.logits(outline.text, work))
    parts = {
        **writer.resident(),
        **writer.features(PROMPT_BATCHES * rows),
        "activations": max(space, _seeing(writer, work.rows)),
        **beside,
    }
    return Stage("reference scoring", parts)
