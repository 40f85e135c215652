import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_floors import FACTS

from groundling.cli import score as command
from groundling.data.gmner import write_gmner_split
from groundling.data.jsonl import write_posts, write_predictions
from groundling.errors import DataError, InputError
from groundling.records import Box, Entity, FailedEntity, Failure, Post, PostPrediction, Prediction
from groundling.scoring import RULES

TYPES = {"PER", "LOC", "ORG", "MISC", "all"}
FIGURES = {"precision", "recall", "f1", "right", "predicted", "gold", "f1_interval"}


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="groundling")
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["score", *map(str, words)])
    code = args.func(args)
    assert isinstance(code, int)
    return code


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.fixture
def gold(tmp_path: Path, parade: Post) -> Path:
    """A twitter-gmner folder: test has `parade` and a post without pictures, train one person."""
    bare = Post("p2", ("hi", "Cy"), (Entity("Cy", "MISC", 1, 2),))
    person = Post("t1", ("Di",), (Entity("Di", "PER", 0, 1, (Box(50, 50, 90, 90),)),))
    folder = tmp_path / "gold"
    write_gmner_split(folder, "test", [parade, bare], {"p1": (100, 100)})
    write_gmner_split(folder, "train", [person], {"t1": (100, 100)})
    return folder


@pytest.fixture
def pred(tmp_path: Path) -> Path:
    path = tmp_path / "pred.jsonl"
    answers = (
        Prediction("Ann", "PER", Box(50, 50, 90, 90), 0, 1),
        Prediction("Bo", "ORG", None, 2, 3),
        Prediction("Ann", "PER", None, 4, 5),
    )
    write_predictions(
        path,
        [
            PostPrediction("p1", answers),
            PostPrediction("p2", (Prediction("Cy", "MISC", None, 1, 2),)),
        ],
    )
    return path


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    path = tmp_path / "worse.jsonl"
    bo = Prediction("Bo", "ORG", None)
    failed = PostPrediction("p2", failure=Failure("timeout", "sample"))
    write_predictions(path, [PostPrediction("p1", (bo,)), failed, PostPrediction("p9", (bo,))])
    return path


def test_isr_json(pred: Path, gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pred, "--gold", gold, "--split", "test", "--rule", "isr", "--json") == 0
    values, err = printed(capsys)
    assert err == ""
    assert (values["rule"], values["split"]) == ("isr", "test")
    assert all(
        set(values[row]) == TYPES for row in ("accuracy", "largest", "groundable", "ungroundable")
    )
    assert values["accuracy"] == {"PER": 50.0, "LOC": None, "ORG": 100.0, "MISC": 100.0, "all": 75}
    assert values["interval"]["all"][0] <= 75 <= values["interval"]["all"][1]
    assert values["posts"] == {"gold": 2, "absent": 0, "failed": 0, "foreign": 0}


@pytest.mark.parametrize("rule", ["riveg", "refineg", "span"])
def test_triple_json(rule: str, pred: Path, gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pred, "--gold", gold, "--split", "test", "--rule", rule, "--json") == 0
    values, err = printed(capsys)
    assert err == ""
    assert (values["rule"], values["split"]) == (rule, "test")
    for task in ("gmner", "eeg", "mner"):
        assert set(values[task]) == FIGURES
    assert values["mner"]["f1"] == 100.0
    assert values["gmner"]["f1"] == 75.0
    assert values["compared_by"]["mner"] == "span"


def test_type_other_is_misc(tmp_path: Path, gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"id": "p2", "entities": [{"name": "Cy", "type": "OTHER", "box": null}]}\n')
    assert run(path, "--gold", gold, "--rule", "riveg", "--json") == 0
    values, err = printed(capsys)
    assert values["gmner"]["right"] == 1
    assert "of 2 gold posts 1 absent" in err


def test_what_costs_points_is_said(
    worse: Path, gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(worse, "--gold", gold, "--rule", "span", "--json") == 0
    values, err = printed(capsys)
    assert values["posts"] == {"gold": 2, "absent": 0, "failed": 1, "foreign": 1}
    lines = err.splitlines()
    assert "1 error records" in lines[0]
    assert "not in split test: 1 (first: p9)" in lines[1]
    assert "without start and end: 2" in lines[2]
    assert (values["gmner"]["right"], values["gmner"]["predicted"]) == (0, 2)


@pytest.mark.parametrize("rule", RULES)
def test_against(
    rule: str, pred: Path, worse: Path, gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (pred, "--gold", gold, "--rule", rule, "--against", worse, "--resamples", "50")
    assert run(*words, "--json") == 0
    values, _ = printed(capsys)
    change = values["against"]["accuracy" if rule == "isr" else "mner"]
    assert change["difference"] > 0
    assert 0 < change["p_value"] <= 1
    assert ("mcnemar" in values["against"]) == (rule == "isr")
    assert values["against"]["file"] == str(worse)
    assert run(*words) == 0
    assert f"Against {worse}" in capsys.readouterr().out


@pytest.mark.parametrize("rule", RULES)
def test_text_names_its_rule(
    rule: str, pred: Path, gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pred, "--gold", gold, "--rule", rule, "--resamples", "0") == 0
    text = capsys.readouterr().out
    assert f"Rule {rule}:" in text
    assert "not comparable" in text
    assert "75.00" in text


def test_floors_of_a_folder(gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--floors", "--gold", gold, "--split", "test", "--json") == 0
    values, err = printed(capsys)
    assert err == ""
    assert values["none"] == {"PER": 0.0, "LOC": None, "ORG": 100.0, "MISC": 100.0, "all": 50.0}
    assert values["whole"]["all"] == 0.0
    assert values["mean-person"]["all"] == 100.0
    assert values["oracle-whole"]["all"] == 50.0
    assert run("--floors", "--gold", gold) == 0
    text = capsys.readouterr().out
    assert "Floors under rule isr" in text
    assert "mean-person" in text


def test_floors_of_a_file_take_sizes_from_pictures(
    tmp_path: Path, parade: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "p1.png")
    shown = Post(parade.id, parade.tokens, parade.entities, str(tmp_path / "p1.png"))
    blind = Post("p2", ("Cy",), (Entity("Cy", "PER", 0, 1, (Box(0, 0, 5, 5),)),))
    path = tmp_path / "posts.jsonl"
    write_posts(path, [shown, blind])
    assert run("--floors", "--gold", path, "--split", "test", "--json") == 0
    values, err = printed(capsys)
    assert values["mean-person"] is None
    assert "--train" in err
    assert "1 of 2 posts have no readable picture" in err
    assert run("--floors", "--gold", path, "--train", path, "--json") == 0
    values, _ = printed(capsys)
    assert values["split"] == "posts"
    assert values["mean-person"]["PER"] == pytest.approx(66.67)


def test_gold_may_be_a_posts_file(
    tmp_path: Path, pred: Path, parade: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "posts.jsonl"
    write_posts(path, [parade])
    assert run(pred, "--gold", path, "--split", "test", "--rule", "riveg", "--json") == 0
    values, err = printed(capsys)
    assert values["gmner"]["gold"] == 3
    assert "first: p2" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no predictions given"),
        (["PRED", "--floors"], "--floors scores no predictions"),
        (["--floors", "--rule", "span"], "rule isr"),
        (["PRED", "--train", "x"], "--floors only"),
        (["PRED", "--resamples", "-1"], "0 or more"),
        (["PRED", "--split", "dev"], "no split 'dev'"),
        (["missing.jsonl"], "missing.jsonl"),
        (["PRED", "--against", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_wrong_calls(words: list[str], message: str, pred: Path, gold: Path) -> None:
    words = [str(pred) if word == "PRED" else word for word in words]
    with pytest.raises(InputError, match=message) as caught:
        run(*words, "--gold", gold)
    assert "\n" not in str(caught.value)


def test_wrong_files(tmp_path: Path, pred: Path, gold: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        run(pred, "--gold", tmp_path / "nowhere")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "p1", "entities": []}\nnot json\n')
    with pytest.raises(DataError, match=r"broken.jsonl:2"):
        run(broken, "--gold", gold)


def test_rule_names_are_those_of_the_library() -> None:
    assert command.RULE_NAMES == RULES


def test_help_shows_examples_and_stays_light() -> None:
    code = (
        "import argparse, sys\n"
        "from groundling.cli import score\n"
        "parser = argparse.ArgumentParser(prog='groundling')\n"
        "score.add_parser(parser.add_subparsers())\n"
        "try:\n    parser.parse_args(['score', '--help'])\n"
        "finally:\n    assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "groundling score --floors --gold" in done.stdout
    examples = [line for line in done.stdout.splitlines() if line.startswith("  groundling score")]
    assert len(examples) == 5
    parser = argparse.ArgumentParser(prog="groundling")
    command.add_parser(parser.add_subparsers())
    for line in examples:
        parser.parse_args(line.split()[1:])


def test_documented_commands_parse_and_floors_are_the_tested_ones() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
    commands = [line.split() for line in page.splitlines() if line.startswith("    groundling")]
    assert len(commands) == 6
    parser = argparse.ArgumentParser(prog="groundling")
    command.add_parser(parser.add_subparsers())
    for words in commands:
        parser.parse_args(words[1:])
    for figures in FACTS.values():
        assert " | ".join(f"{figure:.2f}" for figure in figures) in page


def test_the_same_call_prints_the_same(
    pred: Path, gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for _ in range(2):
        run(pred, "--gold", gold, "--rule", "isr", "--seed", "4", "--json")
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_field_r5_score_says_how_many_entities_failed(
    tmp_path: Path, gold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.jsonl"
    lost = FailedEntity("Bo", "ORG", Failure("timeout", "sample"))
    ann = Prediction("Ann", "PER", Box(0, 0, 1, 1))
    write_predictions(path, [PostPrediction("p1", (ann,), failed=(lost,))])
    assert run(path, "--gold", gold, "--split", "test", "--rule", "isr", "--json") == 0
    values, _ = printed(capsys)
    told = f"{path}: 1 entities of answered posts are errors; they count as wrong"
    assert told in "\n".join(values["warnings"])
    assert values["accuracy"]["ORG"] == 0
