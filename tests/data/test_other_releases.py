"""Real files of other systems against their known figures; skipped where they are not there."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundling.data.columns import column_files, read_columns
from groundling.data.gmner import read_gmner
from groundling.data.jsonl import read_predictions
from groundling.data.leaks import find_leaks, folded_text, honest_split
from groundling.data.mentions import place_names, words
from groundling.data.tagger_output import read_tagger_output
from groundling.records import CCKS, Post
from groundling.scoring import TRIPLE_RULES, score_triples

Shared = Callable[[str], Path]


@pytest.fixture(scope="module")
def ccks_aug(shared: Shared) -> dict[str, tuple[Post, ...]]:
    files = column_files(shared("ccks-aug"))
    return {name: read_columns(path, name, scheme=CCKS).posts for name, path in files.items()}


def test_ccks_aug_leaks(ccks_aug: dict[str, tuple[Post, ...]]) -> None:
    leaks = find_leaks(ccks_aug)
    train, dev, test = leaks.within
    assert (train.posts, train.entities, len(train.repeats)) == (16000, 13386, 407)
    assert len(train.conflicting) == 8
    assert (dev.posts, dev.entities, test.posts, test.entities) == (5500, 5982, 500, 0)
    common = {(pair.split, pair.other): (len(pair.shared), pair.same) for pair in leaks.between}
    assert common == {
        ("dev", "train"): (5500, 5500),
        ("test", "train"): (500, 139),
        ("test", "dev"): (500, 139),
    }
    assert len(find_leaks(ccks_aug, folded_text).within[0].repeats) == 408


def test_ccks_aug_can_be_split_honestly(ccks_aug: dict[str, tuple[Post, ...]]) -> None:
    split = honest_split(ccks_aug["train"], 0.1, 0)
    assert (len(split.train), len(split.held_out), len(split.repeated)) == (14033, 1559, 408)
    assert not find_leaks({"train": split.train, "dev": split.held_out}, folded_text).found


def test_ccks_aug_has_the_tokens_that_texts_are_made_into(
    ccks_aug: dict[str, tuple[Post, ...]],
) -> None:
    for post in (post for posts in ccks_aug.values() for post in posts):
        assert words(post.text) == post.tokens
        names = [entity.name.replace(" ", "") for entity in post.entities]
        found = place_names(names, post.tokens)
        assert [(p.start, p.end, p.whole) for p in found if p] == [
            (entity.start, entity.end, True) for entity in post.entities
        ]


@pytest.mark.parametrize("perfect", [False, True])
def test_rivegs_release_scores_as_published(
    perfect: bool, shared: Shared, gmner_v2: Path, tmp_path: Path, data_command: Any
) -> None:
    table, out = shared("riveg-test-pred.tsv.gz"), tmp_path / "riveg.jsonl"
    command = ("convert-predictions", table, out, "--from", "riveg", "--posts", gmner_v2)
    done = data_command(*command, *(["--perfect-boxes"] if perfect else []))
    assert done.out.startswith("1408 posts, 2535 entities")
    assert done.err.count("is no run of the tokens of post") == 10
    # their own list of gold entities lacks this one post
    posts = [post for post in read_gmner(gmner_v2, "test").posts if post.id != "15772"]
    score = score_triples(posts, read_predictions(out), TRIPLE_RULES["riveg"], resamples=0)
    values = score.to_json()
    assert values["mner"]["f1"] == 87.18
    assert values["gmner"]["f1"] == (73.78 if perfect else 42.98)


def test_pgims_files_are_those_posts_in_that_order(
    shared: Shared, gmner_v2: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(shared("pgim-knowledge.zip")) as archive:
        archive.extract("test.txt", tmp_path)
    posts = read_gmner(gmner_v2, "test").posts
    said = read_tagger_output(tmp_path / "test.txt", posts)
    assert [post.id for post in said] == [post.id for post in posts]
    for post, answer in zip(posts, said, strict=True):
        assert [(a.name, a.type, a.start, a.end) for a in answer.predictions] == [
            (entity.name, entity.type, entity.start, entity.end) for entity in post.entities
        ]
