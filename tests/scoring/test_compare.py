import pytest

from groundling.records import Box, Entity, Post, PostPrediction, Prediction
from groundling.scoring import TRIPLE_RULES, compare_isr, compare_triples, score_isr, score_triples

BOX = Box(0, 0, 10, 10)


def corpus(size: int) -> list[Post]:
    return [
        Post(str(n), ("Ann", "Bo"), (Entity("Ann", "PER", 0, 1, (BOX,)), Entity("Bo", "ORG", 1, 2)))
        for n in range(size)
    ]


def answers(posts: list[Post], every: int, *, spans: bool = False) -> list[PostPrediction]:
    """All right, but that Ann is missed in one post of `every`."""
    return [
        PostPrediction(
            post.id,
            tuple(
                Prediction(
                    e.name,
                    e.type,
                    None if e.name == "Bo" or n % every == 0 else BOX,
                    e.start if spans else None,
                    e.end if spans else None,
                )
                for e in post.entities
            ),
        )
        for n, post in enumerate(posts)
    ]


def test_isr_differences_are_those_of_the_scores() -> None:
    posts = corpus(60)
    this, other = answers(posts, 6), answers(posts, 2)
    comparison = compare_isr(posts, this, other, resamples=500)
    scores = [score_isr(posts, system, resamples=0) for system in (this, other)]
    for row in ("accuracy", "largest", "groundable", "ungroundable"):
        first, second = (getattr(score, row)["all"].value for score in scores)
        assert comparison.differences[row].value == pytest.approx(first - second)
    values = comparison.to_json()
    assert values["accuracy"]["difference"] == 16.67
    assert values["accuracy"]["interval"][0] > 0
    assert values["accuracy"]["p_value"] < 0.01
    assert values["groundable"]["difference"] == 33.33
    assert values["ungroundable"] == {"difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    assert (values["mcnemar"]["only_this"], values["mcnemar"]["only_other"]) == (20, 0)
    assert values["mcnemar"]["p_value"] == pytest.approx(2 / 2**20, rel=1e-3)


@pytest.mark.parametrize("rule", TRIPLE_RULES)
def test_triple_differences_are_those_of_the_scores(rule: str) -> None:
    posts = corpus(60)
    this, other = answers(posts, 6, spans=True), answers(posts, 2, spans=True)
    comparison = compare_triples(posts, this, other, TRIPLE_RULES[rule], resamples=500)
    assert comparison.mcnemar is None
    first, second = (score_triples(posts, s, TRIPLE_RULES[rule]) for s in (this, other))
    for task, change in comparison.differences.items():
        expected = first.tasks[task].counts.f1 - second.tasks[task].counts.f1
        assert change.value == pytest.approx(expected)
    assert comparison.differences["gmner"].value == pytest.approx(1 / 6)
    assert comparison.differences["mner"].p_value == 1.0


@pytest.mark.parametrize("rule", ["isr", *TRIPLE_RULES])
def test_a_file_against_itself(rule: str) -> None:
    posts = corpus(20)
    same = answers(posts, 3, spans=True)
    if rule == "isr":
        comparison = compare_isr(posts, same, same, resamples=100)
    else:
        comparison = compare_triples(posts, same, same, TRIPLE_RULES[rule], resamples=100)
    for change in comparison.differences.values():
        assert (change.value, change.interval, change.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_foreign_posts_count_against_their_system() -> None:
    posts = corpus(4)
    clean = answers(posts, 9)
    noisy = [*clean, PostPrediction("x", (Prediction("Cy", "PER", None),) * 8)]
    comparison = compare_triples(posts, clean, noisy, TRIPLE_RULES["riveg"], resamples=50)
    first, second = (
        score_triples(posts, system, TRIPLE_RULES["riveg"]).tasks["gmner"].counts.f1
        for system in (clean, noisy)
    )
    assert comparison.differences["gmner"].value == pytest.approx(first - second)
    assert first > second


def test_tokens_are_compared_only_where_both_say_them() -> None:
    posts = corpus(10)
    comparison = compare_triples(
        posts,
        answers(posts, 3, spans=True),
        answers(posts, 3),
        TRIPLE_RULES["riveg"],
        resamples=20,
    )
    assert comparison.differences["mner"].value == 0.0


def test_the_better_system_in_every_post() -> None:
    posts = corpus(30)
    silent = [PostPrediction(post.id) for post in posts]
    comparison = compare_isr(posts, answers(posts, 99), silent, resamples=199)
    assert comparison.differences["accuracy"].p_value == 1 / 200
    assert comparison.mcnemar is not None
    assert (comparison.mcnemar.only_this, comparison.mcnemar.only_other) == (59, 0)
