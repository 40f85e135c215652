"""Published and real data: RiVEG's released test predictions, and posts with their pictures."""

import csv
import gzip
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from groundling.data.gmner import Split, read_gmner
from groundling.records import Box, Post, PostPrediction, Prediction, parse_entity_type
from groundling.scoring import TRIPLE_RULES, score_isr, score_triples

NOWHERE = Box(-2, -2, -1, -1)


def riveg_predictions(path: Path, posts: Sequence[Post]) -> list[PostPrediction]:
    """RiVEG's names and types, given perfect boxes wherever it says "groundable".

    The k-th groundable mention of a name and type gets a gold box of the k-th groundable gold
    entity of that name and type; where there is none it gets a box that fits nothing.
    """
    boxes = {
        post.id: [(e.name, e.type, e.largest_box) for e in post.entities if e.groundable]
        for post in posts
    }
    said: dict[str, list[Prediction]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            kind, box = parse_entity_type(row["type"]), None
            if row["groundable"] == "2":
                left = boxes[row["imgid"]]
                found = next((g for g in left if g[:2] == (row["entity"], kind)), None)
                if found:
                    left.remove(found)
                box = found[2] if found else NOWHERE
            said[row["imgid"]].append(Prediction(row["entity"], kind, box))
    return [PostPrediction(post_id, tuple(answers)) for post_id, answers in said.items()]


@pytest.mark.parametrize(
    ("left_out", "gold", "mner", "gmner"),
    [
        # Their own list of gold entities lacks this one post: 2542 entities, the figures known.
        ({"15772"}, 2542, 87.18, 73.78),
        (set(), 2543, 87.16, 73.77),
    ],
)
def test_riveg_release_reproduces_its_figures(
    left_out: set[str],
    gold: int,
    mner: float,
    gmner: float,
    riveg_rows: Path,
    gmner_test: Split,
) -> None:
    posts = [post for post in gmner_test.posts if post.id not in left_out]
    predictions = riveg_predictions(riveg_rows, posts)
    values = score_triples(posts, predictions, TRIPLE_RULES["riveg"], resamples=0).to_json()
    assert (values["gmner"]["predicted"], values["gmner"]["gold"]) == (2535, gold)
    assert (values["mner"]["right"], values["gmner"]["right"]) == (2213, 1873)
    assert (values["mner"]["f1"], values["gmner"]["f1"]) == (mner, gmner)
    assert set(values["compared_by"].values()) == {"name"}


@pytest.mark.parametrize("rule", ["riveg", "span"])
def test_gold_given_back_is_perfect_on_the_release(rule: str, gmner_test: Split) -> None:
    perfect = gold_answers(gmner_test)
    values = score_triples(gmner_test.posts, perfect, TRIPLE_RULES[rule], resamples=0).to_json()
    assert [values[task]["f1"] for task in ("gmner", "eeg", "mner")] == [100.0] * 3
    assert values["gmner"]["right"] == 2543


def test_isr_denominators_on_the_release(gmner_test: Split) -> None:
    score = score_isr(gmner_test.posts, gold_answers(gmner_test), resamples=0)
    assert {name: ratio.total for name, ratio in score.accuracy.items()} == {
        "PER": 1104,
        "LOC": 404,
        "ORG": 638,
        "MISC": 397,
        "all": 2543,
    }
    assert (score.groundable["all"].total, score.ungroundable["all"].total) == (1046, 1497)
    assert score.accuracy["all"].percent == score.largest["all"].percent == 100.0


def test_real_posts_with_pictures(gmner_22: Path) -> None:
    split = read_gmner(gmner_22, "test", gmner_22 / "images")
    assert len(split.posts) == 22
    score = score_isr(split.posts, gold_answers(split), resamples=200)
    assert score.accuracy["all"].percent == 100.0
    assert score.interval["all"] == (1.0, 1.0)
    silent = score_isr(split.posts, [], resamples=0)
    assert silent.accuracy["all"].right == 0
    assert silent.always_absent["all"].right == silent.ungroundable["all"].total > 0


def gold_answers(split: Split) -> list[PostPrediction]:
    return [
        PostPrediction(
            post.id,
            tuple(Prediction(e.name, e.type, e.largest_box, e.start, e.end) for e in post.entities),
        )
        for post in split.posts
    ]
