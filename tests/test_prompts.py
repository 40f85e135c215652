from __future__ import annotations

import pytest

from groundling import prompts

INSTRUCTION = (
    "Given an image and a named entity, please check if the entity appears in the image. "
    "If it exists, please provide a description of the entity in the image."
)


def test_a1_is_the_papers():
    assert prompts.EXPERT == (
        "Give a referring expression in one sentence, according to which the green bounding box "
        "in the image can be determined without any other prior knowledge."
    )
    assert prompts.as_text(prompts.expert_messages()) == "{image}" + prompts.EXPERT


def test_a2_is_the_papers_with_the_entity_filled_in():
    assert prompts.as_text(prompts.writer_messages("Neymar", "PER")) == (
        f"{INSTRUCTION}\n\nImage: {{image}}\n\nEntity: Neymar (PER)"
    )


def test_a3_is_the_papers_with_its_quotation_marks():
    assert prompts.as_text(prompts.direct_messages("NASA", "ORG")) == (
        "Given an image and a named entity, please check if the entity appears in the image. "
        "If it exists, please provide the corresponding bounding box; otherwise, please answer "
        "“The entity does not appear in the image.”\n\nImage: {image}\n\nEntity: NASA (ORG)"
    )


@pytest.mark.parametrize("name", ["{image}", "{entity (type)}", "%s {0} \\1", "a\nb"])
def test_a_name_is_never_read_as_a_slot(name):
    (message,) = prompts.writer_messages(name, "MISC")
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image", "text"]
    assert message["content"][2]["text"] == f"\n\nEntity: {name} (MISC)"


def test_all_writer_prompts_begin_alike():
    first = prompts.writer_messages("a", "PER")[0]["content"]
    second = prompts.writer_messages("b", "LOC")[0]["content"]
    assert first[:2] == second[:2]


def test_the_form_of_a_box_is_ours_and_stands_apart():
    form = prompts.box_form(1000, 750)
    assert "[x1, y1, x2, y2]" in form
    assert "x from 0 to 1000 across" in form
    assert "y from 0 to 750 down" in form
    assert form not in prompts.GROUND_DIRECTLY
