"""How long each stage takes: operations over assumed speed. Estimates, good to a factor of two."""

from __future__ import annotations

from groundling.config import IsrConfig
from groundling.planning import ofa, terms
from groundling.planning.counts import Counts
from groundling.planning.devices import Speed, duration_s
from groundling.planning.outline import ChatOutline, OfaOutline
from groundling.planning.stages import BOX_TOKENS, PROMPT_TOKENS, Model

MEAN_ANSWER = 20
"""Tokens of an expression: an assumption."""

UNKNOWN_TOKENS = 1000
"""What a model of which only the parameters are known reads of a picture: an assumption."""

FULL_PRECISION_SHARE = 1 / 16
"""Speed in float32 against bfloat16 on an accelerator (A100: 19.5 of 312 TFLOP/s)."""


def plan_durations(
    config: IsrConfig,
    writer: Model,
    grounder: Model,
    counts: Counts,
    speed: Speed,
    devices: int,
) -> dict[str, float]:
    """Seconds of each stage over the whole run, all rounds together; divided among the devices."""
    rounds = config.rounds
    found: dict[str, float] = {}
    if config.grounder.tune:
        once = _grounder_pass(grounder, speed, BOX_TOKENS, _training_passes(grounder))
        found["grounder tuning"] = counts.grounded * config.grounder_tuning.epochs * once
    training = _training_passes(writer)
    once = _forward(writer, speed, MEAN_ANSWER, training)
    found["SFT"] = counts.sft * config.sft.epochs * once
    drawn = _drawing(writer, speed, config.samples, config.writer.batch_size)
    boxes = _box(grounder, speed)
    if rounds:
        found["sampling"] = rounds * counts.prompts * drawn
        found["rewards"] = rounds * counts.prompts * config.samples * boxes
        scored = _forward(writer, speed, 2 * MEAN_ANSWER)
        found["reference scoring"] = rounds * counts.prompts * scored
        once = _forward(writer, speed, 2 * MEAN_ANSWER, training)
        found["DPO"] = rounds * counts.prompts * config.dpo.epochs * once
    greedy = _drawing(writer, speed, 1, config.writer.batch_size)
    found["evaluation"] = (rounds + 2) * counts.evaluated * (greedy + boxes)
    return {name: seconds / devices for name, seconds in found.items()}


def _slow(model: Model, speed: Speed) -> float:
    """Factor by which the precision slows a model down; measured speeds are already its own."""
    slow = model.width == terms.FULL and not speed.measured
    return 1 / FULL_PRECISION_SHARE if slow else 1.0


def _training_passes(model: Model) -> float:
    """What a step costs in forward passes: adapters 2, as frozen weights need no gradient of their
    own, everything trained 3; one more with checkpointing. A frozen tower is run once."""
    chat = isinstance(model.outline, ChatOutline)
    return (2.0 if chat else 3.0) + float(model.config.checkpointing)


def _forward(model: Model, speed: Speed, answer_tokens: int, passes: float = 1.0) -> float:
    """2 · parameters · tokens operations of the language model, in so many passes, and of the tower
    for its patches."""
    outline, pictures = model.outline, model.pictures
    assert isinstance(outline, ChatOutline)
    assert pictures is not None
    length = PROMPT_TOKENS + answer_tokens + (pictures.mean if pictures.inside else 0)
    attention = 4 * outline.text.layers * outline.text.attended * length
    tower = 2 * outline.vision_parameters * pictures.mean * outline.vision.patches
    operations = passes * length * (2 * _language(outline) + attention) + tower
    return duration_s(speed, operations) * _slow(model, speed)


def _language(outline: ChatOutline) -> int:
    """Parameters that every token meets: without tower and embedding."""
    embedding = outline.text.vocabulary * outline.text.hidden
    return outline.parameters - outline.vision_parameters - embedding


def _drawing(model: Model, speed: Speed, samples: int, batch: int) -> float:
    """A prompt, then its answers token by token: the weights are read once a token for a batch."""
    outline = model.outline
    assert isinstance(outline, ChatOutline)
    weights = model.resident()["weights"]
    tokens = 2.0 * _language(outline) * batch * samples
    token_s = duration_s(speed, tokens * _slow(model, speed), weights)
    return _forward(model, speed, 0) + MEAN_ANSWER * token_s / batch


def _grounder_pass(model: Model, speed: Speed, answer_tokens: int, passes: float = 1.0) -> float:
    outline = model.outline
    if isinstance(outline, ChatOutline):
        return _forward(model, speed, answer_tokens, passes)
    if isinstance(outline, OfaOutline):
        operations = ofa.operations(outline)
    else:
        operations = 2.0 * outline.parameters * UNKNOWN_TOKENS
    return duration_s(speed, passes * operations) * _slow(model, speed)


def _box(model: Model, speed: Speed) -> float:
    """One box: a pass, and for a language model its tokens one by one."""
    if isinstance(model.outline, ChatOutline):
        return _drawing(model, speed, 1, model.config.batch_size)
    return _grounder_pass(model, speed, 0)
