"""kill -9 while a tagger is trained, the same command again: the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_taggers
from test_resume import artefacts, run_until_killed

from groundling.config_gmner import TaggerConfig, TaggerOptimiser, TaggingConfig, TextData
from groundling.data.jsonl import write_posts
from groundling.records import Post
from groundling.settings import dump_yaml

POSTS = [
    Post(f"p{number}", post.tokens, post.entities)
    for number, post in enumerate(tiny_taggers.POSTS * 4)
]


def write_recipe(folder: Path, tagger: TaggerConfig, epochs: int) -> Path:
    (folder / "posts").mkdir()
    for split, posts in {"train": POSTS, "dev": POSTS[:12], "test": POSTS[6:18]}.items():
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
    assert "tagger/model.safetensors" in got
    return struck


def test_a_kill_within_the_fit(tmp_path: Path) -> None:
    tagger = TaggerConfig(backend="bilstm", word_size=12, hidden_size=16)
    assert check(write_recipe(tmp_path, tagger, 8), tmp_path, [("fit", 0.3)]) == 1


@pytest.mark.slow
def test_kills_anywhere_in_the_run_of_an_encoder(tmp_path: Path) -> None:
    tiny_taggers.bert().save_pretrained(tmp_path / "bert")
    tiny_taggers.wordpiece().save_pretrained(tmp_path / "bert")
    tagger = TaggerConfig(path=str(tmp_path / "bert"), characters=True, max_length=32)
    rng = random.Random(3)
    stages = ["fit"] * 8 + ["evaluate-dev", "evaluate-test"] * 2
    kills = [(stage, rng.uniform(0.0, 1.5)) for stage in stages]
    assert check(write_recipe(tmp_path, tagger, 12), tmp_path, kills) >= 6
