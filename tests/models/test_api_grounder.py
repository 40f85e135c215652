from __future__ import annotations

from pathlib import Path

import pytest
from client_calls import endpoint
from fault_server import Act, FaultServer, said
from PIL import Image

from groundling.prompts import as_text, direct_messages
from groundling.records import ABSENT, Box, Failure, Prediction, Query, count_failures


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (640, 480), (90, 160, 90)).save(path)
    return str(path)


def answer(photo: str, text: str, **settings: object) -> tuple[Prediction | Failure, FaultServer]:
    with FaultServer(said(text)) as server, endpoint(server, **settings) as place:
        queries = [Query("p#0", photo, "Neymar", "PER")]
        ((number, found),) = place.direct_grounder().answer(queries)
    assert number == 0
    return found, server


@pytest.mark.parametrize(
    ("convention", "text"),
    [
        ("relative-1000", "[250, 500, 750, 1000]"),
        ("relative-1", "[0.25, 0.5, 0.75, 1]"),
        ("pixels", "[160, 240, 480, 480]"),
        ("resized-pixels", "[40, 60, 120, 120]"),
    ],
)
def test_a_box_in_each_convention(convention: str, text: str, photo: str) -> None:
    found, _ = answer(photo, text, convention=convention, max_pixels=160 * 120)
    assert found == Prediction("Neymar", "PER", Box(160, 240, 480, 480))


@pytest.mark.parametrize(
    ("convention", "words"),
    [
        ("relative-1000", "x from 0 to 1000 across the image, y from 0 to 1000 down it."),
        ("relative-1", "x from 0 to 1 across the image, y from 0 to 1 down it."),
        ("pixels", "x from 0 to 640 across the image, y from 0 to 480 down it."),
        ("resized-pixels", "x from 0 to 160 across the image, y from 0 to 120 down it."),
    ],
)
def test_the_prompt_is_the_papers_and_then_the_form(
    convention: str, words: str, photo: str
) -> None:
    _, server = answer(photo, ABSENT, convention=convention, max_pixels=160 * 120)
    paper = as_text(direct_messages("Neymar", "PER")).replace("{image}", "")
    said_text = server.asked[0].text
    assert said_text.startswith(paper)
    assert said_text.endswith(words)
    assert "[x1, y1, x2, y2]" in said_text


@pytest.mark.parametrize("form", ["qwen2-vl", "bbox-2d"])
def test_a_form_of_the_models_own_leaves_the_prompt_as_it_is(form: str, photo: str) -> None:
    _, server = answer(photo, ABSENT, answer=form)
    paper = as_text(direct_messages("Neymar", "PER")).replace("{image}", "")
    assert server.asked[0].text == paper


def test_a_coordinate_outside_the_convention_is_a_failure(photo: str) -> None:
    found, _ = answer(photo, "[250, 500, 750, 1001]")
    assert isinstance(found, Failure)
    assert "leaves the convention relative-1000" in found.reason
    assert count_failures([found]) == (1, 0), "asked again, an endpoint may keep to it"


def test_failures_keep_their_place(photo: str, tmp_path: Path) -> None:
    queries = [
        Query("p#0", photo, "A", "PER"),
        Query("p#1", str(tmp_path / "none.png"), "B", "PER"),
        Query("p#2", photo, "C", "ORG"),
    ]
    acts = [said(ABSENT), Act(400, b"")]
    with FaultServer(*acts) as server, endpoint(server, concurrency=1) as place:
        found = dict(place.direct_grounder().answer(queries))
    assert found[0] == Prediction("A", "PER", None)
    assert isinstance(found[1], Failure)
    assert found[1].stage == "image"
    assert found[2] == Failure("HTTP 400", "answer")
