from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_taggers

from groundling.cli import main
from groundling.data.jsonl import read_predictions, write_posts
from groundling.records import Post

POSTS = [
    Post(f"p{number}", post.tokens, post.entities)
    for number, post in enumerate(tiny_taggers.POSTS * 2)
]
RECIPE = """
data: {source: posts}
tagger: {backend: bilstm, word_size: 12, hidden_size: 16, dropout: 0.0, device: cpu}
tuning: {lr: 2e-2, batch_size: 4, epochs: 12}
patience: null
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a recipe and posts, to be in."""
    monkeypatch.chdir(tmp_path)
    Path("posts").mkdir()
    for split in ("train", "dev", "test"):
        write_posts(f"posts/{split}.jsonl", POSTS)
    Path("small.yaml").write_text(RECIPE)


def test_fit_then_tag_then_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tagger", "fit", "--config", "small.yaml", "--seed", "3", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "test  span        100.00" in told
    assert "run: runs/small-seed3" in told
    run = "runs/small-seed3"
    words = ["tagger", "tag", run, "posts", "--out", "m.jsonl", "--device", "cpu", "--quiet"]
    assert main(words) == 0
    entities = sum(len(post.entities) for post in POSTS)
    assert capsys.readouterr().out == f"m.jsonl: 12 posts, {entities} mentions, 0 error records\n"
    assert read_predictions("m.jsonl") == read_predictions(f"{run}/predictions/test.jsonl")
    assert main(["score", "m.jsonl", "--gold", "posts/test.jsonl", "--rule", "span"]) == 0


def test_json_is_what_metrics_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tagger", "fit", "--config", "small.yaml", "--out", "run", "--quiet", "--json"]
    assert main([*words, "--set", "tuning.epochs=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(Path("run/metrics.json").read_text()) | {"run": "run"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fit", "--config", "none.yaml"], "none.yaml: no such file"),
        (["fit", "--config", "small.yaml", "--set", "tuning.lrr=1"], "did you mean tuning.lr"),
        (["fit", "--config", "small.yaml", "--set", "data.source=x"], "x: no such file or folder"),
        (
            ["tag", "posts", "posts", "--out", "m.jsonl"],
            "posts: holds no tagger of this version; name a run of",
        ),
        (["tag", "posts", "posts", "--out", "m.txt"], "wanted a name that ends in .jsonl"),
    ],
)
def test_a_wrong_call_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tagger", *words]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
