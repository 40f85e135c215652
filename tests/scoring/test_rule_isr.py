import time

import pytest
from hypothesis import given, settings
from scoring_oracles import biggest, cases, is_right, isr_verdicts

from groundling.errors import InputError
from groundling.records import (
    ENTITY_TYPES,
    Box,
    Entity,
    FailedEntity,
    Failure,
    Post,
    PostPrediction,
    Prediction,
)
from groundling.scoring import isr_correct, judge, score_isr
from groundling.scoring.isr import assign_answers

SMALL, LARGE = Box(0, 0, 10, 10), Box(50, 50, 90, 90)


def said(*predictions: Prediction, post: str = "p1") -> list[PostPrediction]:
    return [PostPrediction(post, predictions)]


def test_hand_worked_post(parade: Post) -> None:
    predictions = said(
        Prediction("Ann", "PER", SMALL),
        Prediction("Bo", "ORG", None),
        Prediction("Ann", "PER", Box(50, 50, 90, 80)),  # IoU 0.75 with the largest box
    )
    values = score_isr([parade], predictions, resamples=0).to_json()
    assert values["accuracy"] == {"PER": 100.0, "LOC": None, "ORG": 100.0, "MISC": None, "all": 100}
    assert values["largest"] == {"PER": 50.0, "LOC": None, "ORG": 100.0, "MISC": None, "all": 66.67}
    assert values["groundable"] == {**dict.fromkeys(values["accuracy"]), "PER": 100.0, "all": 100.0}
    assert values["ungroundable"]["ORG"] == 100.0
    assert values["ungroundable"]["PER"] is None
    assert values["floors"]["none"]["all"] == 33.33
    assert values["interval"]["all"] is None


@pytest.mark.parametrize(("x2", "right"), [(50, False), (51, True)])
def test_half_is_not_enough(x2: int, right: bool) -> None:
    post = Post("p", ("Ann",), (Entity("Ann", "PER", 0, 1, (Box(0, 0, 100, 10),)),))
    answer = said(Prediction("Ann", "PER", Box(0, 0, x2, 10)), post="p")
    assert isr_correct([post], answer) == {"p#0": right}


def test_silence_is_wrong_also_for_what_is_not_there(parade: Post) -> None:
    nothing: list[PostPrediction] = []
    empty = said()
    failed = [PostPrediction("p1", failure=Failure("out of memory", "sample"))]
    for silence in (nothing, empty, failed):
        assert not any(isr_correct([parade], silence).values())
        assert score_isr([parade], silence, resamples=0).unanswered == 3


def test_failure_hides_what_came_with_it(parade: Post) -> None:
    answers = (Prediction("Bo", "ORG", None),)
    assert isr_correct([parade], [PostPrediction("p1", answers)])["p1#1"]
    failed = PostPrediction("p1", answers, Failure("late", "ground"))
    assert not isr_correct([parade], [failed])["p1#1"]


def test_absent_for_a_groundable_and_a_box_for_an_absent_entity_are_wrong(parade: Post) -> None:
    answers = said(Prediction("Ann", "PER", None), Prediction("Bo", "ORG", SMALL))
    assert not any(isr_correct([parade], answers).values())


def test_each_mention_needs_its_own_answer(parade: Post) -> None:
    one = isr_correct([parade], said(Prediction("Ann", "PER", LARGE)))
    assert one == {"p1#0": True, "p1#1": False, "p1#2": False}


def test_first_answer_counts_and_the_rest_are_unused(parade: Post) -> None:
    answers = said(
        Prediction("Bo", "ORG", SMALL), Prediction("Bo", "ORG", None), Prediction("Cy", "PER", None)
    )
    score = score_isr([parade], answers, resamples=0)
    assert not isr_correct([parade], answers)["p1#1"]
    assert (score.unused, score.unanswered) == (2, 2)


def test_tokens_decide_where_given(parade: Post) -> None:
    later = Prediction("Ann", "PER", LARGE, 4, 5)
    nowhere = Prediction("Ann", "PER", LARGE, 1, 2)
    early = Prediction("Ann", "PER", None)
    assert assign_answers(parade.entities, [later]) == [None, None, later]
    assert assign_answers(parade.entities, [nowhere]) == [None, None, None]
    assert assign_answers(parade.entities, [early, later]) == [early, None, later]


def test_type_is_given_so_it_need_not_be_said_right() -> None:
    gold = (Entity("Canada", "LOC", 0, 1), Entity("Canada", "ORG", 2, 3, (LARGE,)))
    first, second = Prediction("Canada", "ORG", None), Prediction("Canada", "PER", LARGE)
    assert assign_answers(gold, [first, second]) == [first, second]
    assert assign_answers(gold, [first]) == [first, None]


def test_foreign_posts_answer_nothing(parade: Post) -> None:
    score = score_isr([parade], said(Prediction("Bo", "ORG", None), post="p2"), resamples=0)
    assert (score.accuracy["all"].right, score.unused) == (0, 1)


def test_an_id_given_twice_is_refused(parade: Post) -> None:
    with pytest.raises(InputError, match="'p1' is predicted twice"):
        score_isr([parade], said() + said())
    with pytest.raises(InputError, match="gold"):
        score_isr([parade, parade], said())


def test_no_posts_at_all() -> None:
    values = score_isr([], []).to_json()
    assert values["accuracy"]["all"] is None
    assert values["interval"]["all"] is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases())
def test_against_the_rule_stated_again(case: tuple[list[Post], list[PostPrediction]]) -> None:
    posts, predictions = case
    expected = isr_verdicts(posts, predictions)
    assert isr_correct(posts, predictions) == expected
    score = score_isr(posts, predictions, resamples=0)
    for kind in ENTITY_TYPES:
        hits = [
            expected[f"{post.id}#{index}"]
            for post in posts
            for index, entity in enumerate(post.entities)
            if entity.type == kind
        ]
        assert (score.accuracy[kind].right, score.accuracy[kind].total) == (sum(hits), len(hits))
    assert score.accuracy["all"].right == sum(expected.values())
    parts = (score.groundable["all"], score.ungroundable["all"])
    assert sum(part.right for part in parts) == sum(expected.values())
    assert sum(part.total for part in parts) == len(expected)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases())
def test_largest_is_the_rule_on_gold_cut_to_its_largest_box(
    case: tuple[list[Post], list[PostPrediction]],
) -> None:
    posts, predictions = case
    cut = [
        Post(
            post.id,
            post.tokens,
            tuple(
                Entity(e.name, e.type, e.start, e.end, (box,) if (box := biggest(e)) else ())
                for e in post.entities
            ),
        )
        for post in posts
    ]
    assert isr_correct(posts, predictions, boxes="largest") == isr_correct(cut, predictions)


def test_judgements_follow_the_posts_in_order(parade: Post) -> None:
    other = Post("p0", ("Cy",), (Entity("Cy", "MISC", 0, 1),))
    found = judge([parade, other], said(Prediction("Cy", "MISC", None), post="p0"))
    assert [verdict.query_id for verdict in found] == ["p1#0", "p1#1", "p1#2", "p0#0"]
    assert [query.id for post in (parade, other) for query in post.queries()] == [
        verdict.query_id for verdict in found
    ]
    assert [verdict.answered for verdict in found] == [False, False, False, True]


def test_oracle_of_overlap_agrees_at_the_threshold() -> None:
    gold = (Box(0, 0, 4, 1),)
    assert is_right(Box(0, 0, 2, 1), gold, strict=False)
    assert not is_right(Box(0, 0, 2, 1), gold, strict=True)


def test_three_thousand_queries_take_well_under_half_a_second() -> None:
    posts = [
        Post(
            str(number),
            ("a", "b"),
            (Entity("a", "PER", 0, 1, (LARGE, SMALL)), Entity("b", "LOC", 1, 2)),
        )
        for number in range(1500)
    ]
    answers = (Prediction("b", "LOC", None), Prediction("a", "PER", LARGE))
    predictions = [PostPrediction(post.id, answers) for post in posts]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        score = score_isr(posts, predictions, resamples=0)
        times.append(time.perf_counter() - start)
    assert score.accuracy["all"].right == 3000
    assert min(times) < 0.5


def test_field_r5_a_failed_entity_is_wrong_and_never_absent(parade: Post) -> None:
    lost = FailedEntity("Bo", "ORG", Failure("refused", "answer"), 2, 3)
    ann = Prediction("Ann", "PER", Box(50, 50, 90, 90), 0, 1)
    half = [PostPrediction("p1", (ann,), failed=(lost,))]
    assert isr_correct([parade], half) == {"p1#0": True, "p1#1": False, "p1#2": False}
    score = score_isr([parade], half, resamples=0)
    assert (score.ungroundable["all"].right, score.unanswered, score.unused) == (0, 2, 0)
    for silent in ([PostPrediction("p1", failed=(lost,))], [PostPrediction("p9", failed=(lost,))]):
        assert not any(isr_correct([parade], silent).values())
