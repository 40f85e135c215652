"""The measurement of routing: its oracle, and its page over a tiny tagger."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny_taggers

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import routing_text as bench
from routing_oracle import Oracle, truth
from routing_study import Tagged, applied, ask_everything, read_tagged, study, within

from groundling.config_gmner import TaggingConfig
from groundling.data.jsonl import write_posts
from groundling.errors import DataError
from groundling.records import TWITTER, Entity, Mention, Post
from groundling.refine import apply
from groundling.routing import choose_routing
from groundling.settings import load_config
from groundling.tagging import run_tagging

WORDS = tuple(f"w{place}" for place in range(8))
GOLD = Post("p", WORDS, (Entity("w1 w2", "PER", 1, 3), Entity("w6", "ORG", 6, 7)))


def said(outcome: object) -> tuple[int, int, str] | None:
    assert outcome is None or isinstance(outcome, Mention), outcome
    return outcome and (outcome.start, outcome.end, outcome.type)


@pytest.mark.parametrize(
    ("marked", "right"),
    [
        ((1, 3, "PER"), (1, 3, "PER")),
        ((2, 5, "LOC"), (1, 3, "PER")),  # ends within reach, and another type
        ((2, 6, "PER"), None),  # its end is three words away
        ((3, 5, "PER"), None),  # shares no word with it
        ((5, 7, "ORG"), (6, 7, "ORG")),
    ],
)
def test_right_is_what_refinement_can_do(
    marked: tuple[int, int, str], right: tuple[int, int, str] | None
) -> None:
    mention = Mention(*marked, 0.5)
    assert truth(GOLD, mention, reach=2) == right
    assert said(Oracle(TWITTER, 1.0, 2).ask(GOLD, mention)) == right
    for seed in range(30):
        assert said(Oracle(TWITTER, 0.0, 2, seed).ask(GOLD, mention)) != right


def test_every_kind_of_mistake_is_made() -> None:
    oracles = [Oracle(TWITTER, 0.0, 2, seed) for seed in range(60)]
    right, wrong = Mention(1, 3, "PER", 0.5), Mention(2, 3, "LOC", 0.5)
    others = {(1, 3, kind) for kind in ("LOC", "ORG", "MISC")}
    found = {said(oracle.ask(GOLD, right)) for oracle in oracles}
    assert found == {None, (1, 2, "PER"), (1, 4, "PER"), *others}
    assert {said(oracle.ask(GOLD, wrong)) for oracle in oracles} == {None, (2, 3, "LOC"), *others}


def test_its_rate_is_as_stated_whatever_the_confidence() -> None:
    posts = [replace(GOLD, id=f"p{number}") for number in range(1500)]
    mention = Mention(1, 3, "PER", 0.1)
    lower, higher = Oracle(TWITTER, 0.7, 2), Oracle(TWITTER, 0.9, 2)
    low, high = ([said(o.ask(post, mention)) for post in posts] for o in (lower, higher))
    assert [said(lower.ask(post, replace(mention, confidence=0.9))) for post in posts] == low
    for accuracy, row in ((0.7, low), (0.9, high)):
        share = sum(one == (1, 3, "PER") for one in row) / len(row)
        assert abs(share - accuracy) < 3 * math.sqrt(accuracy * (1 - accuracy) / len(row))
    for one, other in zip(low, high, strict=True):
        assert other in (one, (1, 3, "PER")), "who errs at 0.9 errs so at 0.7"


def otherwise(post: Post) -> Post:
    """A third of the posts without their first entity, another third with another type for it."""
    first, *rest = post.entities or [None]
    if first is None or int(post.id[1:]) % 3 == 0:
        return replace(post, entities=tuple(rest))
    kind = "MISC" if int(post.id[1:]) % 3 == 1 else first.type
    return replace(post, entities=(replace(first, type=kind), *rest))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tagger that has learnt posts by heart that dev and test annotate otherwise; and these."""
    place = tmp_path_factory.mktemp("routing")
    posts = [replace(post, id=f"p{n}") for n, post in enumerate(tiny_taggers.POSTS * 6)]
    (place / "posts").mkdir()
    write_posts(place / "posts/train.jsonl", posts)
    for split in ("dev", "test"):
        write_posts(place / f"posts/{split}.jsonl", [otherwise(post) for post in posts])
    settings = {
        "data.source": str(place / "posts"),
        "tagger.backend": "bilstm",
        "tagger.word_size": 8,
        "tagger.hidden_size": 8,
        "tagger.device": "cpu",
        "tuning.lr": 0.02,
        "tuning.batch_size": 6,
        "tuning.epochs": 4,
    }
    config = load_config(TaggingConfig, None, settings)
    run_tagging(config, place / "run", quiet=True)
    return place / "run", place / "posts"


@pytest.fixture(scope="module")
def tagged(run: tuple[Path, Path]) -> Callable[[str], Tagged]:
    return lambda split: read_tagged(*run, split, TWITTER)


def test_asking_a_perfect_oracle_about_everything_leaves_no_wrong_mention(
    tagged: Callable[[str], Tagged],
) -> None:
    test = tagged("test")
    draw = ask_everything(test, Oracle(TWITTER, 1.0, 2))
    before = test.counts(test.mentions)
    assert 0 < before.right < before.predicted, "the tagger is neither perfect nor useless"
    assert draw.by_uncertainty.f1[0] == draw.at_random.f1[0] == before.f1
    assert draw.by_uncertainty.f1[-1] == draw.at_random.f1[-1] > before.f1
    after = test.counts(apply(test.mentions, draw.outcomes))
    assert after.right == after.predicted
    assert after.f1 == draw.by_uncertainty.f1[-1]
    share, f1 = applied(test, draw, choose_routing(draw.by_uncertainty, 1.0))
    assert share > 0
    assert f1 == draw.by_uncertainty.at(share)


def test_the_page_tells_the_figures_of_the_draws(tagged: Callable[[str], Tagged]) -> None:
    dev, test = tagged("dev"), tagged("test")
    studies = [study(dev, test, TWITTER, accuracy, draws=2) for accuracy in (0.0, 0.7, 1.0)]
    lines = list(bench.page("a tagger", dev, test, studies, "figures"))
    row = next(line for line in lines if line.startswith("| 70 % | random"))
    ends = [100 * draw.at_random.f1[-1] for draw in studies[1].test]
    assert row.endswith(f" {sum(ends) / 2:.2f} |")
    used = within(test, studies[2], 1.0)
    assert used.f1 > 100 * studies[2].test[0].by_uncertainty.f1[0]
    (row,) = [line for line in lines if line.startswith("| 100 % | 100 % | ")]
    assert row.startswith(
        f"| 100 % | 100 % | {used.threshold:.3f} | {used.calls:.1f} | {used.f1:.2f} |"
    )
    (verdict,) = [line for line in lines if line.startswith("Asking about everything leaves")]
    assert "at an accuracy of" in verdict
    hurt = next(line for line in lines if line.startswith("| 0 % |") and line.count("|") == 6)
    assert " -" in hurt, "an oracle that is always wrong costs F1"
    drawn = ElementTree.fromstring(bench.figure("test", studies))
    words = "".join(drawn.itertext())
    assert "70 % right, test" in words
    assert "100 % right, test" in words
    assert ": 0 % right" not in words, "not among those drawn"


def test_other_posts_than_the_runs_are_refused(run: tuple[Path, Path], tmp_path: Path) -> None:
    write_posts(tmp_path / "dev.jsonl", [GOLD])
    with pytest.raises(DataError, match="does not tag the 1 posts of dev"):
        read_tagged(run[0], tmp_path, "dev", TWITTER)
    with pytest.raises(DataError, match="is not there yet"):
        read_tagged(tmp_path, run[1], "dev", TWITTER)
