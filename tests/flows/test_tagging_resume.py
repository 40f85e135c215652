"""kill -9 while a tagger is trained, the same command again: the same bytes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_taggers
from PIL import Image
from test_resume import artefacts, run_until_killed

from groundling.config_gmner import (
    TaggerConfig,
    TaggerOptimiser,
    TaggingConfig,
    TextData,
    UncertaintyConfig,
    VisionConfig,
)
from groundling.data.jsonl import write_posts
from groundling.records import Post
from groundling.settings import dump_yaml

POSTS = [
    Post(f"p{number}", post.tokens, post.entities)
    for number, post in enumerate(tiny_taggers.POSTS * 4)
]


def draw_pictures(folder: Path) -> list[Post]:
    """The posts with a picture each, but for every third."""
    folder.mkdir()
    posts = []
    for number, post in enumerate(POSTS):
        path = folder / f"{post.id}.png"
        Image.new("RGB", (20, 20), (5 * number, 90, 250 - 5 * number)).save(path)
        posts.append(replace(post, image=str(path)) if number % 3 else post)
    return posts


def write_recipe(
    folder: Path, tagger: TaggerConfig, epochs: int, given: Sequence[Post] = POSTS
) -> Path:
    (folder / "posts").mkdir()
    for split, posts in {"train": given, "dev": given[:12], "test": given[6:18]}.items():
        write_posts(folder / "posts" / f"{split}.jsonl", posts)
    config = TaggingConfig(
        data=TextData(source=str(folder / "posts")),
        tagger=tagger,
        tuning=TaggerOptimiser(lr=0.005, batch_size=4, epochs=epochs),
        checkpoint_every_s=0.02,
    )
    path = folder / "recipe.yaml"
    path.write_text(dump_yaml(config))
    return path


def check(recipe: Path, folder: Path, kills: Sequence[tuple[str, float]]) -> int:
    """Run the recipe calmly and under kills, compare; how many kills struck."""
    command = [sys.executable, "-m", "groundling", "tagger", "fit", "--quiet"]
    command += ["--config", str(recipe), "--out"]
    calm, killed = folder / "calm", folder / "killed"
    struck = sum(run_until_killed([*command, str(killed)], killed, *kill) for kill in kills)
    for out in (calm, killed):
        done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    expected, got = dict(artefacts(calm)), dict(artefacts(killed))
    assert got.keys() == expected.keys()
    assert [name for name in got if got[name] != expected[name]] == []
    assert any(name.endswith("model.safetensors") for name in got)
    return struck


def test_a_kill_within_the_fit(tmp_path: Path) -> None:
    tagger = TaggerConfig(backend="bilstm", word_size=12, hidden_size=16)
    assert check(write_recipe(tmp_path, tagger, 8), tmp_path, [("fit", 0.3)]) == 1


def test_kills_within_an_ensemble_that_looks_at_pictures(tmp_path: Path) -> None:
    tagger = TaggerConfig(
        backend="bilstm",
        word_size=12,
        hidden_size=16,
        vision=VisionConfig(grid=2, width=8, heads=2),
        uncertainty=UncertaintyConfig(kind="ensemble", count=3),
    )
    recipe = write_recipe(tmp_path, tagger, 4, draw_pictures(tmp_path / "pictures"))
    assert check(recipe, tmp_path, [("fit", 0.3), ("fit", 0.5)]) >= 1
    members = sorted((tmp_path / "killed/tagger").glob("member-*"))
    assert [path.name for path in members] == ["member-0", "member-1", "member-2"]
    weights = {(path / "model.safetensors").read_bytes() for path in members}
    assert len(weights) == 3, "their seeds differ"
    told = json.loads((tmp_path / "killed/fit.json").read_text())
    assert [len(one["dev_mner_f1"]) for one in told["members"]] == [4, 4, 4]


@pytest.mark.slow
def test_kills_anywhere_in_the_run_of_an_encoder(tmp_path: Path) -> None:
    tiny_taggers.bert().save_pretrained(tmp_path / "bert")
    tiny_taggers.wordpiece().save_pretrained(tmp_path / "bert")
    tagger = TaggerConfig(path=str(tmp_path / "bert"), characters=True, max_length=32)
    rng = random.Random(3)
    stages = ["fit"] * 8 + ["evaluate-dev", "evaluate-test"] * 2
    kills = [(stage, rng.uniform(0.0, 1.5)) for stage in stages]
    assert check(write_recipe(tmp_path, tagger, 12), tmp_path, kills) >= 6
