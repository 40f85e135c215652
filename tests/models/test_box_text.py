from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.models.box_text import BoxForm, BoxText, read_box
from groundling.models.coordinates import Convention, ConventionName, Frame
from groundling.records import ABSENT, Box, Failure

NUMBERS = [10.0, 20.0, 30.0, 40.0]
FORMS: tuple[BoxForm, ...] = get_args(BoxForm)
FRAME = Frame((640, 480), (308, 224))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", get_args(ConventionName))
@given(
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_what_is_written_is_read_back(
    form: BoxForm, name: ConventionName, corners: tuple[float, float, float, float]
) -> None:
    """Within half a unit of the convention, in pixels of the original."""
    x1, x2 = sorted((640 * corners[0], 640 * corners[2]))
    y1, y2 = sorted((480 * corners[1], 480 * corners[3]))
    words = BoxText(form, Convention(name))
    found = words.read(words.write(Box(x1, y1, x2, y2), FRAME), FRAME)
    full = words.convention.scale(FRAME)
    if isinstance(found, Failure):
        steps = [words.convention.unit * s / f for s, f in zip((640, 480), full, strict=True)]
        assert x2 - x1 < 0.5 + 1.001 * steps[0] or y2 - y1 < 0.5 + 1.001 * steps[1]
        return
    assert isinstance(found, Box)
    for axis, (said, meant) in enumerate(zip(found.xyxy, (x1, y1, x2, y2), strict=True)):
        half_px = words.convention.unit / 2 * (640, 480)[axis % 2] / full[axis % 2]
        assert abs(said - meant) <= half_px + 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text", [ABSENT, f"{ABSENT}.", f"“{ABSENT}.”", f'"{ABSENT}."', f"  {ABSENT.lower()}\n"]
)
def test_absent(form: BoxForm, text: str) -> None:
    assert read_box(text, form) is None


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("list", "[10, 20, 30, 40]"),
        ("list", " [10,20.0,30 , 40]\n"),
        ("list", "[10, 20, 30, 40]."),
        ("qwen2-vl", "(10,20),(30,40)"),
        ("qwen2-vl", "<|box_start|>(10,20),(30,40)<|box_end|>"),
        ("bbox-2d", '{"bbox_2d": [10, 20, 30, 40], "label": "x"}'),
        ("bbox-2d", '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "x"}\n]\n```'),
        ("bbox-2d", '[{"bbox_2d": [10, 20, 30, 40]}]'),
        ("bbox-2d", '```json\n[\n{"bbox_2d": [10, 20, 30, 40]}\n]\n```'),
    ],
)
def test_a_box(form: BoxForm, text: str) -> None:
    assert read_box(text, form) == NUMBERS


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("list", "The box is [10, 20, 30, 40]"),
        ("list", "[10, 20, 30]"),
        ("list", "[10, 20, 30, 40, 50]"),
        ("list", "[10, 20, 30, 40] [1, 2, 3, 4]"),
        ("list", "10, 20, 30, 40"),
        ("list", "(10,20),(30,40)"),
        ("list", "[10, 20, thirty, 40]"),
        ("list", "[1e1, 2, 3, 4]"),
        ("list", "None"),
        ("list", f"{ABSENT}, or [10, 20, 30, 40]"),
        ("qwen2-vl", "[10, 20, 30, 40]"),
        ("qwen2-vl", "(10,20),(30,40),(50,60),(70,80)"),
        ("bbox-2d", "[10, 20, 30, 40]"),
        ("bbox-2d", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [1, 2, 3, 4]}]'),
        ("bbox-2d", '{"bbox_2d": [1, 2, 3, true]}'),
        ("bbox-2d", '{"bbox_2d": [1, 2, 3, "4"]}'),
        ("bbox-2d", '{"bbox_2d": 4}'),
        ("bbox-2d", "{"),
        ("bbox-2d", "[" * 100_000),
    ],
)
def test_anything_else_is_a_failure(form: BoxForm, text: str) -> None:
    found = read_box(text, form)
    assert isinstance(found, Failure)
    assert found.stage == "parse"
    assert len(found.reason) < 200


@pytest.mark.parametrize(
    ("form", "text", "kind"),
    [
        ("list", "[10, 20, 30, 40]\n[]", "list-then-list"),
        ("bbox-2d", '[{"bbox_2d": [1, 2, 3, 4]}]\n[]', "list-then-list"),
        ("list", "Here it is:\n```json\n[10, 20, 30, 40]\n```", "prose"),
        ("bbox-2d", 'Sure:\n```json\n{"bbox_2d": [1, 2, 3, 4]}\n```', "prose"),
        ("list", "The box is [10, 20, 30, 40]", "prose"),
        ("list", "[10, 20, 30, 40] [1, 2, 3, 4]", "two-boxes"),
        ("list", "[[10, 20, 30, 40], [1, 2, 3, 4]]", "two-boxes"),
        ("qwen2-vl", "(10,20),(30,40),(50,60),(70,80)", "two-boxes"),
        ("bbox-2d", '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [1, 2, 3, 4]}]', "two-boxes"),
        ("list", '["10", "20", "30", "40"]', "strings"),
        ("list", '["10, 20, 30, 40"]', "strings"),
        ("bbox-2d", '{"bbox_2d": ["1", "2", "3", "4"]}', "strings"),
        ("bbox-2d", '{"bbox_2d": [1, 2, 3, "4"]}', "strings"),
        ("bbox-2d", '{"bbox": [1, 2, 3, 4]}', "other-keys"),
        ("list", '{"x1": 1, "y1": 2, "x2": 3, "y2": 4}', "other-keys"),
        ("bbox-2d", '[{"box_2d": [1, 2, 3, 4], "label": "x"}]', "other-keys"),
        ("bbox-2d", '{"bbox_2d": null, "bbox_2d": [1, 2, 3, 4]}', "duplicate-keys"),
        ("list", '{"box": null, "box": [1, 2, 30, 40]}', "duplicate-keys"),
        ("list", '{"bbox_2d": [1, 2, 3, 4]}', "other-form"),
        ("list", "(10,20),(30,40)", "other-form"),
        ("list", "10, 20, 30, 40", "other-form"),
        ("bbox-2d", "[10, 20, 30, 40]", "other-form"),
        ("list", "I'm sorry, but I can't identify people.", "refused"),
        ("list", "The person is on the left.", "no-box"),
        ("list", "[]", "no-box"),
        ("list", "[10, 20, 30]", "no-box"),
        ("list", "<think>Is it [10, 20, 30, 40]", "thought"),
        ("list", "", "empty"),
        ("list", "[1, 2,\x00 3, 4]", "characters"),
    ],
)
def test_field_e7_what_is_no_box_is_told_by_its_shape(form: BoxForm, text: str, kind: str) -> None:
    found = read_box(text, form)
    assert isinstance(found, Failure)
    assert (found.stage, found.kind) == ("parse", kind)


@pytest.mark.parametrize("numbers", ["[10, 20, 1040, 40]", "[-1, 0, 5, 5]", "[30, 20, 10, 40]"])
def test_field_e7_a_box_outside_the_convention_is_told_as_such(numbers: str) -> None:
    found = BoxText("list", Convention("relative-1000")).read(numbers, FRAME)
    assert isinstance(found, Failure)
    assert found.kind == "outside"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "around", ["{}", "<think>Left.</think>\n{}", "```json\n{}\n```", "{}<|im_end|>"]
)
def test_field_e2_a_box_after_one_closed_thought_is_read(form: BoxForm, around: str) -> None:
    words = BoxText(form, Convention("relative-1000"))
    said = words.write(Box(64, 0, 320, 480), FRAME)
    assert words.read(around.format(said), FRAME) == Box(64, 0, 320, 480)
    assert words.read(around.format(ABSENT), FRAME) is None


@pytest.mark.parametrize("form", FORMS)
@given(text=st.text())
def test_any_text_is_read(form: BoxForm, text: str) -> None:
    assert isinstance(read_box(text, form), Failure) or text


@pytest.mark.parametrize(
    "text",
    [
        "Neymar(10,20),(30,40)",
        "the man (on the left) in red(10,20),(30,40)",
        "Neymar (PER)(10,20),(30,40)",
        "<|object_ref_start|>Neymar<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
    ],
)
def test_field_m10_a_name_may_stand_before_a_qwen2_vl_box(text: str) -> None:
    assert read_box(text, "qwen2-vl") == NUMBERS


@pytest.mark.parametrize(
    "text",
    [
        "The box is (10,20),(30,40)",
        "The box:(10,20),(30,40)",
        "one(1,2),(3,4)two(10,20),(30,40)",
        "one(1,2),(3,4)\ntwo(10,20),(30,40)",
        "not there\n(10,20),(30,40)",
        "Neymar(10,20),(30,40) or so",
        "Neymar(10,20)",
    ],
)
def test_field_m10_a_sentence_about_a_box_is_none(text: str) -> None:
    assert isinstance(read_box(text, "qwen2-vl"), Failure)
