from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundling import inputs
from groundling.cli import main
from groundling.config import load_config
from groundling.config_gmner import RefinegConfig
from groundling.config_tagger import TaggingConfig
from groundling.inputs import missing_inputs

ISR = """\
data: {gmner: {source: SOURCE, images: no-images}}
experts: {path: no-experts.jsonl}
writer: {backend: local, path: ./no-weights}
"""
REFINEG = """\
data: {gmner: {source: no-posts, images: no-images}}
endpoint: {endpoint: "http://localhost:1/v1", model: m, api_key_env: NO_SUCH_KEY}
tagger: {backend: bilstm, vectors: no-vectors.txt}
grounding: {way: agreement, run: no-run}
"""
TAGGING = """\
data: {source: no-posts, images: no-images, knowledge: no-words}
tagger: {path: ./no-weights}
"""
ALL_OF = {
    "isr": ("data.gmner.images", "experts.path", "writer.path"),
    "refineg": (
        "data.gmner.source",
        "data.gmner.images",
        "tagger.vectors",
        "NO_SUCH_KEY",
        "grounding.run",
    ),
    "tagging": ("data.source", "data.images", "data.knowledge", "tagger.path"),
}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "posts").mkdir()
    (tmp_path / "isr.yaml").write_text(ISR.replace("SOURCE", "posts"))
    (tmp_path / "direct.yaml").write_text(
        "data: {gmner: {source: no-posts, images: no-images}}\n"
        "model: {backend: local, path: ./no-weights}\n"
    )
    (tmp_path / "refineg.yaml").write_text(REFINEG)
    (tmp_path / "tagging.yaml").write_text(TAGGING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["isr", "--config", "isr.yaml"], ALL_OF["isr"]),
        (["plan", "isr.yaml", "--device-memory", "1"], ALL_OF["isr"]),
        (["plan", "direct.yaml"], ("data.gmner.source", "data.gmner.images", "model.path")),
        (
            ["baseline", "direct", "--config", "direct.yaml"],
            ("data.gmner.source", "data.gmner.images", "model.path"),
        ),
        (["refineg", "run", "--config", "refineg.yaml"], ALL_OF["refineg"]),
        (["tagger", "fit", "--config", "tagging.yaml"], ALL_OF["tagging"]),
    ],
    ids=["isr", "plan", "plan-direct", "baseline", "refineg", "tagger"],
)
def test_field_r2_all_that_is_missing_is_told_at_once_and_first(
    words: list[str], wanted: tuple[str, ...], recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert [err.index(key) for key in wanted] == sorted(err.index(key) for key in wanted)
    assert "memory" not in err
    assert not (recipes / "runs").exists()


def test_field_r2_a_plan_of_missing_data_shows_its_figures_and_says_that_it_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "data: {gmner: {source: none, images: nowhere}}\nexperts: {path: gone.jsonl}\n"
    )
    words = ["plan", "r.yaml", "--device-memory", "40", "--device", "A100"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("fits, but cannot run here: 3 inputs are missing")
    assert all(path in err for path in ("none", "nowhere", "gone.jsonl"))
    assert main([*words, "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 3


def test_field_r2_an_ablation_says_what_its_recipe_lacks(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipes / "ablate.yaml").write_text(
        "recipe: toy.yaml\nseeds: [1]\nsft_lrs: [1]\nfull_sft_lrs: [1]\ndpo_lrs: [1]\n"
        "samples: [1]\nstrategies: [full]\n"
    )
    (recipes / "toy.yaml").write_text(
        "data: {toyworld: {}}\nexperts: {path: no-experts.jsonl}\ngrounder: {path: ./no-weights}\n"
    )
    assert main(["ablate", "--config", "ablate.yaml"]) == 2
    err = capsys.readouterr().err
    assert "experts.path: no-experts.jsonl" in err
    assert "grounder.path: ./no-weights" in err
    (recipes / "toy.yaml").write_text(ISR.replace("SOURCE", "posts"))
    assert main(["ablate", "--config", "ablate.yaml"]) == 2
    assert "not the embedded world" in capsys.readouterr().err
    assert not (recipes / "runs").exists()


def test_packages_that_are_not_installed_are_told_with_their_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inputs, "find_spec", lambda _: None)
    settings = {
        "data.toyworld": {},
        "simulator": {},
        "in_context.text_encoder": "minilm",
        "in_context.index": "faiss",
    }
    found = missing_inputs(load_config(RefinegConfig, None, settings))
    assert [told.partition(":")[0] for told in found] == [
        "tagger.path",
        "in_context.text_encoder",
        "in_context.index",
    ]
    assert all("pip install" in told for told in found)
    spacy = {"data.source": ".", "tagger.backend": "spacy", "tuning": None}
    (told,) = missing_inputs(load_config(TaggingConfig, None, spacy))
    assert told.startswith("tagger.backend: spaCy is not installed")
