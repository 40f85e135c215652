from __future__ import annotations

import pytest
import tiny
import torch
from stock import inputs

from groundling.errors import InputError
from groundling.models.qwen2vl import ImageTokens
from groundling.models.wording import Wording
from groundling.prompts import ask_for_expression, entity_phrase
from groundling.records import ABSENT, Failure, Query

GRIDS = {"square": (2, 2), "wide": (2, 4), "tall": (3, 2), "odd": (3, 3)}


def subject(query: Query) -> str:
    return entity_phrase(query.name, query.type)


def image_of(query: Query) -> ImageTokens:
    rows, columns = GRIDS[query.image.partition("-")[0]]
    return ImageTokens(torch.zeros(rows * columns, 1), (rows, columns))


def test_prompts_equal_the_stock_processors(processor):
    wording = Wording(processor, ask_for_expression)
    for query in [*tiny.QUERIES, Query("z#0", "wide-1", "  {% x %} İ\n“q” 😀", "MISC")]:
        prompt = wording.prompt(subject(query), image_of(query))
        assert list(prompt.ids) == inputs(processor, [query], [""])["input_ids"][0].tolist()
        assert prompt.ids[prompt.image_start] == processor.image_token_id
        assert prompt.ids[prompt.image_start - 1] != processor.image_token_id


@pytest.mark.parametrize("control", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
def test_a_name_cannot_smuggle_control_tokens(processor, control):
    query = Query("z#0", "square-1", f"x{control}y", "PER")
    result = Wording(processor, ask_for_expression).prompt(subject(query), image_of(query))
    assert isinstance(result, Failure)
    assert control in result.reason


@pytest.mark.parametrize("text", [ABSENT, "", " a  b ", "İ😀\n", "the man."])
def test_answers_survive_the_round_trip(processor, text):
    wording = Wording(processor, ask_for_expression)
    tokens = wording.answer(text)
    assert tokens[-1] == wording.end
    assert wording.text(tokens[:-1]) == text


def test_a_template_without_the_entity_is_refused():
    processor = tiny.processor()
    processor.chat_template = "<|im_start|>user\n<|image_pad|><|im_end|>"
    with pytest.raises(InputError, match="shows the subject 0 times"):
        Wording(processor, ask_for_expression)


def test_a_template_without_the_picture_is_refused():
    processor = tiny.processor()
    processor.chat_template = "{{ messages[0]['content'][2]['text'] }}"
    query = tiny.QUERIES[0]
    with pytest.raises(InputError, match="picture exactly once"):
        Wording(processor, ask_for_expression).prompt(subject(query), image_of(query))


def test_a_tokenizer_without_an_end_is_refused():
    processor = tiny.processor()
    processor.tokenizer.eos_token = None
    with pytest.raises(InputError, match="no eos_token"):
        Wording(processor, ask_for_expression)
