from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_taggers
import torch

from groundling import tagging
from groundling.cli.tagger import metrics_table
from groundling.config_gmner import TaggerConfig, TaggerOptimiser, TaggingConfig, TextData
from groundling.corpus import fingerprint
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_predictions, write_posts
from groundling.data.knowledge import Told, write_knowledge
from groundling.errors import ConfigError, DataError, InputError, RunError
from groundling.fitted import open_fitted
from groundling.models.registry import open_tagger
from groundling.records import CCKS, TWITTER, Box, Failure, Mention, Post, PostPrediction
from groundling.rundir import read_events
from groundling.scoring import TRIPLE_RULES, score_triples
from groundling.settings import load_config
from groundling.tagging import (
    confidence_figures,
    pace_of,
    read_split,
    run_tagging,
    ungrounded,
)


def boxed(post: Post, number: int) -> Post:
    """The post with another id; its first entity is in the picture."""
    entities = list(post.entities)
    if entities:
        entities[0] = replace(entities[0], boxes=(Box(1, 1, 5, 5),))
    return Post(f"p{number}", post.tokens, tuple(entities))


POSTS = [boxed(post, number) for number, post in enumerate(tiny_taggers.POSTS * 2)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "posts"
    folder.mkdir()
    for split, posts in {"train": POSTS, "dev": POSTS[:5], "test": POSTS[6:]}.items():
        write_posts(folder / f"{split}.jsonl", posts)
    return folder


def recipe(data: Path | TextData, **changes: Any) -> TaggingConfig:
    values: dict[str, Any] = {
        "data": data if isinstance(data, TextData) else TextData(source=str(data)),
        "tagger": TaggerConfig(
            backend="bilstm", word_size=12, hidden_size=16, dropout=0.2, device="cpu"
        ),
        "tuning": TaggerOptimiser(lr=0.02, crf_lr=0.05, batch_size=4, epochs=4),
        "patience": None,
        **changes,
    }
    return TaggingConfig(**values)


def test_a_run_leaves_a_tagger_predictions_and_scores(data: Path, tmp_path: Path) -> None:
    config = recipe(data)
    metrics = run_tagging(config, tmp_path / "run", quiet=True)
    assert metrics == json.loads((tmp_path / "run/metrics.json").read_text())
    assert len(metrics["fit"]["dev_mner_f1"]) == 4
    assert metrics["fit"]["temperature"] > 0
    for split, posts in {"dev": POSTS[:5], "test": POSTS[6:]}.items():
        said = read_predictions(tmp_path / f"run/predictions/{split}.jsonl")
        assert [post.id for post in said] == [post.id for post in posts]
        answers = [one for post in said for one in post.predictions]
        assert answers
        assert all(one.box is None and 0 <= (one.score or -1) <= 1 for one in answers)
        for rule in ("span", "riveg"):
            score = score_triples(posts, said, TRIPLE_RULES[rule]).to_json()
            assert metrics["scores"][split]["rules"][rule] == score
        for figures in metrics["scores"][split]["confidence"].values():
            assert figures["answers"] == len(answers)
    again = ungrounded(POSTS[6:], open_fitted(tmp_path / "run")[0].tag(POSTS[6:]))
    assert again == list(read_predictions(tmp_path / "run/predictions/test.jsonl"))


def test_every_score_knows_the_scheme(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that leaves out types it does not know left out all of another scheme's."""
    for split, posts in {"train": POSTS, "dev": POSTS[:5]}.items():
        other = [
            replace(post, entities=tuple(replace(one, type="vessel") for one in post.entities))
            for post in posts
        ]
        write_posts(data / f"{split}.jsonl", other, CCKS)
    monkeypatch.setattr(tagging, "RULES", ("span", "refineg"))
    config = recipe(data, scheme="ccks", evaluate=["dev"])
    rules = run_tagging(config, tmp_path / "run", quiet=True)["scores"]["dev"]["rules"]
    assert rules["span"]["mner"]["right"] > 0
    assert rules["refineg"]["mner"]["predicted"] == rules["span"]["mner"]["predicted"]


def test_all_absent_is_right_for_what_is_not_in_the_picture() -> None:
    gold = ungrounded(POSTS, [_mentions(post) for post in POSTS])
    score = score_triples(POSTS, gold, TRIPLE_RULES["span"], resamples=0)
    absent = sum(not entity.groundable for post in POSTS for entity in post.entities)
    every = sum(len(post.entities) for post in POSTS)
    assert score.tasks["mner"].counts.f1 == 1
    assert score.tasks["gmner"].counts.right == absent
    assert score.tasks["gmner"].counts.f1 == pytest.approx(absent / every)


def _mentions(post: Post) -> list[Mention] | Failure:
    return [Mention(one.start, one.end, one.type) for one in post.entities]


# -------------------------------------------------------------------------------- the best epoch


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[float]], list[torch.Tensor]]:
    """Epochs of the given F1; what is returned fills with a copy of a weight by epoch."""

    def script(f1: Sequence[float]) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        def judged(tagger: Any, *_: object) -> float:
            seen.append(tagger.net.projection.weight.detach().clone())
            return f1[len(seen) - 1]

        monkeypatch.setattr(tagging, "mner_f1", judged)
        return seen

    return script


@pytest.mark.parametrize(
    ("f1", "patience", "epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.5, 0.9, 0.9], 2, 4, 2),
        ([0.1, 0.5, 0.4, 0.6, 0.1, 0.2], 2, 6, 4),
        ([0.3, 0.2, 0.1, 0.0, 0.4, 0.4], None, 6, 5),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.1], 1, 2, 1),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends(
    data: Path,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[torch.Tensor]],
    f1: list[float],
    patience: int | None,
    epochs: int,
    best: int,
) -> None:
    seen = scripted(f1)
    tuning = TaggerOptimiser(lr=0.02, batch_size=6, epochs=6)
    config = recipe(data, tuning=tuning, patience=patience, evaluate=[])
    told = run_tagging(config, tmp_path / "run", quiet=True)["fit"]
    assert told["dev_mner_f1"] == [100 * value for value in f1[:epochs]]
    assert told["best_epoch"] == best
    kept: Any = open_fitted(tmp_path / "run")[0]
    assert torch.equal(kept.net.projection.weight, seen[best - 1])
    assert not (tmp_path / "run/scratch").exists()


def test_a_run_that_stops_anywhere_goes_on_to_the_same_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(data, checkpoint_every_s=1e-6, patience=2)
    calm = run_tagging(config, tmp_path / "calm", quiet=True)
    real, left = tagging.atomic.write_bytes, [0]

    class StopError(Exception):
        pass

    def failing(*words: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StopError
        real(*words)

    monkeypatch.setattr(tagging.atomic, "write_bytes", failing)
    stops = 0
    for pause in (2, 3, 6, 4, 11, 1000):
        left[0] = pause
        try:
            metrics = run_tagging(config, tmp_path / "run", quiet=True)
            break
        except StopError:
            stops += 1
    assert stops == 5
    assert metrics == calm
    for name in ("tagger/model.safetensors", "predictions/dev.jsonl", "predictions/test.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_another_split_can_be_evaluated_later_without_training_again(
    data: Path, tmp_path: Path
) -> None:
    def started() -> list[str]:
        return [e["stage"] for e in read_events(tmp_path / "run") if e["kind"] == "started"]

    run_tagging(recipe(data, evaluate=["dev"]), tmp_path / "run", quiet=True)
    assert started() == ["fit", "evaluate-dev"]
    metrics = run_tagging(recipe(data), tmp_path / "run", quiet=True)
    assert started() == ["fit", "evaluate-dev", "evaluate-test"]
    assert list(metrics["scores"]) == ["dev", "test"]
    write_posts(data / "test.jsonl", POSTS[7:])
    run_tagging(recipe(data), tmp_path / "run", quiet=True)
    assert started()[3:] == ["evaluate-test"]
    write_posts(data / "train.jsonl", POSTS[1:])
    with pytest.raises(RunError, match=r"another configuration \(data\.train"):
        run_tagging(recipe(data), tmp_path / "run", quiet=True)


def test_a_tagger_may_be_taken_as_it_is(data: Path, tmp_path: Path) -> None:
    metrics = run_tagging(recipe(data, tuning=None), tmp_path / "run", quiet=True)
    assert metrics["fit"]["best_epoch"] == 0
    fresh: Any = open_tagger(recipe(data).tagger, TWITTER, seed=0, posts=POSTS)
    kept: Any = open_fitted(tmp_path / "run")[0]
    assert torch.equal(kept.net.projection.weight, fresh.net.projection.weight)


# -------------------------------------------------------------------------------------- the parts


def test_heads_learn_faster_than_the_rest() -> None:
    pace = pace_of(TaggerOptimiser(lr=1e-5, crf_lr=5e-2, head_lr=1e-3))
    assert pace("transitions.moves") == pytest.approx(5000)
    assert pace("projection.weight") == pace("characters.embedding.weight") == pytest.approx(100)
    assert pace("encoder.embeddings.word_embeddings.weight") == 1
    assert pace_of(TaggerOptimiser(lr=1e-5))("projection.bias") == 1


def test_failures_are_error_records() -> None:
    said = ungrounded(POSTS[:2], [Failure("no", "tag"), _mentions(POSTS[1])])
    assert said[0] == PostPrediction("p0", (), Failure("no", "tag"))
    assert [one.name for one in said[1].predictions] == ["York"]


def test_confidences_are_judged_by_words_and_type() -> None:
    found: list[list[Mention] | Failure] = [
        [Mention(0, 1, "PER", 0.9), Mention(2, 3, "LOC", 0.6), Mention(1, 2, "ORG")],
        Failure("no", "tag"),
    ]
    told = confidence_figures(POSTS[:2], found)
    assert (told["answers"], told["accuracy"]) == (2, 0.5)
    assert told["brier"] == pytest.approx((0.01 + 0.36) / 2)


def test_what_cannot_be_read_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        run_tagging(recipe(tmp_path / "elsewhere"), tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match="no split 'extra'; it holds train, dev, test"):
        run_tagging(recipe(data, evaluate=["extra"]), tmp_path / "run", quiet=True)
    write_posts(data / "train.jsonl", [Post("e", ())])
    with pytest.raises(DataError, match="its train split holds no words"):
        run_tagging(recipe(data), tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match="not fitted yet"):
        open_fitted(tmp_path / "run")
    with pytest.raises(RunError, match="no such folder"):
        open_fitted(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"tagger\.knowledge needs data\.knowledge"):
        load_config(TaggingConfig, None, {"data.source": "x", "tagger.knowledge": True})


def test_knowledge_is_read_beside_its_split(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "knowledge"
    folder.mkdir()
    for name, posts in {"train": POSTS, "valid": POSTS[:5]}.items():
        blocks = ["".join(f"{word}\tO\n" for word in post.tokens) for post in posts]
        told = [f"{block}<EOS>\tX\nof\tX\n{i}\tX\n\n" for i, block in enumerate(blocks)]
        (folder / f"{name}.txt").write_text("".join(told))
    config = TextData(source=str(data), knowledge=str(folder))
    splits = tagging.read_texts(config, ["train", "dev"])
    assert [post.knowledge for post in splits["dev"]] == [f"of {i}" for i in range(5)]
    with pytest.raises(DataError, match=r"wanted test\.txt"):
        tagging.read_texts(config, ["test"])
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("foreign\tO\n<EOS>\tX\nwords\tX\n")
    with pytest.raises(DataError, match=r"foreign\.txt: tells of no post of"):
        read_split(data, "dev", foreign)


def encoder_on_disk(folder: Path) -> TaggerConfig:
    """A tagger that reads knowledge, on a tiny encoder of random weights."""
    tiny_taggers.bert().save_pretrained(folder)
    tiny_taggers.wordpiece().save_pretrained(folder)
    return TaggerConfig(path=str(folder), knowledge=True, max_length=64, device="cpu")


def test_posts_without_knowledge_are_counted_and_learnt_from(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "knowledge"
    for name, posts in {"train": POSTS[:9], "dev": POSTS[:5], "test": POSTS[6:8]}.items():
        told = [Told(post.id, f"the {post.tokens[0]}") for post in posts]
        write_knowledge(folder / f"{name}.jsonl", told)
    tagger = encoder_on_disk(tmp_path / "encoder")
    config = recipe(
        TextData(source=str(data), knowledge=str(folder)),
        tagger=tagger,
        tuning=TaggerOptimiser(lr=1e-3, batch_size=4, epochs=1),
    )
    metrics = run_tagging(config, tmp_path / "run", quiet=True)
    gaps = {
        "train": {"posts": 12, "without": 3},
        "dev": {"posts": 5, "without": 0},
        "test": {"posts": 6, "without": 4},
    }
    assert metrics["knowledge"] == gaps
    (event,) = [one for one in read_events(tmp_path / "run") if one["kind"] == "knowledge"]
    assert event["payload"] == {"splits": gaps}
    lines = metrics_table(metrics).splitlines()
    assert "train 3 of 12 posts have no knowledge" in lines
    assert "test  4 of 6 posts have no knowledge" in lines
    assert not any(line.startswith("dev   0 of") for line in lines)
    unknowing = recipe(data, tuning=None)
    assert "knowledge" not in run_tagging(unknowing, tmp_path / "unknowing", quiet=True)


def test_other_knowledge_is_another_run(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "knowledge"

    def config(words: str) -> TaggingConfig:
        for name in ("train", "dev", "test"):
            write_knowledge(folder / f"{name}.jsonl", [Told("p7", words), Told("p1", "x")])
        return recipe(TextData(source=str(data), knowledge=str(folder)), tuning=None)

    run_tagging(config("one"), tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match=r"another configuration \(data\.train"):
        run_tagging(config("two"), tmp_path / "run", quiet=True)


def test_the_fingerprint_of_the_run_includes_what_is_known_of_posts() -> None:
    plain = fingerprint(POSTS)
    assert plain == fingerprint(list(POSTS))
    assert plain != fingerprint([replace(POSTS[0], knowledge="x"), *POSTS[1:]])
    assert plain == fingerprint([replace(POSTS[0], image="elsewhere.png"), *POSTS[1:]])


def test_the_release_without_its_pictures_is_enough(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / "txt").mkdir(exist_ok=True)
        (tmp_path / "xml").mkdir(exist_ok=True)
        (tmp_path / "txt" / f"{split}.txt").write_text("IMGID:1\nPaul\tB-PER\nsings\tO\n\n")
    assert read_split(tmp_path, "dev") == read_gmner(tmp_path, "dev").posts
