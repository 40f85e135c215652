"""Pre-trains the tiny writer: first its eyes, then its words.

    python -m groundling.toyworld.pretrain_writer OUT [--seed S] [--from-phase N]

Phase 1 teaches the vision tower what each image token covers. The others train the language model
on questions and answers about pre-training scenes (`lessons`), never in the words of the task's
prompts and never on a picture of the train, validation or test pools: bare names by the hundred,
until names and pictures are connected (2), then all kinds of lesson (3). The tower stays as phase 1
left it: the wild first gradients of an untrained language model would spoil it. Every lesson weighs
the same, so that a plain yes or no about a name, which is what the task turns on, is not drowned by
long descriptions.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from groundling.models.packing import Prompt, Row, answer_logprobs, sum_by_answer
from groundling.models.qwen2vl import ImageTokens, PictureRules, Qwen2VL
from groundling.toyworld import identities as who
from groundling.toyworld.introduction import fit_map, start_heads
from groundling.toyworld.lessons import BROAD, CALLED, draw_lesson
from groundling.toyworld.render import render
from groundling.toyworld.scene import SIZE_PX, Referent, Scene, draw_scene
from groundling.toyworld.writer_parts import build_model, build_processor, train_tokenizer

OPENINGS = (
    "",
    "Look at the picture.",
    "Here is a picture. Look at it and answer the question.",
    "You see a picture of some people, buildings and objects. Read the question and then answer.",
    "Have a look at this picture. Then answer one question about what you see in it, in few words.",
    "This is a picture that somebody has sent to us today. Please look at everything in it, from "
    "the left to the right, and then answer the question in a few words.",
)
"""Said before the picture, of many lengths, so that no place of the picture is special."""

EYE_STEPS = 3000
"""Steps of phase 1, 48 pictures each."""

_LABELS: dict[str, int] = {}
for _word in (
    [f"hair {c}" for c in who.HAIR_COLOURS] + [f"style {s}" for s in who.HAIR_STYLES]
    + [f"skin {s}" for s in who.SKINS] + ["beard", "glasses", "person", "sign", "logo"]
    + [f"shirt {c}" for c in who.SHIRTS] + [f"shape {s}" for s in who.SHAPES]
    + [f"emblem {c}" for c in who.EMBLEM_COLOURS] + list(who.LANDMARKS) + list(who.ITEMS)
    + [f"building {c}" for c in who.LANDMARK_COLOURS] + [f"object {c}" for c in who.ITEM_COLOURS]
    + list(who.NAMES)
):  # fmt: skip
    _LABELS[_word] = len(_LABELS)
_LOGO_LABELS = [
    _LABELS[word]
    for word in ["logo", *(f"shape {s}" for s in who.SHAPES), *who.ORGANISATIONS]
    + [f"emblem {c}" for c in who.EMBLEM_COLOURS]
]
"""What is told of logos, the smallest things in a picture."""


def labels_of(referent: Referent, scene: Scene) -> list[int]:
    """What phase 1 should read off the image tokens that a referent covers."""
    look, figure = referent.look, scene.figures[referent.figure]
    words = [referent.name] if referent.name else []
    if isinstance(look, who.Face):
        words += ["person", f"hair {look.hair_colour}", f"style {look.hair_style}"]
        words += [f"skin {look.skin}", f"shirt {figure.cloth}"]
        words += ["beard"] * look.beard + ["glasses"] * look.glasses
    elif isinstance(look, who.Emblem):
        words += ["logo", f"shape {look.shape}", f"emblem {look.colour}"]
        words += ["sign"] * (figure.kind == "sign")
    else:
        place = isinstance(look, who.Landmark)
        words += [look.kind, f"{'building' if place else 'object'} {look.colour}"]
    return [_LABELS[word] for word in words]


def token_labels(scene: Scene, side: int) -> Tensor:
    """(side², labels) 0/1: what the token at each cell of the grid covers at least a quarter of."""
    table = torch.zeros(side, side, len(_LABELS))
    cell = SIZE_PX / side
    for referent in scene.referents():
        box = referent.box
        for row in range(side):
            for column in range(side):
                wide = min(box.x2, (column + 1) * cell) - max(box.x1, column * cell)
                high = min(box.y2, (row + 1) * cell) - max(box.y1, row * cell)
                least = 0.25 * min(box.area, cell * cell)
                if wide > 0 and high > 0 and wide * high >= least:
                    table[row, column, labels_of(referent, scene)] = 1.0
    return table.flatten(0, 1)


class Eyes:
    """The vision tower, with a linear probe on its image tokens."""

    def __init__(self, net: Qwen2VL, hidden: int) -> None:
        self.net = net
        self.side = 4
        self.probe = nn.Linear(hidden, len(_LABELS))
        nn.init.constant_(self.probe.bias, -3.0)

    def tokens(self, scenes: list[Scene]) -> Tensor:
        """Image tokens (B, 16, hidden)."""
        pictures = [self.net.rules.fit(render(scene)) for scene in scenes]
        return self.net.tower(self.net.rules.patches(pictures), (self.side, self.side))

    def loss(self, tokens: Tensor, scenes: list[Scene]) -> Tensor:
        """Binary cross entropy of the probe, present labels weighing more, small things most."""
        wanted = torch.stack([token_labels(scene, self.side) for scene in scenes])
        logits = self.probe(tokens)
        present = torch.full((len(_LABELS),), 4.0)
        present[_LOGO_LABELS] = 8.0
        weight = torch.where(wanted > 0, present, torch.ones(()))
        return functional.binary_cross_entropy_with_logits(logits, wanted, weight=weight) * 20

    @torch.no_grad()
    def whiten(self, merger_out: nn.Linear, rng: np.random.Generator) -> None:
        """Fold a linear map into the tower's last layer that evens out the spread of its tokens.

        A probe does not care that a few directions dwarf all others; the normalisation at the
        language model's door does, and would hide from it most of what the tower has learned.
        """
        batches = [[draw_scene(rng, "pretraining") for _ in range(32)] for _ in range(20)]
        tokens = torch.cat([self.tokens(scenes) for scenes in batches]).flatten(0, 1)
        mean = tokens.mean(0)
        _, sizes, axes = torch.linalg.svd(tokens - mean, full_matrices=False)
        spread = sizes / len(tokens) ** 0.5
        even = axes.T @ torch.diag(0.5 / (spread + 0.02 * spread[0])) @ axes
        merger_out.bias.copy_((merger_out.bias - mean) @ even)
        merger_out.weight.copy_(even.T @ merger_out.weight)


@dataclass(frozen=True)
class Taught:
    """How a phase teaches: peak learning rate, pictures a step, lessons a picture, their kinds."""

    steps: int
    lr: float
    pictures: int
    lessons: int
    shares: Mapping[str, float]


PHASES = {
    2: Taught(1000, 1.5e-3, 16, 24, CALLED),
    3: Taught(4000, 1.0e-3, 12, 12, BROAD),
}
"""What the phases after the first teach."""


@dataclass(frozen=True)
class School:
    """Everything phase 2 needs to lay out and score lessons."""

    net: Qwen2VL
    tokenizer: Any

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt(self, opening: str, features: Tensor) -> Prompt:
        """The user's turn up to the picture, which all lessons about it share."""
        before = self.ids(f"<|im_start|>user\n{opening}<|vision_start|>")
        picture = self.ids("<|image_pad|>") * len(features)
        after = self.ids("<|vision_end|>\n")
        return Prompt(before + picture + after, len(before), ImageTokens(features, (4, 4)))

    def lesson_ids(self, question: str, answer: str) -> tuple[tuple[int, ...], int]:
        """Ids of the rest of the turn and the answer with its end; and where the answer starts."""
        listed = question.endswith(":")
        turn = "" if listed else "<|im_end|>\n<|im_start|>assistant\n"
        asked = self.ids(question + turn)
        return asked + self.ids(answer) + (self.tokenizer.eos_token_id,), len(asked)

    def answer_logprobs(
        self, features: Tensor, scenes: list[Scene], rng: np.random.Generator, taught: Taught
    ) -> tuple[Tensor, Tensor, list[str]]:
        """log π of each lesson's answer (N,), its tokens (N,), and the kinds of lesson."""
        rows, kinds, keep = [], [], []
        for scene, feature in zip(scenes, features, strict=True):
            answers = []
            opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
            for _ in range(taught.lessons):
                kind, lesson = draw_lesson(scene, rng, taught.shares)
                ids, start = self.lesson_ids(lesson.question, lesson.answer)
                answers.append(ids)
                kinds.append(kind)
                keep += [0.0] * start + [1.0] * (len(ids) - start)
            rows.append(Row(self.prompt(opening, feature), tuple(answers)))
        logprobs, owners = answer_logprobs(self.net, rows)
        counted = torch.tensor(keep)
        return (
            sum_by_answer(logprobs * counted, owners, len(kinds)),
            sum_by_answer(counted, owners, len(kinds)),
            kinds,
        )


@torch.no_grad()
def evaluate(eyes: Eyes, school: School, pictures: int, taught: Taught) -> dict[str, float]:
    """Geometric-mean probability of a true answer on fixed pre-training scenes, by kind."""
    rng = np.random.default_rng(10_000_019)
    likelihood: dict[str, list[float]] = defaultdict(list)
    for _ in range(pictures // 32):
        scenes = [draw_scene(rng, "pretraining") for _ in range(32)]
        found = school.answer_logprobs(eyes.tokens(scenes), scenes, rng, taught)
        for value, kind in zip(found[0].tolist(), found[2], strict=True):
            likelihood[kind].append(value)
    return {kind: round(math.exp(float(np.mean(v))), 3) for kind, v in sorted(likelihood.items())}


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: 100 steps of warm-up, then a cosine to 2 % of the peak."""
    return peak * min(1.0, step / 100) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)


def main() -> None:
    """Run the phases, log JSON lines, and save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from-phase", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer, model = _begin(options.out, options.from_phase, options.seed)
    processor = build_processor(tokenizer)
    net = Qwen2VL(model, PictureRules(processor.image_processor))
    school = School(net, tokenizer)
    eyes = Eyes(net, model.config.text_config.hidden_size)
    log = options.out / "pretraining.jsonl"
    if options.from_phase == 1:
        rng = np.random.default_rng([options.seed, 88])
        _learn_to_see(eyes, model, rng, log)
        eyes.whiten(model.model.visual.merger.mlp[2], rng)
        save(options.out, model, processor)
    if options.from_phase <= 2:
        introduce(eyes, school, model, options.seed)
    for phase in PHASES:
        if options.from_phase <= phase:
            rng = np.random.default_rng([options.seed, 87 + phase])
            _learn_to_speak(phase, eyes, school, model, rng, log)
            save(options.out, model, processor)


def _begin(out: Path, phase: int, seed: int) -> tuple[Any, Any]:
    """A fresh tokenizer and model, or those that the phase before left in `out`."""
    if phase > 1:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
        return tokenizer, Qwen2VLForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    tokenizer = train_tokenizer(seed)
    return tokenizer, build_model(tokenizer, seed)


def _learn_to_see(eyes: Eyes, model: Any, rng: np.random.Generator, log: Path) -> None:
    """Phase 1: the vision tower and its probe."""
    seeing = [*model.model.visual.parameters(), *eyes.probe.parameters()]
    optimiser = torch.optim.AdamW(seeing, weight_decay=0.02)
    began, losses = time.perf_counter(), []
    for step in range(1, EYE_STEPS + 1):
        scenes = [draw_scene(rng, "pretraining") for _ in range(48)]
        loss = eyes.loss(eyes.tokens(scenes), scenes)
        _update(optimiser, loss, rate(step, EYE_STEPS, 1e-3), seeing)
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            _log(log, phase=1, step=step, loss=np.mean(losses[-100:]), began=began)


def introduce(eyes: Eyes, school: School, model: Any, seed: int) -> None:
    """Fit the map from image tokens to names, and let the first two layers start from it."""
    rng = np.random.default_rng([seed, 89])
    generator = torch.Generator().manual_seed(seed)
    scenes = [draw_scene(rng, "pretraining") for _ in range(2400)]
    with torch.no_grad():
        parts = [scenes[i : i + 48] for i in range(0, len(scenes), 48)]
        tokens = torch.cat([eyes.tokens(part) for part in parts]).flatten(0, 1)
        pieces = [school.net.embed(torch.tensor(school.ids(f" {name}"))) for name in who.NAMES]
        means = [functional.normalize(part, dim=-1).mean(0) for part in pieces]
        names = functional.normalize(torch.stack(means), dim=-1)
    table = torch.cat([token_labels(scene, eyes.side) for scene in scenes])
    wanted = table[:, [_LABELS[name] for name in who.NAMES]]
    weight = fit_map(tokens, names, wanted, generator)
    for layer in model.model.language_model.layers[:2]:
        start_heads(layer.self_attn, weight, generator)


def _learn_to_speak(
    phase: int,
    eyes: Eyes,
    school: School,
    model: Any,
    rng: np.random.Generator,
    log: Path,
) -> None:
    """Phases 2 and 3: the language model, on lessons; each lesson weighs the same."""
    taught = PHASES[phase]
    learning = list(model.model.language_model.parameters())  # the tower has learned its part
    optimiser = torch.optim.AdamW(learning, weight_decay=0.02, betas=(0.9, 0.98))
    began, losses = time.perf_counter(), []
    for step in range(1, taught.steps + 1):
        scenes = [draw_scene(rng, "pretraining") for _ in range(taught.pictures)]
        with torch.no_grad():
            seen = eyes.tokens(scenes)
        found, tokens, _ = school.answer_logprobs(seen, scenes, rng, taught)
        loss = -(found / tokens).mean()
        _update(optimiser, loss, rate(step, taught.steps, taught.lr), learning)
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            extra = evaluate(eyes, school, 256, taught) if step % 200 == 0 else {}
            _log(log, phase=phase, step=step, loss=np.mean(losses[-100:]), began=began, **extra)
        if step % 500 == 0:
            save(log.parent, model, build_processor(school.tokenizer))


def _update(optimiser: torch.optim.Optimizer, loss: Tensor, lr: float, parameters: Any) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()


def _log(path: Path, *, phase: int, step: int, loss: Any, began: float, **more: float) -> None:
    minutes = round((time.perf_counter() - began) / 60, 1)
    row = {"phase": phase, "step": step, "loss": round(float(loss), 4), "minutes": minutes, **more}
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def save(out: Path, model: Any, processor: Any) -> None:
    """Write model (half precision), processor and the names it has learned."""
    model.half().save_pretrained(out)
    model.float()
    processor.save_pretrained(out)
    names = [[name, kind] for name, (kind, _) in who.NAMES.items()]
    (out / "known_names.json").write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
