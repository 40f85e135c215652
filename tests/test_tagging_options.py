"""Runs of taggers that look at pictures, or average what several say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_taggers
from PIL import Image

from groundling import tagging
from groundling.cli import main
from groundling.cli.tagger import metrics_table
from groundling.config import ToyworldData
from groundling.config_gmner import (
    GroundingConfig,
    LabelledData,
    RefinegConfig,
    TaggerConfig,
    TaggerOptimiser,
    TaggingConfig,
    TextData,
    UncertaintyConfig,
    VisionConfig,
)
from groundling.data.gmner import write_gmner_split
from groundling.data.jsonl import read_predictions, write_posts
from groundling.errors import ConfigError, InputError
from groundling.fitted import open_fitted
from groundling.records import Failure, Post
from groundling.refineg import run_refineg
from groundling.rundir import read_events
from groundling.settings import dump_yaml, load_config
from groundling.tagging import member_seeds, pace_of, run_tagging

POSTS = [
    Post(f"p{number}", post.tokens, post.entities)
    for number, post in enumerate(tiny_taggers.POSTS * 2)
]
VISION = VisionConfig(grid=2, width=8, heads=2)
TRIO = UncertaintyConfig(kind="ensemble", count=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "posts"
    folder.mkdir()
    for split, posts in {"train": POSTS, "dev": POSTS[:5], "test": POSTS[6:]}.items():
        write_posts(folder / f"{split}.jsonl", posts)
    return folder


def recipe(source: Path, **tagger: Any) -> TaggingConfig:
    return TaggingConfig(
        data=TextData(source=str(source)),
        tagger=TaggerConfig(
            backend="bilstm", word_size=12, hidden_size=16, dropout=0.3, device="cpu", **tagger
        ),
        tuning=TaggerOptimiser(lr=0.03, crf_lr=0.05, batch_size=4, epochs=6),
        patience=None,
    )


# ------------------------------------------------------------------------------------ uncertainty


def test_an_ensemble_goes_on_with_the_member_it_was_stopped_at(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(data, uncertainty=TRIO)
    calm = run_tagging(config, tmp_path / "calm", quiet=True)
    real, seeds = tagging.fit_stage, list[int]()

    class StopError(Exception):
        pass

    def stopping(*words: Any, **settings: Any) -> Any:
        seeds.append(words[5].seed)
        if len(seeds) == 2:
            raise StopError
        return real(*words, **settings)

    monkeypatch.setattr(tagging, "fit_stage", stopping)
    with pytest.raises(StopError):
        run_tagging(config, tmp_path / "run", quiet=True)
    assert run_tagging(config, tmp_path / "run", quiet=True) == calm
    first, second, third = member_seeds(config)
    assert seeds == [first, second, second, third], "the first was not trained again"
    assert first == config.seed
    assert len({first, second, third}) == 3
    for number in range(3):
        weights = f"tagger/member-{number}/model.safetensors"
        assert (tmp_path / "run" / weights).read_bytes() == (
            tmp_path / "calm" / weights
        ).read_bytes()
    assert not (tmp_path / "run/scratch").exists()


def test_what_an_ensemble_leaves_is_opened_and_told(data: Path, tmp_path: Path) -> None:
    metrics = run_tagging(recipe(data, uncertainty=TRIO), tmp_path / "run", quiet=True)
    assert [len(one["dev_mner_f1"]) for one in metrics["fit"]["members"]] == [6, 6, 6]
    assert metrics_table(metrics).startswith("3 members, epochs ")
    tagger, name = open_fitted(tmp_path / "run")
    said = read_predictions(tmp_path / "run/predictions/test.jsonl")
    assert tagging.ungrounded(POSTS[6:], tagger.tag(POSTS[6:])) == list(said)
    member = tmp_path / "run/tagger/member-1/model.safetensors"
    member.write_bytes((tmp_path / "run/tagger/member-2/model.safetensors").read_bytes())
    assert open_fitted(tmp_path / "run")[1] != name, "a member's weights are part of the name"


def test_passes_with_dropout_have_the_weights_of_the_plain_tagger(
    data: Path, tmp_path: Path
) -> None:
    plain = run_tagging(recipe(data), tmp_path / "plain", quiet=True)
    how = UncertaintyConfig(kind="mc-dropout", count=4)
    metrics = run_tagging(recipe(data, uncertainty=how), tmp_path / "run", quiet=True)
    assert metrics["fit"]["dev_mner_f1"] == plain["fit"]["dev_mner_f1"]
    runs = (tmp_path / "plain", tmp_path / "run")
    first, second = ((run / "tagger/model.safetensors").read_bytes() for run in runs)
    assert first == second
    sure, less = (metrics["scores"]["test"]["confidence"] for metrics in (plain, metrics))
    assert sure["as_fitted"]["confidence"] != less["as_fitted"]["confidence"]
    tagger, _ = open_fitted(tmp_path / "run")
    said = read_predictions(tmp_path / "run/predictions/test.jsonl")
    assert tagging.ungrounded(POSTS[6:], tagger.tag(POSTS[6:])) == list(said)


def test_an_untrained_ensemble_is_refused() -> None:
    wrong = {"data.source": "x", "tuning": None, "tagger.uncertainty.kind": "ensemble"}
    with pytest.raises(ConfigError, match="an ensemble needs tuning"):
        load_config(TaggingConfig, None, wrong)


@pytest.mark.parametrize("backend", ["generative", "spacy"])
def test_what_a_kind_of_tagger_cannot_do_is_refused(backend: str) -> None:
    given = {"data.source": "x", "tuning": None, "tagger.backend": backend}
    with pytest.raises(ConfigError, match=f"backend {backend} does not look at pictures"):
        load_config(TaggingConfig, None, {**given, "tagger.vision.encoder": "cnn"})
    with pytest.raises(ConfigError, match=f"backend {backend} has marginal alone"):
        load_config(TaggingConfig, None, {**given, "tagger.uncertainty.kind": "mc-dropout"})


# ---------------------------------------------------------------------------------------- pictures


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """In the Twitter-GMNER layout; the last post has no picture."""
    folder = tmp_path / "release"
    (folder / "images").mkdir(parents=True)
    for split, posts in {"train": POSTS, "dev": POSTS[:5], "test": POSTS[6:]}.items():
        write_gmner_split(folder, split, posts, {})
    for number, post in enumerate(POSTS[:-1]):
        picture = Image.new("RGB", (20, 20), (20 * number, 90, 0))
        picture.save(folder / "images" / f"{post.id}.jpg")
    return folder


def test_pictures_of_a_release_are_looked_at(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(release, vision=VISION)
    with pytest.raises(InputError, match=r"no post to learn from has a picture"):
        run_tagging(config, tmp_path / "blind", quiet=True)
    images = release / "images"
    named = config.data.model_copy(update={"images": str(images)})
    run = tmp_path / "run"
    run_tagging(config.model_copy(update={"data": named}), run, quiet=True)
    said = read_predictions(run / "predictions/test.jsonl")
    assert not any(one.failure for one in said), "to have no picture is no failure"

    def tag(name: str) -> int:
        words = ["tagger", "tag", str(run), str(release), "--images", str(images), "--quiet"]
        return main([*words, "--out", str(tmp_path / name)])

    assert tag("said.jsonl") == 0
    assert list(read_predictions(tmp_path / "said.jsonl")) == list(said)
    assert "1 of 6 posts have no picture" in capsys.readouterr().out
    (images / "p7.jpg").write_bytes(b"no picture")
    assert tag("again.jsonl") == 1
    failures = {one.id: one.failure for one in read_predictions(tmp_path / "again.jsonl")}
    assert isinstance(failures.pop("p7"), Failure)
    assert set(failures.values()) == {None}


def test_a_damaged_picture_costs_its_own_post_until_it_is_whole(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are learnt from; p4 chooses the epoch, and p7 is of test."""
    images, run = release / "images", tmp_path / "run"
    whole = {name: (images / f"{name}.jpg").read_bytes() for name in ("p4", "p7")}
    for name in whole:
        (images / f"{name}.jpg").write_bytes(b"no picture")
    path = tmp_path / "small.yaml"
    named = {"data": TextData(source=str(release), images=str(images))}
    path.write_text(dump_yaml(recipe(release, vision=VISION).model_copy(update=named)))
    call = ["tagger", "fit", "--config", str(path), "--out", str(run), "--quiet"]
    assert main(call) == 0
    told = "1 in evaluate-dev, 1 in evaluate-test, 2 in pictures; --retry tries these again"
    assert told in capsys.readouterr().err
    unread = json.loads((run / "unreadable.json").read_text())["unreadable"]
    assert list(unread) == [str(images / f"{name}.jpg") for name in whole]
    without = fitted_on(run)

    for name, data in whole.items():
        (images / f"{name}.jpg").write_bytes(data)
    assert main([*call, "--retry"]) == 0
    assert "failures" not in capsys.readouterr().err
    assert fitted_on(run) == without + 2


def fitted_on(run: Path) -> int:
    """How many posts the last fit learnt from."""
    told = [one for one in read_events(run) if one["kind"] == "fitted"]
    return int(told[-1]["payload"]["examples"])


def test_a_text_tagger_says_nothing_of_pictures(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tagging(recipe(data), tmp_path / "run", quiet=True)
    out = str(tmp_path / "said.jsonl")
    test = str(data / "test.jsonl")
    assert main(["tagger", "tag", str(tmp_path / "run"), test, "--quiet", "--out", out]) == 0
    assert "picture" not in capsys.readouterr().out


def test_what_sees_learns_as_fast_as_the_head() -> None:
    pace = pace_of(TaggerOptimiser(lr=1e-5, head_lr=1e-3))
    assert pace("sight.attention.in_proj_weight") == pytest.approx(100)


def test_refineg_fits_a_tagger_that_sees_the_embedded_world(tmp_path: Path) -> None:
    config = RefinegConfig(
        data=LabelledData(
            toyworld=ToyworldData(train_queries=24, validation_queries=8, test_queries=8)
        ),
        synthesis=None,
        refinement=None,
        grounding=GroundingConfig(way="none"),
        tagger=recipe(tmp_path, vision=VISION, uncertainty=TRIO).tagger,
        tuning=TaggerOptimiser(lr=1e-2, epochs=1, batch_size=8),
    )
    metrics = run_refineg(config, tmp_path / "run", quiet=True)
    assert len(metrics["fit"]["members"]) == 3
    assert metrics["grounding"]["failed_posts"] == 0
    facts = json.loads((tmp_path / "run/tagger/member-0/tagger.json").read_text())
    assert facts["config"]["vision"]["encoder"] == "cnn"
    picture = next((tmp_path / "run/data/images").glob("test_*.jpg"))
    tagger, _ = open_fitted(tmp_path / "run")
    post = replace(POSTS[0], image=str(picture))
    seen, unseen = tagger.tag([post, replace(post, image=str(tmp_path / "none.jpg"))])
    assert isinstance(seen, list)
    assert isinstance(unseen, Failure)
