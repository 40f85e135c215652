"""`groundling gmner` by hand: whose types count, what is refused, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_taggers
from fault_server import FaultServer, refused, said
from PIL import Image

from groundling.cli import main
from groundling.config_gmner import TaggerConfig, TaggerOptimiser, TaggingConfig, TextData
from groundling.data.jsonl import read_predictions, write_posts
from groundling.records import CCKS, Entity, Post
from groundling.tagging import run_tagging

NAMES = {"NH - 90": "aircraft", "Kursk": "vessel", "Kiel": "location"}


def post(number: int, name: str, image: str | None) -> Post:
    words = tuple(name.split())
    entity = Entity(name, NAMES[name], 1, 1 + len(words))
    return Post(f"p{number}", ("The", *words, "is", "seen", "again"), (entity,), image)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Posts of the CCKS scheme, each with a picture, and a tagger fitted to them."""
    folder = tmp_path_factory.mktemp("gmner")
    Image.new("RGB", (40, 30)).save(folder / "p.png")
    posts = [post(i, name, str(folder / "p.png")) for i, name in enumerate([*NAMES] * 2)]
    (folder / "posts").mkdir()
    for split in ("train", "dev", "test"):
        write_posts(folder / f"posts/{split}.jsonl", posts, CCKS)
    config = TaggingConfig(
        scheme="ccks",
        data=TextData(source=str(folder / "posts")),
        tagger=TaggerConfig(backend="bilstm", word_size=12, hidden_size=16, dropout=0.0),
        tuning=TaggerOptimiser(lr=2e-2, batch_size=4, epochs=12),
        patience=None,
    )
    assert run_tagging(config, folder / "tagger", quiet=True)["fit"]["best_epoch"]
    return folder


@pytest.fixture(autouse=True)
def at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def call(out: Path, *words: str) -> list[str]:
    return ["gmner", "posts/test.jsonl", "--tagger", "tagger", "--out", str(out), "--quiet", *words]


def at_server(server: FaultServer, *words: str) -> list[str]:
    keys = {"endpoint": server.url, "model": "m", "attempts": "1", "backoff_s": "0.001"}
    chosen = [f"endpoint.{key}={value}" for key, value in keys.items()]
    return [
        part for word in (*chosen, "endpoint.api_key_env=null", *words) for part in ("--set", word)
    ]


def test_types_are_those_of_the_tagger(tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    assert main(call(out, "--grounding", "none")) == 0
    said = read_predictions(out, CCKS)
    assert [one.predictions[0].type for one in said] == [*NAMES.values()] * 2
    words = ["tagger", "tag", "tagger", "posts", "--out", str(tmp_path / "m.jsonl"), "--quiet"]
    assert main(words) == 0
    assert read_predictions(tmp_path / "m.jsonl", CCKS)[0].predictions[0].name == "NH - 90"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--grounding", "icl"], "pool: missing; grounding icl needs solved examples"),
        (["--set", "grounding.never=[LOC]"], "grounding.never: unknown type 'LOC'; wanted some of"),
        (["--tagger", "posts"], "posts: holds no tagger of this version; name a run of"),
        (["--set", "endpoint.modle=m", "--grounding", "direct"], "endpoint of direct: "),
        (["--set", "endpoint.model=m", "--set", "simulator.skill=1"], "either endpoint or simul"),
        (
            ["--set", "in_context={text_weight: 0, image_weight: 0, entity_weight: 0}"],
            "one above 0",
        ),
    ],
)
def test_a_wrong_call_is_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--grounding" in words else ["--grounding", "none"]
    assert main(call(tmp_path / "said.jsonl", *given, *words)) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert not (tmp_path / "said.jsonl").exists()


def test_posts_of_other_types_than_the_tagger_s_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_posts(tmp_path / "other.jsonl", tiny_taggers.POSTS)
    words = call(tmp_path / "said.jsonl", "--grounding", "none")
    words[1] = str(tmp_path / "other.jsonl")
    assert main(words) == 2
    assert "unknown entity type 'PER'; wanted one of aircraft" in capsys.readouterr().err


def test_a_failed_refinement_is_told_and_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "said.jsonl"
    with FaultServer(refused(500)) as server:
        words = at_server(server, "refinement={threshold: 0.0, budget: 0.5}")
        assert main(call(out, "--grounding", "none", *words)) == 1
    told = capsys.readouterr().out
    assert "mentions asked about 3 of 6: 3 failed" in told
    none = json.dumps({"reasoning": "No name.", "entity": None, "type": None})
    with FaultServer(said(none)) as server:
        words = at_server(server, "refinement={threshold: 0.0, budget: 0.5}")
        assert main(call(out, "--grounding", "none", *words)) == 0
    assert "mentions asked about 3 of 6: 3 dropped" in capsys.readouterr().out
    assert sum(len(one.predictions) for one in read_predictions(out, CCKS)) == 3


def test_the_pool_may_be_any_data_set_and_needs_no_other_split(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    write_posts(tmp_path / "pool/train.jsonl", [post(9, "Kiel", "p.png")], CCKS)
    out = tmp_path / "said.jsonl"
    with FaultServer(said(json.dumps({"box": [0, 0, 500, 1000]}))) as server:
        words = at_server(server, f"pool.source={tmp_path / 'pool'}", "grounding.never=[location]")
        assert main(call(out, "--grounding", "icl", *words)) == 0
        assert {len(asked.pictures) for asked in server.asked} == {2}
        assert len(server.asked) == 2, "about two names; nobody is asked where a location is"
    boxes = [one.predictions[0].box for one in read_predictions(out, CCKS)]
    assert [box and box.xyxy for box in boxes] == [(0, 0, 20, 30), (0, 0, 20, 30), None] * 2


def test_direct_answers_are_kept_one_by_one(tmp_path: Path) -> None:
    """One failed question of a chunk does not cost the others again."""
    box = said("[0, 0, 500, 1000]")
    with FaultServer(refused(500), box) as server:
        words = call(tmp_path / "said.jsonl", "--grounding", "direct", *at_server(server))
        words += ["--set", "endpoint.concurrency=1"]
        assert [main(words), main(words), main(words)] == [1, 0, 0]
        assert len(server.asked) == 3 + 1, "three names, one of them again"
