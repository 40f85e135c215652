"""Posts with pictures on disk, and commands run against a local server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from groundling.cli import main
from groundling.data.jsonl import write_posts
from groundling.records import Box, Entity, Post

BOX = Box(16, 12, 48, 36)


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code and the two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def write_data(folder: Path, count: int) -> Path:
    """`count` posts, each with an entity in its picture and one that is not; pictures 64 × 48."""
    posts = []
    for number in range(count):
        path = folder / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (number * 7 % 256, 90, 30)).save(path)
        entities = (
            Entity(f"Ann{number}", "PER", 0, 1, (BOX,)),
            Entity("Paris", "LOC", 1, 2),
        )
        posts.append(Post(str(number), (f"Ann{number}", "Paris"), entities, str(path)))
    write_posts(folder / "posts.jsonl", posts)
    return folder / "posts.jsonl"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """Run a command in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    streams = capsys.readouterr()
    return Outcome(code, streams.out, streams.err)
