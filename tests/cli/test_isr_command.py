from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from written_run import write_run

from groundling.cli import main
from groundling.config import IsrConfig
from groundling.errors import RunError

ROOT = Path(__file__).parents[2]
Calls = list[tuple[IsrConfig, Path, dict[str, bool]]]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the flow was called with; instead of running it a hand-written run is put there."""
    seen: Calls = []

    def run_isr(config: IsrConfig, out: Path, **manner: bool) -> Any:
        seen.append((config, out, manner))
        shutil.rmtree(out, ignore_errors=True)
        write_run(out)
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))

    monkeypatch.setattr("groundling.isr.run_isr", run_isr)
    monkeypatch.chdir(tmp_path)
    return seen


def test_a_recipe_runs_and_is_told(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "short.yaml"
    recipe.write_text("seed: 3\ndata: {toyworld: {}}\nrounds: 2\n", encoding="utf-8")
    assert main(["isr", "--config", str(recipe), "--set", "dpo.lr=2e-4", "--quiet"]) == 0
    [(config, out, manner)] = calls
    assert (config.seed, config.rounds, config.dpo.lr) == (3, 2, 2e-4)
    assert manner == {"quiet": True, "retry": False}
    assert out == Path("runs/isr-short-seed3")
    assert (out / "report.html").is_file()
    text = capsys.readouterr().out
    lines = text.splitlines()
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    for stage, line in zip(metrics["stages"], lines[1:], strict=False):
        assert line.split()[0] == stage["name"]
        assert line.split()[2] == f"{stage['test']['accuracy']['all']:.2f}"
    assert "selected on validation" in lines[4]
    assert lines[-1] == "report: runs/isr-short-seed3/report.html"
    assert "\u00a0" not in text


def test_options_stand_above_the_recipe(calls: Calls, tmp_path: Path) -> None:
    recipe = tmp_path / "short.yaml"
    recipe.write_text("seed: 3\ndata: {toyworld: {}}\nrounds: 2\n", encoding="utf-8")
    words = ["--set", "seed=4", "--seed", "5", "--rounds", "1", "--out", "here"]
    assert main(["isr", "--config", str(recipe), *words, "--retry"]) == 0
    [(config, out, manner)] = calls
    assert (config.seed, config.rounds, out) == (5, 1, Path("here"))
    assert manner == {"quiet": False, "retry": True}


def test_json_is_the_metrics(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text("data: {toyworld: {}}\nrounds: 2\n", encoding="utf-8")
    assert main(["isr", "--config", "r.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [(_, out, _)] = calls
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert told.items() >= metrics.items()
    assert told["report"] == str(out / "report.html")


def test_the_demo_is_the_packaged_recipe(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    assert main(["demo", "--seed", "2", "--open"]) == 0
    [(config, out, manner)] = calls
    raw = yaml.safe_load((ROOT / "recipes" / "toy.yaml").read_text(encoding="utf-8"))
    assert config.prompts_per_round == raw["prompts_per_round"]
    assert (config.seed, out) == (2, Path("runs/isr-toy-seed2"))
    assert manner == {"quiet": False, "retry": False}
    assert opened == [(Path.cwd() / out / "report.html").as_uri()]
    assert "no browser found" in capsys.readouterr().err


def test_stopping_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("groundling.isr.run_isr", stop)
    assert main(["demo", "--out", "runs/x"]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "groundling: stopped; the same command continues the run in runs/x\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "dpo.lrr=1"], "dpo.lrr: unknown key; did you mean dpo.lr?"),
        (["--set", "lr"], "wanted KEY=VALUE"),
        (["--seed", "-1"], "error: --seed: got -1; wanted a whole number from 0 to"),
        (["--rounds", "-1", "--set", "samples=0"], "error: --rounds: got -1; wanted 0 or more"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    words: list[str], said: str, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text("data: {toyworld: {}}\nrounds: 2\n", encoding="utf-8")
    assert main(["isr", "--config", "r.yaml", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
    assert not calls


def test_a_run_of_another_configuration_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RunError("runs/x: the run belongs to another configuration")

    monkeypatch.setattr("groundling.isr.run_isr", refuse)
    assert main(["demo", "--out", "runs/x"]) == 2
    assert capsys.readouterr().err.startswith("groundling: error: runs/x: the run belongs")


def test_help_shows_every_key_and_runnable_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["isr", "--help"])
    text = capsys.readouterr().out
    for key in ("  dpo.beta: a number", "  rounds: a whole number", "  data.toyworld.test_queries"):
        assert key in text
    for line in text.splitlines():
        if "groundling isr --config" in line:
            assert (ROOT / line.split()[3]).is_file()
