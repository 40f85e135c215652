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


def bias(outline: OfaOutline, rows: int, width: int) -> int:
    """What attention adds to its scores, padding hidden: rows · heads · S² · b."""
    return rows * outline.heads * sequence(outline) ** 2 * width


def encoder_layer(outline: OfaOutline, rows: int, width: int) -> int:
    """What a layer keeps: tokens · (10d + 3f) · b, two dropout masks of d bytes, and the bias.

    Attention with a bias that learns keeps its probabilities or its bias, which are as large.
    """
    numbers = 10 * outline.hidden + 3 * outline.inner
    tokens = rows * sequence(outline)
    return tokens * (numbers * width + 2 * outline.hidden) + bias(outline, rows, width)


def decoder_layer(outline: OfaOutline, rows: int, width: int) -> int:
    """The encoder's keys and values, rows · S · 2d · b; its own five tokens hardly count."""
    across = rows * sequence(outline) * 2 * outline.hidden
    own = rows * ANSWER_TOKENS * (18 * outline.hidden + 3 * outline.inner)
    return (across + own) * width


def logits(outline: OfaOutline, rows: int) -> int:
    """rows · 5 · V · 3 · 4: log-softmax, its gradient and the logits', as for a writer."""
    return rows * ANSWER_TOKENS * outline.vocabulary * 3 * FULL


def step(outline: OfaOutline, rows: int, width: int, checkpointing: bool) -> int:
    """Activations at the turn from forward to backward. The trunk is never computed twice."""
    encoder, decoder = encoder_layer(outline, rows, width), decoder_layer(outline, rows, width)
    if checkpointing:
        inputs = rows * sequence(outline) * outline.hidden * width * outline.encoder_layers
        layers = inputs + max(encoder, decoder)
    else:
        layers = outline.encoder_layers * encoder + outline.decoder_layers * decoder
    return trunk(outline, rows, width) + layers + logits(outline, rows)


def search(outline: OfaOutline, rows: int, beams: int, width: int) -> int:
    """Beam search: its pictures, and the trunk, the encoder or the decoder at its widest.

    - trunk: 17 · c · (side / 4)² · b a picture, in the blocks of the first stage
    - encoder: the bias and tokens · (6d + 2f) · b in the feed-forward layer; in attention tokens ·
      8d · b and the bias once more, for GPUs ask for rows of it that are aligned
    - decoder: the keys and values of all layers, rows · S · 2d · b each, what they are made of, and
      rows · beams · V · 2 · 4 for logits
    """
    d, f, tokens = outline.hidden, outline.inner, rows * sequence(outline)
    pictures = 3 * rows * outline.side_px**2 * width
    first = 17 * rows * outline.stem * (outline.side_px // 4) ** 2 * width
    biased = bias(outline, rows, width)
    encoder = biased + max(tokens * (6 * d + 2 * f) * width, tokens * 8 * d * width + biased)
    held = tokens * d * (2 * outline.decoder_layers + 2) * width
    decoder = held + 2 * FULL * rows * beams * outline.vocabulary
    return pictures + max(first, encoder, decoder)


def operations(outline: OfaOutline) -> float:
    """A forward pass: 2 · parameters · tokens for the layers, 2 · 17 w² a cell and block before."""
    embedding = outline.vocabulary * outline.hidden
    layers = outline.parameters - embedding - outline.trunk_parameters
    encoder = layers * outline.encoder_layers / (outline.encoder_layers + outline.decoder_layers)
    convolved = sum(
        blocks * 17 * wide**2 * after for blocks, wide, _, _, after in trunk_levels(outline)
    )
    return 2.0 * (encoder * sequence(outline) + convolved)
