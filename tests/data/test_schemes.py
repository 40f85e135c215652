"""Types that are not Twitter-GMNER's, from a file to the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from release_files import voc

from groundling.cli import main
from groundling.data.conll import bio_spans, bio_tags
from groundling.data.expressions_jsonl import EntityExpression, read_expressions, write_expressions
from groundling.data.gmner import read_gmner, write_gmner_split
from groundling.data.jsonl import read_posts, read_predictions, write_posts, write_predictions
from groundling.data.schemes import read_scheme
from groundling.data.stats import split_stats
from groundling.errors import DataError, InputError
from groundling.records import CCKS, TWITTER, Box, Entity, Expression, Post, Prediction, Scheme

BIRDS = """\
name: birds
types:
  species: a species of bird
  place: where a bird was seen
written:
  place: LOC
"""
TEXT = "IMGID:p1\nRed\tB-species\nKite\tI-species\nin\tO\nKent\tB-LOC\n\n"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    path = tmp_path / "birds.yaml"
    path.write_text(BIRDS)
    return path


@pytest.fixture
def scheme(birds: Path) -> Scheme:
    return read_scheme(str(birds))


def test_a_scheme_has_a_name_or_a_file(birds: Path, tmp_path: Path) -> None:
    assert read_scheme("twitter") is TWITTER
    assert read_scheme("ccks") is CCKS
    found = read_scheme(str(birds))
    assert (found.name, found.types) == ("birds", ("species", "place"))
    assert found.on_disk("place") == "LOC"
    assert found.parse("loc") == "place"
    assert found.descriptions["species"] == "a species of bird"
    as_json = tmp_path / "birds.json"
    as_json.write_text(json.dumps({"name": "birds", "types": {"species": ""}}))
    assert read_scheme(str(as_json)).types == ("species",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: x\ntypes: {}\n", "wanted one type at least"),
        ("name: x\n", "types: missing"),
        ("name: x\ntypes: {a b: x}\n", "'a b' has white space"),
        ("name: x\ntypes: {a: x, A: y}\n", "'A' means a too"),
        ("name: x\ntypes: {a: x, b: y}\nwritten: {b: A}\n", "'A' means a too"),
        ("name: x\ntypes: {a: x}\nwritten: {b: c}\n", "'b' is none of the types"),
        ("name: x\ntypes: {all: x}\n", "'all' means a column of the scores too"),
        ("name: x\ntypes: {a: x}\nkinds: 3\n", "kinds: unknown key"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_faulty_scheme_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "scheme.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_scheme(str(path))


def test_a_scheme_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no scheme 'brids'; wanted twitter, ccks, or a YAML"):
        read_scheme("brids")


def test_tags_are_those_of_the_scheme(scheme: Scheme) -> None:
    tags = ["B-species", "I-species", "O", "B-LOC", "I-place"]
    spans = bio_spans(tags, scheme)
    assert [(span.type, span.start, span.end) for span in spans] == [
        ("species", 0, 2),
        ("place", 3, 5),
    ]
    entities = [Entity("", span.type, span.start, span.end) for span in spans]
    assert bio_tags(5, entities, scheme) == ["B-species", "I-species", "O", "B-LOC", "I-LOC"]


def test_the_twitter_layout_with_other_types(release: Any, scheme: Scheme, tmp_path: Path) -> None:
    src = release({"test": TEXT}, {"p1": voc(("Red Kite", (1, 2, 9, 8)))})
    split = read_gmner(src, "test", scheme=scheme)
    kite = Entity("Red Kite", "species", 0, 2, (Box(1, 2, 9, 8),))
    assert split.posts[0].entities == (kite, Entity("Kent", "place", 3, 4))
    assert split_stats(split, scheme).entities == {"species": 1, "place": 1, "all": 2}
    write_gmner_split(tmp_path / "out", "test", split.posts, split.xml_sizes, scheme)
    assert (tmp_path / "out" / "txt" / "test.txt").read_text() == TEXT
    with pytest.raises(DataError, match=r"txt:2: tag 'B-species' is unknown; wanted O or B-/I-"):
        read_gmner(src, "test")


def test_json_lines_with_other_types(scheme: Scheme, tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    posts = (Post("p1", ("Kent",), (Entity("Kent", "place", 0, 1),)),)
    with pytest.raises(InputError, match="unknown entity type 'place'; wanted one of PER, LOC"):
        write_posts(path, posts)
    write_posts(path, posts, scheme)
    assert read_posts(path, scheme=scheme).posts == posts
    with pytest.raises(DataError, match=r"entities\[0\]\.type: unknown entity type 'place'"):
        read_posts(path)


def test_expressions_with_other_types(scheme: Scheme, tmp_path: Path) -> None:
    path = tmp_path / "expressions.jsonl"
    expressions = (EntityExpression("p1", "Kent", "place", Expression("the coast", "human")),)
    write_expressions(path, expressions, scheme)
    assert read_expressions(path, scheme) == expressions
    with pytest.raises(DataError, match="unknown entity type 'place'"):
        read_expressions(path)


def test_predictions_may_keep_unknown_types(scheme: Scheme, tmp_path: Path) -> None:
    path = tmp_path / "pred.jsonl"
    line = {"name": "Kent", "type": "county", "box": None}
    path.write_text(json.dumps({"id": "p1", "entities": [line, line | {"type": "LOC"}]}))
    with pytest.raises(DataError, match="unknown entity type 'county'; wanted one of species"):
        read_predictions(path, scheme)
    said = read_predictions(path, scheme, keep_unknown=True)
    assert said[0].predictions == (
        Prediction("Kent", "county", None),
        Prediction("Kent", "place", None),
    )
    again = tmp_path / "again.jsonl"
    with pytest.raises(InputError, match="'county'"):
        write_predictions(again, said, scheme)
    write_predictions(again, said, scheme, keep_unknown=True)
    assert read_predictions(again, scheme, keep_unknown=True) == said


def test_from_a_scheme_file_to_a_score(
    release: Any, birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = release({"test": TEXT}, {"p1": voc(("Red Kite", (1, 2, 9, 8)))})
    pred = tmp_path / "pred.jsonl"
    entities = [
        {"name": "Red Kite", "type": "species", "box": [1, 2, 9, 8]},
        {"name": "Kent", "type": "LOC", "box": [1, 2, 9, 8]},
    ]
    pred.write_text(json.dumps({"id": "p1", "entities": entities}))
    assert main(["data", "check", str(src), "--scheme", str(birds)]) == 0
    assert main(["data", "stats", str(src), "--scheme", str(birds)]) == 0
    heading = capsys.readouterr().out.splitlines()[1].split()
    assert heading == ["split", "species", "place", "all"]
    score = ["score", str(pred), "--gold", str(src), "--scheme", str(birds)]
    assert main([*score, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["accuracy"] == {"species": 100.0, "place": 0.0, "all": 50.0}
    assert list(values["interval"]) == [
        *("species", "place", "all"),
        *("largest", "groundable", "ungroundable"),
    ]
    assert main(score) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Acc@0.5", "species", "place", "all", "95", "%", "of", "all"] in table
    assert main([*score, "--rule", "riveg", "--json", "--against", str(pred)]) == 0
    assert json.loads(capsys.readouterr().out)["gmner"]["f1"] == 50.0
    assert main(["score", "--floors", "--gold", str(src), "--scheme", str(birds), "--json"]) == 0
    floors = json.loads(capsys.readouterr().out)
    assert floors["none"] == {"species": 0.0, "place": 100.0, "all": 50.0}
    assert floors["mean-person"] is None
    assert main(["score", str(pred), "--gold", str(src), "--scheme", "birds"]) == 2
