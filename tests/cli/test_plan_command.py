from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundling.cli import main

RECIPE = """\
data: {gmner: {source: FOLDER, images: FOLDER}}
experts: {path: FOLDER/recipe.yaml}
writer: {backend: local, path: Qwen/Qwen2-VL-2B-Instruct, dtype: bfloat16, checkpointing: true}
grounder: {backend: ofa, path: OFA-Sys/ofa-base}
sft: {micro_batch: 4}
dpo: {micro_batch: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "recipe.yaml"
    for part in ("txt", "xml"):
        (tmp_path / part).mkdir()
    (tmp_path / "txt" / "train.txt").write_text("")
    file.write_text(RECIPE.replace("FOLDER", str(tmp_path)))
    return str(file)


def test_a_run_that_fits(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--device-memory", "40", "--device", "A100"]) == 0
    out = capsys.readouterr().out
    assert "writer   Qwen/Qwen2-VL-2B-Instruct: 2.21 B parameters" in out
    assert out.splitlines()[-1].startswith("fits: ")


def test_a_run_that_does_not(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--device-memory", "12", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "does not fit"
    assert found["changes"]
    words = [f"--set={key}={json.dumps(value)}" for key, value in found["changes"].items()]
    assert main(["plan", recipe, "--device-memory", "12", *words]) == 0


def test_the_keys_of_its_json_are_in_its_help(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["plan", recipe, "--device-memory", "80", "--json"])
    found = json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    described = capsys.readouterr().out
    assert all(key in described for key in [*found, *found["stages"][0], *found["device"]])


def test_the_embedded_recipe_is_planned_on_this_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    toy = Path(__file__).parents[2] / "recipes" / "toy.yaml"
    assert main(["plan", str(toy), "--device-memory", "8", "--set", "writer.device=cpu"]) == 0
    assert "fits: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "no such file"),
        (["RECIPE", "--set", "writer.paht=x"], "did you mean"),
        (["RECIPE", "--set", "writer.path=Some/Model"], "no config.json here"),
        (["RECIPE", "--devices", "0"], "wanted at least 1"),
        (["RECIPE", "--device-memory", "0"], "wanted GiB above 0"),
        (["RECIPE", "--device-memory", "nan"], "wanted GiB above 0"),
        (["RECIPE", "--device", "abacus"], "no device that is known"),
    ],
)
def test_a_wrong_call_is_one_line(
    recipe: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *(recipe if word == "RECIPE" else word for word in words)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_what_lacks_in_a_direct_recipe_is_told_by_its_own_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "direct.yaml"
    file.write_text("data: {toyworld: {}}\nmodel: {backend: local}\n")
    assert main(["plan", str(file), "--device-memory", "40"]) == 2
    assert "model.path: missing; wanted the folder or hub name" in capsys.readouterr().err
