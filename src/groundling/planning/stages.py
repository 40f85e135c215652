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

BOX_TOKENS = 48
"""Longest answer of a grounder that writes boxes."""

FEATURE_CACHE = 1 << 30
"""Most memory for kept picture features, where the layers are laid out by hand."""

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
        if outline.by_hand:
            parts["kept pictures"] = FEATURE_CACHE
        return parts


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


def plan_stages(config: IsrConfig, writer: Model, grounder: Model, devices: int) -> list[Stage]:
    """Every stage that the recipe has, in the order of the run.

    The grounder that rewards stays loaded beside the writer, unless they are on different devices.
    With several devices a batch is divided among them, and each holds the models whole.
    """
    apart = config.writer.device != config.grounder.device
    beside_writer = {} if apart else {"grounder": sum(grounder.resident().values())}
    beside_grounder = {} if apart else {"writer": sum(writer.resident().values())}
    found = []
    if config.grounder.tune:
        found.append(_tuning(grounder, config.grounder_tuning, devices))
    found.append(_fit("SFT", writer, config.sft, devices, 1, config.max_new_tokens, beside_writer))
    if config.rounds:
        rounds = [
            _sampling(config, writer, devices, beside_writer),
            _rewards(config, grounder, devices, beside_grounder),
            _scoring(config, writer, devices, beside_writer),
            _fit("DPO", writer, config.dpo, devices, 2, config.max_new_tokens, beside_writer),
        ]
        found += rounds
    return [_with_reserve(stage) for stage in found]


def _with_reserve(stage: Stage) -> Stage:
    reserve = RESERVE_BASE + round(RESERVE_SHARE * stage.peak)
    return Stage(stage.name, {**stage.parts, "reserve": reserve}, stage.planned)


def rows_of(optimiser: Optimiser, devices: int) -> int:
    """Examples that go through the model of one device at once."""
    share = -(-optimiser.batch_size // devices)
    return share if optimiser.micro_batch is None else min(share, optimiser.micro_batch)


def work_of(model: Model, rows: int, answers: int, answer_tokens: int) -> Work:
    """Rows of prompt and answers; those of a family that cannot pack have a row for each answer."""
    outline, pictures = model.outline, model.pictures
    assert isinstance(outline, ChatOutline)
    assert pictures is not None
    prompt = PROMPT_TOKENS + (pictures.most if pictures.inside else 0)
    together = answers if outline.packs else 1
    return Work(
        rows=rows * answers // together,
        length=prompt + together * answer_tokens,
        answered=rows * answers * answer_tokens,
        rank=model.rank,
        width=model.width,
        sight=0 if pictures.inside else pictures.most,
    )


def _tuning(grounder: Model, optimiser: Optimiser, devices: int) -> Stage:
    name = "grounder tuning"
    outline = grounder.outline
    if isinstance(outline, ChatOutline):
        return _fit(name, grounder, optimiser, devices, 1, BOX_TOKENS, {})
    parts = {**grounder.resident(), **_training(grounder)}
    if isinstance(outline, OfaOutline):
        rows = rows_of(optimiser, devices)
        parts["activations"] = ofa.step(
            outline, rows, grounder.width, grounder.config.checkpointing
        )
    return Stage(name, parts, planned=isinstance(outline, OfaOutline))


def _training(model: Model) -> dict[str, int]:
    size = model.trained_bytes
    return {"gradients": terms.gradients(size), "moments": terms.moments(size)}


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
    work = work_of(model, rows_of(optimiser, devices), answers, answer_tokens)
    activations = max(
        terms.step(outline, work, model.config.checkpointing), _seeing(model, work.rows)
    )
    parts = {**model.resident(), **_training(model), "activations": activations, **beside}
    return Stage(name, parts)


def _seeing(model: Model, pictures: int) -> int:
    """The tower's own peak, which is over before the language model's begins."""
    outline, tokens = model.outline, model.pictures
    assert isinstance(outline, ChatOutline)
    assert tokens is not None
    return terms.tower(outline.vision, pictures * tokens.most, model.width)


def _sampling(config: IsrConfig, writer: Model, devices: int, beside: dict[str, int]) -> Stage:
    outline = writer.outline
    assert isinstance(outline, ChatOutline)
    rows = -(-config.writer.batch_size // devices)
    work = work_of(writer, rows, 1, 0)
    drawn = config.samples * config.max_new_tokens
    prompts = 1 if outline.by_hand else config.samples + 1  # copied K times, the old one freed last
    tokens, seen = rows * (prompts * work.length + drawn), rows * prompts * work.sight
    space = max(terms.forward_space(outline.text, work), _seeing(writer, rows))
    parts = {
        **writer.resident(),
        "cache": terms.cache(outline.text, tokens, seen, writer.width),
        "activations": space + terms.choice(outline.text, rows, config.samples),
        **beside,
    }
    return Stage("sampling", parts)


def _rewards(config: IsrConfig, grounder: Model, devices: int, beside: dict[str, int]) -> Stage:
    outline = grounder.outline
    rows = -(-config.grounder.batch_size // devices)
    parts = {**grounder.resident(), **beside}
    if isinstance(outline, OfaOutline):
        parts["activations"] = ofa.search(outline, rows, grounder.width)
    elif isinstance(outline, ChatOutline):
        work = work_of(grounder, rows, 1, BOX_TOKENS)
        copies = 1 if outline.by_hand else 2
        tokens, seen = rows * copies * work.length, rows * copies * work.sight
        parts["cache"] = terms.cache(outline.text, tokens, seen, grounder.width)
        space = max(terms.forward_space(outline.text, work), _seeing(grounder, rows))
        parts["activations"] = space + terms.choice(outline.text, rows, 1)
    return Stage("rewards", parts, planned=isinstance(outline, ChatOutline | OfaOutline))


def _scoring(config: IsrConfig, writer: Model, devices: int, beside: dict[str, int]) -> Stage:
    outline = writer.outline
    assert isinstance(outline, ChatOutline)
    rows = -(-config.writer.batch_size // devices)
    work = work_of(writer, rows, 2, config.max_new_tokens)
    space = terms.forward_space(outline.text, work) + terms.logits(outline.text, work)
    parts = {**writer.resident(), "activations": max(space, _seeing(writer, rows)), **beside}
    return Stage("reference scoring", parts)
