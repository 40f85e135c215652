"""An ISR run directory written by hand, without any model, for tests of what people see of it.

Post pI shows a man at `GOLD` on the left; every post asks for him, and for someone who is not
there. What each writer answers is told by `RIGHT`: the queries it gets right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from groundling.config import IsrConfig, load_config
from groundling.data.gmner import write_gmner_split
from groundling.data.jsonl import write_predictions
from groundling.records import ABSENT, Box, Entity, Post, PostPrediction, Prediction
from groundling.scoring.floors import mean_person_norm, score_floors
from groundling.scoring.isr import score_isr

POSTS = 14
GOLD = Box(10, 10, 50, 90)
ELSEWHERE = Box(60, 20, 90, 60)
NAMES = ("untuned", "sft", "round-1", "round-2")
RIGHT = {
    "untuned": range(4),
    "sft": range(6),
    "round-1": range(1, 18),
    "round-2": range(2, 24),
}
"""Queries 2i (there) and 2i + 1 (not there) of post i."""


def write_run(
    path: Path, *, rounds: int = 2, name: str = "Ann Lee", expression: str = "the man"
) -> Path:
    """A finished run; the man is called `name`, and boxes are answered with `expression`."""
    posts = _posts(name)
    splits = {"test": posts, "dev": posts[:8], "train": posts[:4]}
    data = path / "data"
    (data / "images").mkdir(parents=True)
    for post in posts:
        Image.new("RGB", (100, 100), "teal").save(data / f"images/{post.id}.jpg")
    sizes = {post.id: (100, 100) for post in posts}
    for split, part in splits.items():
        write_gmner_split(data, split, part, sizes)
    stages = [
        {"name": stage, **_evaluate(path, stage, splits, expression)}
        for stage in NAMES[: 2 + rounds]
    ]
    person = mean_person_norm(splits["train"], sizes)
    floors = {
        called: {
            floor: score.to_json()["accuracy"]
            for floor, score in score_floors(splits[split], sizes, person).items()
        }
        for split, called in (("dev", "validation"), ("test", "test"))
    }
    metrics = {"stages": stages, "selected": stages[-1]["name"], "floors": floors}
    _json(path / "metrics.json", metrics)
    for t in range(1, rounds + 1):
        _json(path / f"rounds/{t}/metrics.json", _round(t))
    config = load_config(IsrConfig, None, {"data.toyworld": {}, "rounds": rounds, "sft_queries": 4})
    given = {"versions": {"python": "3.11.1", "torch": None}, "git": None, "machine": "abacus"}
    identity = {"config": config.model_dump(mode="json"), "provenance": given}
    (path / "config.yaml").write_text(yaml.safe_dump(identity), encoding="utf-8")
    (path / "events.jsonl").write_text("".join(_events()), encoding="utf-8")
    return path


def _posts(name: str) -> list[Post]:
    words = name.split()
    tokens = ("Hi", *words, "and", "Bo")
    there = Entity(name, "PER", 1, 1 + len(words), (GOLD,))
    absent = Entity("Bo", "ORG", 2 + len(words), 3 + len(words))
    return [Post(f"p{i}", tokens, (there, absent)) for i in range(POSTS)]


def _evaluate(
    path: Path, stage: str, splits: dict[str, list[Post]], expression: str
) -> dict[str, Any]:
    folder = path / "predictions" / stage
    folder.mkdir(parents=True)
    scores = {}
    for split, called in (("dev", "validation"), ("test", "test")):
        answers = [
            PostPrediction(post.id, tuple(_answers(post, stage, expression)))
            for post in splits[split]
        ]
        write_predictions(folder / f"{split}.jsonl", answers)
        score = score_isr(splits[split], answers, resamples=50).to_json()
        scores[called] = score | {"verdicts": {"exact": 7, "wrong": 5}}
    _json(path / f"evaluations/{stage}.json", scores)
    return scores


def _answers(post: Post, stage: str, expression: str) -> list[Prediction]:
    first = 2 * int(post.id[1:])
    answers = []
    for query, entity in enumerate(post.entities, start=first):
        there = entity.groundable
        right = query in RIGHT[stage]
        box = (GOLD if right else ELSEWHERE) if there else (None if right else ELSEWHERE)
        words = ABSENT if box is None else expression
        answers.append(Prediction(entity.name, entity.type, box, entity.start, entity.end, words))
    return answers


def _round(t: int) -> dict[str, Any]:
    return {
        "prompts": 40,
        "prompts_unwritten": 1,
        "expressions": 156,
        "expressions_unjudged": 2,
        "mean_reward": {"all": 0.5 + t / 10, "groundable": 0.4 + t / 10, "ungroundable": None},
        "any_success": 0.9,
        "all_success": 0.3,
        "verdicts": {"exact": 100, "ambiguous": 40, "wrong": 14},
        "pairs": {"from_sample": 21, "from_expert": 7},
        "dropped": {"no failure": 11},
    }


def _events() -> list[str]:
    """SFT takes 5 s and is cut short once; a round's draw takes 90 s."""
    rows = [
        ("00:00:00", None, "created"),
        ("00:00:00", "sft", "started"),
        ("00:00:03", "sft", "stopped"),
        ("00:10:00", None, "continued"),
        ("00:10:00", "sft", "started"),
        ("00:10:02", "sft", "finished"),
        ("00:11:00", "round-1-draw", "started"),
        ("00:12:30", "round-1-draw", "finished"),
        ("01:00:00", None, "continued"),
    ]
    return [
        json.dumps(
            {"time": f"2026-11-21T{time}.000+00:00", "stage": stage, "kind": kind, "payload": {}}
        )
        + "\n"
        for time, stage, kind in rows
    ]


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
