from __future__ import annotations

import json

import pytest
import tiny
import torch
from stock import inputs
from transformers import GenerationConfig

from groundling.errors import InputError
from groundling.models.base import Sampling
from groundling.models.local import LocalWriter, Resources
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


def test_a_checkpoint_that_names_no_end_is_refused():
    processor = tiny.processor()
    processor.tokenizer.eos_token = None
    assert Wording(processor, ask_for_expression).ends == (ids(processor, "<|im_end|>"),)
    processor.chat_template = tiny.CHAT_TEMPLATE.replace("<|im_end|>", "")
    with pytest.raises(InputError, match=r"no control token after an answer and .* no eos_token"):
        Wording(processor, ask_for_expression)


# ------------------------------------------------------------------------- thoughts and ends

ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
OPEN = ASK.replace("{% endif %}", "<think>\n{% endif %}")
SWITCH = ASK.replace(
    "{% endif %}",
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}",
)


def asking(how: str):
    """A processor whose template begins an answer so."""
    made = tiny.processor()
    made.chat_template = tiny.CHAT_TEMPLATE.replace(ASK, how)
    return made


def ids(processor, token: str) -> int:
    return processor.tokenizer.convert_tokens_to_ids(token)


def test_field_m7_thinking_is_off_where_the_template_knows_the_switch():
    wording = Wording(asking(SWITCH), ask_for_expression)
    text = wording.rendered("Neymar (PER)")
    assert isinstance(text, str)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("thought", ["<think>\n", "<think>", "<thinking>\n\n", "[THINK]"])
def test_field_m7_a_prompt_that_ends_in_an_open_thought_is_refused(thought):
    with pytest.raises(InputError, match=r"ends a prompt in an open thought") as caught:
        Wording(asking(OPEN.replace("<think>\n", thought)), ask_for_expression)
    assert "\n" not in str(caught.value)


def test_field_m7_a_template_without_the_switch_is_not_told_of_it(caplog):
    processor, seen = tiny.processor(), []
    original = processor.apply_chat_template

    def watched(*args, **settings):
        seen.append(settings)
        return original(*args, **settings)

    processor.apply_chat_template = watched
    Wording(processor, ask_for_expression)
    assert seen
    assert all("enable_thinking" not in settings for settings in seen)
    assert not caplog.records


def test_field_m8_an_answer_ends_as_the_template_ends_a_turn():
    """Which need not be with the tokenizer's eos_token."""
    processor = tiny.processor()
    processor.tokenizer.eos_token = "<pad>"
    wording = Wording(processor, ask_for_expression)
    assert wording.end == ids(processor, "<|im_end|>")
    assert wording.ends == (wording.end, ids(processor, "<pad>"))
    assert wording.answer("the man")[-1] == wording.end


@pytest.mark.parametrize("content", ["string", "parts"])
def test_field_m8_templates_take_answers_in_either_form(content):
    only = {
        "string": "{% if m['content'] is not string %}{{ 1 / 0 }}{% endif %}{{ m['content'] }}",
        "parts": "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}",
    }[content]
    processor = tiny.processor()
    processor.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}U {% for part in m['content'] %}"
        "{{ part['text'] if part['type'] == 'text' else '<|image_pad|>' }}{% endfor %}"
        "{% else %} " + only + " <|vision_end|> {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A{% endif %}"
    )
    assert Wording(processor, ask_for_expression).end == ids(processor, "<|vision_end|>")


def test_field_m8_without_a_turn_end_in_the_template_it_is_the_tokenizers():
    processor = tiny.processor()
    processor.chat_template = tiny.CHAT_TEMPLATE.replace("<|im_end|>", "\n")
    assert Wording(processor, ask_for_expression).end == ids(processor, "<|im_end|>")


def test_field_m8_all_listed_ends_end_an_answer(tmp_path):
    """By hand and by the stock forward pass, from a folder: no draw holds a listed end."""
    model, processor = tiny.model(), tiny.processor()
    second = ids(processor, "<|vision_end|>")
    model.generation_config = GenerationConfig(eos_token_id=[second, ids(processor, "<pad>")])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with torch.no_grad():  # make the second end likely
        model.lm_head.weight[second] = model.lm_head.weight[40:60].mean(0)
    model.save_pretrained(tmp_path)
    hot = Sampling(temperature=3.0, max_new_tokens=48)
    for engine in ("auto", "stock"):
        writer = LocalWriter.load(
            tmp_path, resources=Resources(open_image=tiny.picture, engine=engine)
        )
        usual = writer.chat.wording.end
        assert writer.chat.wording.ends == (usual, *sorted({second, ids(processor, "<pad>")}))
        drawn = writer.chat.draw(tiny.asks(tiny.QUERIES), ["a"] * 6, 24, hot, 0)
        said = [one for row in drawn for one in row]
        by_second = [one for one in said if one.logprob is not None and not one.usual_end]
        assert by_second
        rows = writer.sample(tiny.QUERIES, 24, hot, 0, "s")
        assert sum(one.logprob is None for row in rows for one in row) >= len(by_second)


# ------------------------------------------------------------------------- where templates lie


def test_field_m9_a_template_in_the_tokenizers_settings_alone(tmp_path):
    processor = tiny.processor()
    before = Wording(processor, ask_for_expression).rendered("Neymar (PER)")
    tiny.model().save_pretrained(tmp_path)
    processor.tokenizer.chat_template, processor.chat_template = tiny.CHAT_TEMPLATE, None
    processor.save_pretrained(tmp_path)
    loose = tmp_path / "chat_template.jinja"
    loose.unlink(missing_ok=True)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["chat_template"] = tiny.CHAT_TEMPLATE
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not list(tmp_path.glob("*template*"))
    writer = LocalWriter.load(tmp_path, resources=Resources(open_image=tiny.picture))
    assert writer.chat.wording.rendered("Neymar (PER)") == before


def test_field_m9_no_template_at_all_is_one_line():
    processor = tiny.processor()
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"no chat template; wanted chat_template\.jinja"):
        Wording(processor, ask_for_expression)


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no images') }}", "{% for %}", "{{ 1/0 }}"]
)
def test_field_m9_a_template_that_fails_is_one_line(template):
    processor = tiny.processor()
    processor.chat_template = template
    with pytest.raises(InputError, match="the chat template cannot be used") as caught:
        Wording(processor, ask_for_expression)
    assert "\n" not in str(caught.value)
