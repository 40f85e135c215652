from collections.abc import Callable

import pytest
from hypothesis import given, settings
from scoring_oracles import Triple, cases, refineg_counts, riveg_counts, span_counts

from groundling.errors import InputError
from groundling.records import Box, Entity, FailedEntity, Failure, Post, PostPrediction, Prediction
from groundling.scoring import RULES, TRIPLE_RULES, score_triples
from groundling.scoring.triples import TripleScore

SMALL, LARGE, FAR = Box(0, 0, 10, 10), Box(50, 50, 90, 90), Box(0, 90, 5, 95)
TASKS = ("gmner", "eeg", "mner")
ORACLES: dict[str, Callable[..., Triple]] = {
    "riveg": riveg_counts,
    "refineg": refineg_counts,
    "span": span_counts,
}


def score(
    posts: list[Post], predictions: list[PostPrediction], rule: str, resamples: int = 0
) -> TripleScore:
    return score_triples(posts, predictions, TRIPLE_RULES[rule], resamples=resamples)


def counts(result: TripleScore, task: str) -> Triple:
    found = result.tasks[task].counts
    return found.right, found.predicted, found.gold


def tally(post: Post, answers: list[Prediction], rule: str, task: str = "gmner") -> Triple:
    return counts(score([post], [PostPrediction(post.id, tuple(answers))], rule), task)


@pytest.mark.parametrize("rule", ORACLES)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(most=3))
def test_against_the_rule_stated_again(
    case: tuple[list[Post], list[PostPrediction]], rule: str
) -> None:
    posts, predictions = case
    result = score(posts, predictions, rule)
    for task in TASKS:
        expected = ORACLES[rule](posts, predictions, task, result.tasks[task].unit)
        assert counts(result, task) == expected
    for task, again in result.by_name.items():
        expected = ORACLES[rule](posts, predictions, task, "name")
        assert (again.counts.right, again.counts.predicted, again.counts.gold) == expected


def test_every_rule_has_a_second_statement() -> None:
    assert set(RULES) == {"isr", *ORACLES}


@pytest.mark.parametrize("rule", ORACLES)
def test_gold_given_back_is_perfect(parade: Post, rule: str) -> None:
    answers = tuple(
        Prediction(e.name, e.type, e.largest_box, e.start, e.end) for e in parade.entities
    )
    result = score([parade], [PostPrediction("p1", answers)], rule)
    if rule == "refineg":  # grounded repeats share a name, so both answers link to the first
        assert counts(result, "gmner") == (2, 2, 3)
    else:
        assert counts(result, "gmner") == (3, 3, 3)
    assert counts(result, "mner") == (3, 3, 3)
    assert counts(result, "eeg") == (3, 3, 3)


def test_figures_by_hand(parade: Post) -> None:
    answers = [
        Prediction("Ann", "PER", SMALL, 0, 1),
        Prediction("Bo", "LOC", None, 2, 3),  # wrong type
        Prediction("Cy", "PER", None, 3, 4),  # no such entity
        Prediction("Ann", "PER", FAR, 4, 5),  # wrong box
    ]
    values = score([parade], [PostPrediction("p1", tuple(answers))], "riveg").to_json()
    assert values["rule"] == "riveg"
    assert values["gmner"] == {
        "precision": 25.0,
        "recall": 33.33,
        "f1": 28.57,
        "right": 1,
        "predicted": 4,
        "gold": 3,
        "f1_interval": None,
    }
    assert (values["eeg"]["right"], values["mner"]["right"]) == (2, 2)
    assert values["compared_by"] == {"gmner": "name", "eeg": "span", "mner": "span"}
    assert set(values["by_name"]) == {"eeg", "mner"}


@pytest.mark.parametrize(("rule", "right"), [("riveg", 1), ("refineg", 1), ("span", 0)])
def test_exactly_half_an_overlap(rule: str, right: int) -> None:
    post = Post("p", ("Ann",), (Entity("Ann", "PER", 0, 1, (Box(0, 0, 4, 1),)),))
    assert tally(post, [Prediction("Ann", "PER", Box(0, 0, 2, 1), 0, 1)], rule) == (right, 1, 1)


@pytest.mark.parametrize(("rule", "right"), [("riveg", 1), ("refineg", 0), ("span", 1)])
def test_smaller_gold_box(parade: Post, rule: str, right: int) -> None:
    assert tally(parade, [Prediction("Ann", "PER", SMALL, 0, 1)], rule)[0] == right


@pytest.mark.parametrize("rule", ORACLES)
def test_duplicates(parade: Post, rule: str) -> None:
    answers = [Prediction("Bo", "ORG", None, 2, 3)] * 3
    assert tally(parade, answers, rule) == ((1, 1, 3) if rule == "refineg" else (1, 3, 3))


def test_riveg_takes_gold_in_order_and_span_the_best_pairing() -> None:
    """The first answer fits both golds, the second only the first gold."""
    wide, narrow = (Box(0, 0, 10, 10), Box(0, 0, 10, 6)), (Box(0, 0, 10, 10),)
    post = Post(
        "p", ("Ann", "Ann"), (Entity("Ann", "PER", 0, 1, wide), Entity("Ann", "PER", 1, 2, narrow))
    )
    answers = [
        Prediction("Ann", "PER", Box(0, 0, 10, 10)),
        Prediction("Ann", "PER", Box(0, 0, 10, 4)),
    ]
    assert tally(post, answers, "riveg") == (1, 2, 2)
    assert tally(post, answers[::-1], "riveg") == (2, 2, 2)
    for order in (answers, answers[::-1]):
        assert tally(post, order, "span", "eeg") == (2, 2, 2)


def test_refineg_links() -> None:
    """Ungrounded repeats collapse, grounded ones do not; a lost box is not "no box"."""
    boxes = (LARGE,)
    post = Post(
        "p",
        ("Ann", "Ann", "Bo", "Bo"),
        (
            Entity("Ann", "PER", 0, 1, boxes),
            Entity("Ann", "PER", 1, 2, boxes),
            Entity("Bo", "LOC", 2, 3),
            Entity("Bo", "LOC", 3, 4),
        ),
    )
    ann, bo = Prediction("Ann", "PER", LARGE), Prediction("Bo", "LOC", None)
    assert tally(post, [ann, bo], "refineg") == (2, 2, 3)
    assert tally(post, [ann, bo, bo], "refineg") == (2, 2, 3)
    lost = Prediction("Bo", "LOC", FAR)
    assert tally(post, [lost], "refineg") == (0, 1, 3)
    assert tally(post, [lost], "refineg", "mner") == (1, 1, 2)


def test_refineg_takes_the_link_from_the_name_alone() -> None:
    post = Post(
        "p",
        ("Ann", "Ann"),
        (Entity("Ann", "LOC", 0, 1, (LARGE,)), Entity("Ann", "PER", 1, 2, (LARGE,))),
    )
    assert tally(post, [Prediction("Ann", "PER", LARGE)], "refineg") == (0, 1, 2)
    assert tally(post, [Prediction("Ann", "LOC", LARGE)], "refineg") == (1, 1, 2)


def test_refineg_drops_posts_with_an_empty_side_but_not_silent_ones(parade: Post) -> None:
    bare = Post("p2", ("hello",))
    chatter = PostPrediction("p2", (Prediction("hello", "PER", None),))
    empty = PostPrediction("p1")
    result = score([parade, bare], [empty, chatter], "refineg")
    assert counts(result, "gmner") == counts(result, "eeg") == (0, 0, 0)
    assert counts(result, "mner") == (0, 1, 2)
    failed = PostPrediction("p1", failure=Failure("timeout", "tag"))
    for silence in ([chatter], [failed, chatter]):
        assert counts(score([parade, bare], silence, "refineg"), "gmner") == (0, 0, 3)


def test_unknown_types_are_ignored_by_refineg_and_wrong_elsewhere(parade: Post) -> None:
    odd = Prediction("Bo", "EVENT", None, 2, 3)  # type: ignore[arg-type]
    known = Prediction("Ann", "PER", LARGE, 0, 1)
    assert tally(parade, [known, odd], "refineg") == (1, 1, 3)
    assert tally(parade, [odd], "refineg") == (0, 0, 0)
    assert tally(parade, [known, odd], "riveg") == (1, 2, 3)
    assert tally(parade, [known, odd], "span") == (1, 2, 3)


@pytest.mark.parametrize("rule", ORACLES)
def test_silence_counts_as_wrong(parade: Post, rule: str) -> None:
    for silence in ([], [PostPrediction("p1", failure=Failure("crash", "ground"))]):
        result = score([parade], silence, rule)
        assert all(counts(result, task)[:2] == (0, 0) for task in TASKS)
        assert counts(result, "gmner")[2] == 3
        assert result.tasks["gmner"].counts.f1 == 0.0


@pytest.mark.parametrize("rule", ORACLES)
def test_predictions_for_other_posts(parade: Post, rule: str) -> None:
    right = PostPrediction("p1", (Prediction("Bo", "ORG", None, 2, 3),))
    lost = PostPrediction("p9", (Prediction("Bo", "ORG", None, 2, 3),))
    result = score([parade], [right, lost], rule)
    assert counts(result, "gmner") == (1, 1 if rule == "refineg" else 2, 3)
    assert counts(result, "mner")[:2] == (1, 2)


def test_an_error_record_for_another_post_predicts_nothing(parade: Post) -> None:
    lost = (Prediction("Bo", "ORG", None, 2, 3),)
    failed = PostPrediction("p9", lost, Failure("timeout", "sample"))
    assert counts(score([parade], [failed], "riveg"), "mner") == (0, 0, 3)


def test_span_rule_does_not_guess_tokens(parade: Post) -> None:
    answers = [Prediction("Bo", "ORG", None), Prediction("Ann", "PER", LARGE, 0, 1)]
    assert tally(parade, answers, "span") == (1, 2, 3)
    assert tally(parade, answers, "span", "mner") == (2, 2, 3)
    result = score([parade], [PostPrediction("p1", tuple(answers))], "span").to_json()
    assert result["compared_by"] == {"gmner": "span", "eeg": "name", "mner": "name"}


def test_names_are_compared_letter_by_letter(parade: Post) -> None:
    assert tally(parade, [Prediction("bo", "ORG", None)], "riveg") == (0, 1, 3)


def test_intervals_hold_the_figure(parade: Post) -> None:
    posts = [Post(str(n), parade.tokens, parade.entities) for n in range(40)]
    predictions = [
        PostPrediction(post.id, (Prediction("Bo", "ORG", None if n % 3 else LARGE),))
        for n, post in enumerate(posts)
    ]
    for rule in ORACLES:
        task = score(posts, predictions, rule, resamples=400).tasks["mner"]
        assert task.f1_interval is not None
        assert task.f1_interval[0] <= task.counts.f1 <= task.f1_interval[1]
    task = score(posts, predictions, "riveg", resamples=400).tasks["gmner"]
    assert task.f1_interval is not None
    low, high = task.f1_interval
    assert low < task.counts.f1 < high


def test_an_id_given_twice_is_refused(parade: Post) -> None:
    with pytest.raises(InputError, match="twice"):
        score([parade], [PostPrediction("p1"), PostPrediction("p1")], "span")


@pytest.mark.parametrize("rule", ORACLES)
def test_field_r5_a_failed_entity_is_no_triple_and_its_gold_is_missed(
    parade: Post, rule: str
) -> None:
    lost = FailedEntity("Bo", "ORG", Failure("refused", "answer"), 2, 3)
    ann = Prediction("Ann", "PER", LARGE, 0, 1)
    half = score([parade], [PostPrediction("p1", (ann,), failed=(lost,))], rule)
    alone = score([parade], [PostPrediction("p1", (ann,))], rule)
    assert [counts(half, task) for task in TASKS] == [counts(alone, task) for task in TASKS]
    silent = score([parade], [PostPrediction("p1", failed=(lost,))], rule)
    assert counts(silent, "gmner") == (0, 0, 3), "not an empty answer, which refineg leaves out"
