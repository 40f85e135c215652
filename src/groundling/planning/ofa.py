"""Memory of OFA, whose grounding parameters are all trained: bytes by formulas."""

from __future__ import annotations

from collections.abc import Iterator

from groundling.planning.outline import OfaOutline
from groundling.planning.terms import FULL

TEXT_TOKENS = 40
"""Tokens of the question with its expression: an assumption."""

ANSWER_TOKENS = 5
"""Four bins and the end."""


def cells(outline: OfaOutline) -> int:
    """Patches of a picture: (side / 16)²."""
    return (outline.side_px // 16) ** 2


def sequence(outline: OfaOutline) -> int:
    """What the encoder reads: patches and text."""
    return cells(outline) + TEXT_TOKENS


def trunk_levels(outline: OfaOutline) -> Iterator[tuple[int, int, int, int, int]]:
    """Each stage as (blocks, width, channels in, cells in, cells out)."""
    area = (outline.side_px // 4) ** 2
    channels = outline.stem
    for stage in outline.stages:
        out = area // stage.stride**2
        yield stage.blocks, stage.width, channels, area, out
        channels, area = 4 * stage.width, out


def trunk(outline: OfaOutline, pictures: int, width: int) -> int:
    """Inputs of the batch norms and results of the rectifiers, which are the next inputs.

    The picture itself has 3 · side² numbers. The stem keeps 2 · c · (side / 2)² numbers, and its
    pooling c · (side / 4)² of b + 8 bytes. A block of width w keeps 12 · w a cell; the first of a
    stage keeps 2 · w of these a cell of the resolution before it, and 4 · w more for its shortcut.
    """
    half, quarter = (outline.side_px // 2) ** 2, (outline.side_px // 4) ** 2
    numbers = 3 * outline.side_px**2 + 2 * outline.stem * half
    for blocks, wide, _, before, after in trunk_levels(outline):
        numbers += blocks * 12 * wide * after + 2 * wide * (before - after) + 4 * wide * after
    return pictures * (numbers * width + outline.stem * quarter * (width + 8))


def encoder_layer(outline: OfaOutline, rows: int, width: int) -> int:
    """tokens · (10d + 3f) · b, two dropout masks of d bytes, and heads · S² · b for the bias.

    Attention with a bias that learns keeps its probabilities or its bias, rows · heads · S².
    """
    length = sequence(outline)
    numbers = 10 * outline.hidden + 3 * outline.inner
    tokens = rows * length
    attention = rows * outline.heads * length**2
    return tokens * (numbers * width + 2 * outline.hidden) + attention * width


def decoder_layer(outline: OfaOutline, rows: int, width: int) -> int:
    """The encoder's keys and values, rows · S · 2d · b; its own five tokens hardly count."""
    across = rows * sequence(outline) * 2 * outline.hidden
    own = rows * ANSWER_TOKENS * (18 * outline.hidden + 3 * outline.inner)
    return (across + own) * width


def logits(outline: OfaOutline, rows: int, width: int) -> int:
    """rows · 5 · V · (b + 4 + 4), as for a writer."""
    return rows * ANSWER_TOKENS * outline.vocabulary * (width + 2 * FULL)


def step(outline: OfaOutline, rows: int, width: int, checkpointing: bool) -> int:
    """Activations of a training step. The trunk is never computed twice."""
    encoder, decoder = encoder_layer(outline, rows, width), decoder_layer(outline, rows, width)
    if checkpointing:
        inputs = rows * sequence(outline) * outline.hidden * width * outline.encoder_layers
        layers = inputs + max(encoder, decoder)
    else:
        layers = outline.encoder_layers * encoder + outline.decoder_layers * decoder
    return trunk(outline, rows, width) + layers + logits(outline, rows, width)


def search(outline: OfaOutline, rows: int, width: int) -> int:
    """Beam search: one layer of the encoder, the keys and values of all decoder layers, the trunk.

    Without gradient the trunk holds its largest two results, 2 · 2 · c · (side / 2)².
    """
    length = sequence(outline)
    trunk_space = rows * 4 * outline.stem * (outline.side_px // 2) ** 2 * width
    layer = encoder_layer(outline, rows, width)
    held = rows * length * 2 * outline.hidden * width * outline.decoder_layers
    return max(trunk_space, layer) + held


def operations(outline: OfaOutline) -> float:
    """A forward pass: 2 · parameters · tokens for the layers, 2 · 17 w² a cell and block before."""
    embedding = outline.vocabulary * outline.hidden
    layers = outline.parameters - embedding - outline.trunk_parameters
    encoder = layers * outline.encoder_layers / (outline.encoder_layers + outline.decoder_layers)
    convolved = sum(
        blocks * 17 * wide**2 * after for blocks, wide, _, _, after in trunk_levels(outline)
    )
    return 2.0 * (encoder * sequence(outline) + convolved)
