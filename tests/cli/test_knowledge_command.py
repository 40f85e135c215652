"""`groundling tagger knowledge`, from posts to a tagger that reads what was written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_taggers
import torch
from fault_server import Act, Asked, FaultServer, refused, said

from groundling.cli import main
from groundling.config import dump_yaml
from groundling.config_gmner import TaggerConfig, TaggerOptimiser, TaggingConfig, TextData
from groundling.data.jsonl import write_posts
from groundling.data.knowledge import read_knowledge
from groundling.fitted import open_fitted
from groundling.models.taggers.encoder import EncoderTagger
from groundling.records import Post
from groundling.tagging import read_texts
from groundling.toyworld.posts import write_world

POSTS = [
    Post(f"p{number}", post.tokens, post.entities) for number, post in enumerate(tiny_taggers.POSTS)
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with posts, to be in."""
    monkeypatch.chdir(tmp_path)
    Path("posts").mkdir()
    for split in ("train", "dev", "test"):
        write_posts(f"posts/{split}.jsonl", [Post(f"{split}-{p.id}", *rest(p)) for p in POSTS])


def rest(post: Post) -> tuple[Any, Any]:
    return post.tokens, post.entities


def author(asked: Asked) -> Act:
    """Knows every post but the one about NASA, for which the server is down."""
    own = re.findall(r"^Post: (.*)$", asked.text, re.M)[-1]
    if own == "NASA calls":
        return refused(500)
    told = {"reasoning": f"about {own.split()[0]}", "entities": []}
    return said(json.dumps(told))


def command(server: FaultServer, *more: str) -> list[str]:
    words = ["tagger", "knowledge", "posts", "--examples", "posts", "--out", "words", "--quiet"]
    keys = {"endpoint": server.url, "model": "m", "attempts": "1", "api_key_env": "null"}
    return [*words, *(f"--set=endpoint.{key}={value}" for key, value in keys.items()), *more]


def test_what_an_llm_wrote_reaches_the_tagger_and_is_masked_from_its_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with FaultServer(script=author) as server:
        assert main(command(server, "--set", "tolerate=0.2")) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "words/train.jsonl: words about 5 of 6 posts"
    assert "1 × HTTP 500" in told[1]
    assert told[2] == "  6 were asked about without a picture"
    assert told[3].startswith("words/dev.jsonl: ")
    assert told[-1].startswith("5 calls, "), "equal posts of other splits are asked about once"

    encoder = Path("encoder")
    tiny_taggers.bert().save_pretrained(encoder)
    tiny_taggers.wordpiece().save_pretrained(encoder)
    config = TaggingConfig(
        data=TextData(source="posts", knowledge="words"),
        tagger=TaggerConfig(path="encoder", knowledge=True, max_length=64, device="cpu"),
        tuning=TaggerOptimiser(lr=1e-3, batch_size=4, epochs=1),
    )
    Path("knowing.yaml").write_text(dump_yaml(config))
    fit = ["tagger", "fit", "--config", "knowing.yaml", "--out", "run", "--quiet"]
    assert main(fit) == 0
    table = capsys.readouterr().out
    for split in ("train", "dev", "test"):
        assert f"{split:6}1 of 6 posts have no knowledge\n" in table

    tagger: Any = open_fitted(Path("run"))[0]
    assert isinstance(tagger, EncoderTagger)
    posts = read_texts(config.data, ["train"])["train"]
    pieces = tagger.pieces.tokenizer
    for post in posts:
        (window,) = tagger.pieces.windows(post)
        second = [i for i, part in zip(window.ids, window.segments, strict=True) if part]
        read = "".join(pieces.convert_ids_to_tokens(second)).replace("##", "")
        first = post.tokens[0].lower()
        expected = "" if first == "nasa" else f"namedentities:none.about{first}[SEP]"
        assert read == expected
        assert len(window.words) == len(post.tokens), "labels are for the words of the post alone"
    inputs = tagger.inputs(posts)
    assert tagger.net(inputs).shape[:2] == (6, max(len(post.tokens) for post in posts))
    blind = [Post(post.id, post.tokens, post.entities) for post in posts]
    assert not torch.allclose(tagger.net.eval()(inputs)[0], tagger.net(tagger.inputs(blind))[0])

    tag = ["tagger", "tag", "run", "posts", "--knowledge", "words/test.jsonl", "--quiet"]
    assert main([*tag, "--out", "m.jsonl"]) == 0
    assert "1 of 6 posts have no knowledge" in capsys.readouterr().out


def test_the_same_command_asks_only_for_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with FaultServer(script=author) as server:
        assert main(command(server, "--split", "train")) == 2
        told = capsys.readouterr()
        assert "train: 1 of 6 questions failed at the endpoint, first: HTTP 500" in told.err
        assert told.err.count("\n") == 1
        assert not Path("words/train.jsonl").exists()
        first = len(server.asked)
        assert main(command(server, "--split", "train")) == 2
        assert len(server.asked) == first + 1
    capsys.readouterr()
    with FaultServer(said('{"reasoning": "r", "entities": []}')) as server:
        assert main(command(server, "--split", "train", "--json")) == 0
        assert len(server.asked) == 1
    told = json.loads(capsys.readouterr().out)
    counts = {"posts": 6, "told": 6, "without_picture": 6, "unreadable_example_pictures": 0}
    assert told["splits"] == {"train": {**counts, "failed": {}}}
    assert (told["out"], told["calls"]) == ("words", 1)
    assert {path.name for path in Path("words").iterdir()} == {"train.jsonl", "answers"}


def test_a_budget_is_kept_and_raised_later(capsys: pytest.CaptureFixture[str]) -> None:
    prices = ["--set=endpoint.price_input=1.0", "--set=endpoint.price_output=1.0"]
    prices += ["--split=train", "--set=endpoint.concurrency=1", "--set=examples=0"]
    script = said('{"reasoning": "r", "entities": []}')
    with FaultServer(script) as server:
        assert main(command(server, *prices, "--set=endpoint.budget=0.002")) == 2
        assert "questions failed at the endpoint" in capsys.readouterr().err
        paid = len(server.asked)
        assert 0 < paid < 6
        assert main(command(server, *prices, "--set=endpoint.budget=1.0")) == 0
        assert len(server.asked) == 6, "what was paid for is not paid for again"


def test_reasons_are_told_with_the_examples() -> None:
    lines = [{"id": f"train-{post.id}", "knowledge": f"Reason {post.id}."} for post in POSTS]
    Path("reasons").mkdir()
    Path("reasons/why.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with FaultServer(script=author) as server:
        words = command(server, "--split=test", "--reasons=reasons/why.jsonl")
        assert main([*words, "--set=tolerate=0.2", "--set=examples=2"]) == 1
        assert all(asked.text.count("\nWhy: Reason p") == 2 for asked in server.asked)


def test_the_whole_path_with_the_simulated_annotator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world := tmp_path / "world").mkdir()
    write_world(world, {"train": 24, "dev": 6}, seed=3)
    words = ["tagger", "knowledge", "world", "--images", "world/images", "--examples", "world"]
    words += ["--out", "knowing", "--set", "simulator.skill=1.0"]
    assert main([*words, "--quiet", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    splits = read_texts(TextData(source="world", knowledge="knowing"), ["train", "dev"])
    for name, posts in splits.items():
        counts = summary["splits"][name]
        assert (counts["told"], counts["without_picture"]) == (len(posts), 0)
        assert counts["failed"] == {}
        for post in posts:
            for entity in post.entities:
                assert f"{entity.name} ({entity.type})" in post.knowledge
    told = read_knowledge(Path("knowing/train.jsonl"))
    assert all(len(one.examples) == 5 and one.about not in one.examples for one in told)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["posts", "--split", "extra"], "no split 'extra'; it holds train, dev, test"),
        (["posts", "--examples", "posts", "--examples-split", "x"], "no split 'x'"),
        (["posts", "--examples", "bare.jsonl"], "no post has an entity; wanted annotated posts"),
        (["posts"], "--examples: missing; name annotated posts, or ask without any"),
        (["posts", "--out", "posts"], "posts lies there; name another folder"),
        (["posts", "--out", "bare.jsonl"], "--out bare.jsonl: a file; wanted a folder"),
        (["posts", "--examples", "bare.jsonl", "--out", "."], "bare.jsonl lies there"),
        (["posts", "--set", "exampels=1"], "did you mean examples"),
    ],
)
def test_a_wrong_call_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_posts("bare.jsonl", [Post("1", ("a",))])
    where = [] if "--out" in words else ["--out", "words"]
    assert main(["tagger", "knowledge", *words, *where, "--set", "simulator.skill=1.0"]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert not Path("words").exists()
