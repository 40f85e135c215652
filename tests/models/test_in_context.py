from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.models.base import Case, Solved
from groundling.models.coordinates import Convention, ConventionName
from groundling.models.in_context import in_context_question
from groundling.prompts import as_text
from groundling.records import Box, Frame
from groundling.replies import ReplyError

CASE = Case("case.jpg", "Anna waves", "Anna", "PER")
SHOWN = (
    Solved(Case("one.jpg", "Ben runs", "Ben", "PER"), Box(64, 0, 320, 480)),
    Solved(Case("two.jpg", "in Rome", "Rome", "LOC"), None),
)
FRAMES = (
    Frame((640, 480), (320, 240)),
    Frame((100, 100), (100, 100)),
    Frame((800, 400), (400, 200)),
)


def words(convention: ConventionName) -> str:
    return as_text(in_context_question(CASE, SHOWN, convention).messages(FRAMES))


def test_examples_come_first_each_with_its_picture_and_answer() -> None:
    question = in_context_question(CASE, SHOWN, "relative-1000")
    assert question.pictures == ("one.jpg", "two.jpg", "case.jpg")
    text = as_text(question.messages(FRAMES))
    order = [
        "Example 1\n{image}\nPost: Ben runs\nEntity: Ben (PER)\n"
        'Answer: {"box": [100.0, 0.0, 500.0, 1000.0]}',
        'Example 2\n{image}\nPost: in Rome\nEntity: Rome (LOC)\nAnswer: {"box": null}',
        "The case\n{image}\nPost: Anna waves\nEntity: Anna (PER)\n",
        "one JSON object and nothing else",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert text.count("{image}") == 3


def test_without_examples_it_is_zero_shot() -> None:
    question = in_context_question(CASE, (), "relative-1000")
    text = as_text(question.messages(FRAMES[-1:]))
    assert question.pictures == ("case.jpg",)
    assert "Example" not in text
    assert text.count("{image}") == 1


def test_boxes_are_told_in_the_pixels_of_the_picture_that_is_shown() -> None:
    text = words("resized-pixels")
    assert "Example 1\nThis picture is 320 pixels wide and 240 high.\n{image}" in text
    assert '{"box": [32.0, 0.0, 160.0, 240.0]}' in text
    assert "The case\nThis picture is 400 pixels wide and 200 high.\n{image}" in text
    assert "This picture is 640 pixels wide and 480 high." in words("pixels")
    assert "pixels wide" not in words("relative-1")


def read(answer: object, convention: ConventionName = "resized-pixels") -> object:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return in_context_question(CASE, SHOWN, convention).read(text, FRAMES)


def test_the_answers_box_is_mapped_back_to_the_original_picture() -> None:
    told = {"reasoning": "She waves.", "box": [10, 20, 30, 200]}
    assert read(told) == (Box(20, 40, 60, 400), "She waves.")
    assert read({"box": [100, 0, 500, 1000]}, "relative-1000") == (Box(80, 0, 400, 400), "")
    assert read({"reasoning": "Not there.", "box": None}) == (None, "Not there.")
    assert read("```json\n" + json.dumps({"box": None}) + "\n```") == (None, "")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("She is on the left.", "not one JSON object"),
        ({"reasoning": "x"}, "wanted a JSON object with the keys"),
        ({"box": None, "score": 1}, "wanted a JSON object with the keys"),
        ({"box": [1, 2, 3]}, '"box" is neither null nor four numbers'),
        ({"box": [1, 2, True, 4]}, '"box" is neither null nor four numbers'),
        ({"box": "null"}, '"box" is neither null nor four numbers'),
        ({"box": None, "reasoning": 3}, '"reasoning" is not text'),
        ({"box": [0, 0, 401, 10]}, "leaves the convention resized-pixels"),
        ({"box": [30, 0, 10, 10]}, "its second corner lies before its first"),
        ('{"box": null, "box": [1, 2, 30, 40]}', "key 'box' is given twice"),
        ("I'm sorry, but I can't identify people in images.", "declines to answer"),
        ("<think>On the left", "an unfinished thought"),
    ],
)
def test_what_cannot_be_read_says_why(answer: object, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read(answer)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ('{"box": null, "box": [1, 2, 30, 40]}', "duplicate-keys"),
        ('{"bbox": [1, 2, 30, 40]}', "other-keys"),
        ("She is on the left.", "not-json"),
        ('Here:\n```json\n{"box": null}\n```', "prose"),
        ('{"box": [0, 0, 401, 10]}', "outside"),
        ("<think>On the left", "thought"),
        ("抱歉，我无法识别图片中的人物。", "refused"),
    ],
)
def test_field_e7_unread_answers_tell_their_shape(answer: str, kind: str) -> None:
    with pytest.raises(ReplyError) as caught:
        read(answer)
    assert caught.value.kind == kind


def test_field_e2_json_after_one_closed_thought_is_read() -> None:
    assert read('<think>Where?</think>\n```json\n{"box": null}\n```') == (None, "")


sides = st.integers(20, 900)


@given(
    st.sampled_from(["relative-1000", "relative-1", "resized-pixels", "pixels"]),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.data(),
)
def test_a_box_shown_as_an_example_reads_back_within_half_a_unit(
    convention: ConventionName,
    original: tuple[int, int],
    resized: tuple[int, int],
    data: st.DataObject,
) -> None:
    frame = Frame(original, resized)
    x1, x2 = sorted(data.draw(st.tuples(*[st.floats(0, original[0])] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.floats(0, original[1])] * 2)))
    box = Box(x1, y1, x2, y2)
    question = in_context_question(CASE, (Solved(CASE, box),), convention)
    text = as_text(question.messages((frame, frame)))
    shown = re.search(r"Answer: (.*)", text)
    assert shown is not None
    full = Convention(convention).scale(frame)
    unit = Convention(convention).unit
    across, down = (
        0.5 + 1.001 * unit * side / most for side, most in zip(original, full, strict=True)
    )
    if x2 - x1 < across or y2 - y1 < down:
        return  # it may be written without area, and is then no answer
    found, _ = question.read(shown[1], (frame, frame))
    assert found is not None
    for one, two, side, most in zip(found.xyxy, box.xyxy, original * 2, full * 2, strict=True):
        assert abs(one - two) <= (0.5 * unit + 1e-6) * side / most + 1e-6
