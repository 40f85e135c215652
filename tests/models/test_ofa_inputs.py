from __future__ import annotations

import pytest
import torch
from PIL import Image

from groundling.models.ofa.inputs import clean_expression, prompt, squeeze


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("The Man", "the man"),
        ("...the man.", "the man."),
        ("  two   spaces ", "two spaces"),
        ("semi-trailer and/or car", "semi trailer and or car"),
        ("the <person> here\n", "the person here"),
        (" .dot after a space", ".dot after a space"),
        ("ÀÉ naïve", "àé naïve"),
        ("?!", ""),
        ("   ", ""),
        (" ".join(str(i) for i in range(100)), " ".join(str(i) for i in range(80))),
    ],
)
def test_cleaning(said, read):
    assert clean_expression(said) == read


def test_the_prompt_begins_with_a_space():
    assert prompt("a man") == ' which region does the text " a man " describe?'


def test_squeezing():
    picture = Image.new("RGB", (30, 10), (0, 255, 51))
    pixels = squeeze(picture, 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 3, 5], torch.tensor([-1.0, 1.0, -0.6]))
    grey = squeeze(Image.new("L", (4, 4), 255), 16)
    assert torch.equal(grey, torch.ones(3, 16, 16))
