"""Pre-trains the tiny grounder on expressions about pre-training scenes.

    python -m groundling.toyworld.pretrain_grounder OUT [--steps N] [--seed S] [--start FOLDER]

It stands in for a published visual grounding model: it has heard the language of referring
expressions, ambiguous ones included, but not the task's expert expressions nor a picture of the
train, validation or test pools.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from groundling.models.tiny import TinyGrounder
from groundling.models.tiny_net import TinyGrounderConfig, TinyGrounderNet
from groundling.records import Box
from groundling.toyworld import identities as who
from groundling.toyworld.annotator import FAMILIES, draw_phrase, family_of
from groundling.toyworld.language import (
    NOUN_KIND,
    ORDINALS,
    SUPERLATIVES,
    denotation,
    say,
)
from groundling.toyworld.render import render
from groundling.toyworld.scene import SIZE_PX, Pool, Scene, draw_scene

VOCABULARY = tuple(
    sorted(
        {"the", "a", "and", "with", "in", "on", "to", "next", "of", "from", "shirt", "hair", "bun"}
        | {"beard", "glasses", "left", "right", "middle"}
        | set(NOUN_KIND) | set(ORDINALS) | set(SUPERLATIVES) | set(who.HAIR_STYLES)
        | set(who.HAIR_COLOURS) | set(who.SHIRTS) | set(who.EMBLEM_COLOURS)
        | set(who.LANDMARK_COLOURS) | set(who.ITEM_COLOURS)
    )
)  # fmt: skip

SHARES: dict[str, float] = {
    "looks": 0.24,
    "clothes": 0.16,
    "place": 0.24,
    "relation": 0.12,
    "ordinal": 0.15,
    "size": 0.09,
}
"""Families of expression in the lessons: those that ask for comparing and counting, which take
longest to learn, come more often than an annotator would use them."""


def lesson(
    scene: Scene, rng: np.random.Generator, count: int, longest: int
) -> list[tuple[str, Box, str]]:
    """Up to `count` triples (expression of at most `longest` words, box, family).

    An ambiguous expression means any of its boxes.
    """
    referents = scene.referents()
    found: list[tuple[str, Box, str]] = []
    for _ in range(3 * count):
        target = referents[int(rng.integers(len(referents)))]
        phrase = draw_phrase(scene, target, rng, SHARES)
        meant = denotation(phrase, scene)
        if len(say(phrase).split()) > longest:
            continue
        if target in meant and (len(meant) == 1 or rng.random() < 0.1):
            found.append((say(phrase), target.box, family_of(phrase)))
        if len(found) == count:
            break
    return found


def draw_batch(
    grounder: TinyGrounder, rng: np.random.Generator, pool: Pool, pictures: int, count: int
) -> tuple[Tensor, Tensor, Tensor, list[list[str]]]:
    """Pixels (B, 3, S, S), tokens (B, E, L), boxes (B, E, 4) as shares, families by picture."""
    pixels, said, families = [], [], []
    boxes = torch.zeros(pictures, count, 4)
    longest = 6 if rng.random() < 0.6 else 20  # short company for short ones: little padding
    for i in range(pictures):
        scene = draw_scene(rng, pool)
        pixels.append(grounder.pixels(render(scene)))
        lessons = lesson(scene, rng, count, longest)
        said.append([words for words, _, _ in lessons])
        families.append([family for _, _, family in lessons])
        for j, (_, box, _) in enumerate(lessons):
            boxes[i, j] = torch.tensor(box.xyxy) / SIZE_PX
    tokens = grounder.tokens(said)
    return torch.stack(pixels), tokens, boxes[:, : tokens.shape[1]], families


@torch.no_grad()
def evaluate(grounder: TinyGrounder, pictures: int) -> dict[str, float]:
    """Acc@0.5 by family on held-out scenes of the pre-training pool."""
    rng = np.random.default_rng(10_000_019)
    right: dict[str, list[float]] = defaultdict(list)
    for _ in range(pictures // 32):
        pixels, tokens, boxes, families = draw_batch(grounder, rng, "pretraining", 32, 6)
        found, _ = grounder.decode(grounder.net.encode(pixels), tokens)
        for i, names in enumerate(families):
            for j, family in enumerate(names):
                box, gold = Box(*found[i, j].tolist()), Box(*boxes[i, j].tolist())
                hit = float(box.iou(gold) > 0.5)
                right[family].append(hit)
                right["all"].append(hit)
    return {family: round(float(np.mean(right[family])), 4) for family in ["all", *FAMILIES]}


def main() -> None:
    """Train, log one JSON line every 200 steps, and save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--expressions", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--start", type=Path, help="go on from the weights in this folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng([options.seed, 77])
    grounder = (
        TinyGrounder.load(options.start)
        if options.start
        else TinyGrounder(TinyGrounderNet(TinyGrounderConfig(VOCABULARY)))
    )
    net = grounder.net
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.lr, weight_decay=0.02)
    options.out.mkdir(parents=True, exist_ok=True)
    began, losses = time.perf_counter(), []
    for step in range(1, options.steps + 1):
        share = step / options.steps
        rate = options.lr * min(1.0, step / 200) * (0.5 * (1 + math.cos(math.pi * share)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = rate
        pixels, tokens, boxes, _ = draw_batch(
            grounder, rng, "pretraining", options.pictures, options.expressions
        )
        loss = net.negative_log_likelihood(net.encode(pixels), tokens, boxes)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if step % 200 == 0 or step == options.steps:
            row = {"step": step, "loss": round(float(np.mean(losses[-200:])), 4)}
            row |= {"minutes": round((time.perf_counter() - began) / 60, 1)}
            if step % 1000 == 0 or step == options.steps:
                row |= evaluate(grounder, 320)
                grounder.save_as(options.out, torch.float16)
            with (options.out / "pretraining.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
