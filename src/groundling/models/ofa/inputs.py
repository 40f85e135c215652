"""What OFA is given to ground an expression: a cleaned prompt and a squeezed picture."""

from __future__ import annotations

import re

import numpy as np
import torch
from PIL import Image

CLOSING = ' " describe?'
PROMPT = f' which region does the text " {{}}{CLOSING}'
"""The instruction of OFA's referring-expression task; the leading space is part of it."""

MAX_WORDS = 80
"""Words of an expression that are read; the rest is cut off."""


def clean_expression(expression: str) -> str:
    """An expression as OFA was trained on it; empty where nothing is left.

    Lower case, no leading punctuation, hyphens and slashes as spaces, no repeated space, at most
    80 words. The order of the steps is OFA's.

    >>> clean_expression("The semi-trailer,  LEFT of it")
    'the semi trailer, left of it'
    """
    text = expression.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ")
    text = re.sub(r"\s{2,}", " ", text.replace("<person>", "person")).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:MAX_WORDS])


def prompt(cleaned: str) -> str:
    """The instruction around a cleaned expression."""
    return PROMPT.format(cleaned)


def squeeze(picture: Image.Image, side_px: int) -> torch.Tensor:
    """An RGB picture → (3, side, side) in [−1, 1]: bicubic, mean and standard deviation 0.5."""
    squeezed = picture.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC)
    values = np.asarray(squeezed, dtype=np.float32) / 255.0
    return torch.from_numpy(((values - 0.5) / 0.5).transpose(2, 0, 1).copy())
