"""Memory, term by term: each function is one formula, in bytes.

b is the bytes of one number in the precision of the weights (4, 2 or 2). Adapters are float32
whatever b is, so where b is 2 each adapted layer keeps a float32 copy of its input.
"""

from __future__ import annotations

from dataclasses import dataclass

from groundling.planning.outline import ChatOutline, TextShape, VisionShape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number by the name of its precision."""

FULL = 4
"""Bytes of a float32: adapters, their gradients and moments, log-probabilities."""

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a weight in NF4 with double quantisation: an 8-bit scale for 64 weights and a float32
for 256 scales, 0.127 bits a weight (QLoRA, arXiv:2305.14314, §3)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What goes through a language model at once.

    `rows` sequences, padded to `length` tokens each; `answered` positions in all at which logits
    are computed; `sight` picture tokens a row that only cross-attention sees; `rank` of the
    adapter; `width` is b.
    """

    rows: int
    length: int
    answered: int
    rank: int
    width: int
    sight: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in all, padding included."""
        return self.rows * self.length


# ------------------------------------------------------------------------------------- what lasts


def weights(parameters: int, width: int) -> int:
    """parameters · b."""
    return parameters * width


def weights_in_4_bits(parameters: int, linear: int, width: int) -> int:
    """linear · 4.127 / 8 + (parameters − linear) · b: embeddings, norms and the head stay whole."""
    return round(linear * NF4_BITS / 8) + (parameters - linear) * width


def adapter(adapter_width: int, rank: int) -> int:
    """r · Σ (inputs + outputs) · 4: the matrices A (r, inputs) and B (outputs, r) of each layer."""
    return adapter_width * rank * FULL


def gradients(parameter_bytes: int) -> int:
    """As much as the trained parameters, in their precision."""
    return parameter_bytes


def moments(parameter_bytes: int) -> int:
    """Twice the trained parameters: AdamW's two means, in their precision (torch.optim.AdamW)."""
    return 2 * parameter_bytes


# ------------------------------------------------------------------- activations of a decoder layer


def saved_by_layer(text: TextShape, work: Work) -> int:
    """What one block of self-attention keeps for its backward pass: tokens times the sum of

    - norms: 2 · 4 · h (the stream, or its float32 copy), with norms of heads (q + k) · 4 more
    - inputs of adapted layers: 4 · (2h + q + f) where b = 4, for q, k, v share theirs, as do gate
      and up; 4 · (5h + q + f) where b = 2, each with a copy of its own
    - attention: b · 3q for queries and repeated keys and values, b · q for its result where b = 2
      (where b = 4 it is o's input), 4 · heads for the normaliser, b · length for the mask
    - feed-forward: b · 3f (gate, its activation, up)
    - adapters: 7 · 4 · r

    with h hidden, q attended, k remembered, f inner.
    """
    h, q, f, b = text.hidden, text.attended, text.inner, work.width
    shared = b == FULL
    numbers_full = 2 * h + (2 if shared else 5) * h + q + f + text.heads + 7 * work.rank
    if text.head_norms:
        numbers_full += q + text.remembered
    numbers_own = (3 if shared else 4) * q + 3 * f + work.length
    return work.tokens * (FULL * numbers_full + b * numbers_own)


def saved_by_crossing(text: TextShape, work: Work) -> int:
    """The same for a block that looks at the picture (Llama 3.2 Vision).

    Text tokens keep what `saved_by_layer` says without keys, values and their inputs. Each of
    rows · sight picture tokens keeps the inputs of the adapted k and v (4 · h once where b = 4,
    twice where b = 2), keys before and after their norm, repeated keys and values (b · 2q), and
    8 · r. The mask is b · length · sight a row.
    """
    h, q, k, b = text.hidden, text.attended, text.remembered, work.width
    shared = b == FULL
    seen = work.rows * work.sight
    written = saved_by_layer(text, work) - work.tokens * (
        b * 2 * q + b * work.length + (0 if shared else 2 * FULL * h) + 2 * FULL * work.rank
    )
    looked = FULL * ((1 if shared else 2) * h + k + 2 * work.rank) + b * (2 * q + k)
    return written + seen * (looked + b * work.length)


RECURRENT = 4.2
"""Linear attention against full attention, in bytes kept a token: an assumption, as measured for
small models with the plain torch kernels; those of `flash-linear-attention` keep less."""


def saved_by_blocks(text: TextShape, work: Work) -> int:
    """All blocks: self-attention, cross-attention and linear attention, each times its number."""
    usual = text.layers - text.crossing - text.recurrent
    total = usual * saved_by_layer(text, work)
    if text.crossing:
        total += text.crossing * saved_by_crossing(text, work)
    if text.recurrent:
        total += text.recurrent * round(RECURRENT * saved_by_layer(text, work))
    return total


def checkpoints(text: TextShape, work: Work) -> int:
    """The inputs of all layers, layers · tokens · h · b, and rows · sight · h · b once."""
    seen = work.rows * work.sight
    return (text.layers * work.tokens + seen) * text.hidden * work.width


def saved_by_checkpoints(text: TextShape, work: Work) -> int:
    """With checkpointing: the inputs of all layers, and the largest layer, which is recomputed."""
    one = saved_by_layer(text, work)
    if text.crossing:
        one = max(one, saved_by_crossing(text, work))
    if text.recurrent:
        one = max(one, round(RECURRENT * one))
    return checkpoints(text, work) + one


def logits(text: TextShape, work: Work) -> int:
    """answered · vocabulary · (b + 4 + 4): logits, their float32 copy or gradient, and log-softmax.

    Logits exist at answer positions only, never over prompts. Final states: tokens · h · 4.
    """
    heads = work.answered * text.vocabulary * (work.width + 2 * FULL)
    return heads + work.tokens * text.hidden * FULL


def backward_space(text: TextShape, work: Work) -> int:
    """Gradients alive while one layer goes backward: tokens · (3f · b + (f + 2h) · 4)."""
    f, h = text.inner, text.hidden
    return work.tokens * (3 * f * work.width + FULL * (f + 2 * h))


def step(outline: ChatOutline, work: Work, checkpointing: bool) -> int:
    """Activations of one training step at their peak: at the turn from forward to backward."""
    text = outline.text
    blocks = saved_by_checkpoints if checkpointing else saved_by_blocks
    return blocks(text, work) + logits(text, work) + backward_space(text, work)


# -------------------------------------------------------------------------------- without gradient


def forward_space(text: TextShape, work: Work) -> int:
    """A pass without gradient keeps one layer's work: tokens · (3h + 4q + 3f) · b + mask.

    Where a layer looks at picture tokens, rows · sight · (h + 2k + 2q + length) · b more.
    """
    h, q, k = text.hidden, text.attended, text.remembered
    written = work.tokens * (3 * h + 4 * q + 3 * text.inner + work.length)
    looked = work.rows * work.sight * (h + 2 * k + 2 * q + work.length)
    return (written + looked) * work.width


def tower(vision: VisionShape, picture_tokens: int, width: int) -> int:
    """The frozen tower's widest moment: patches · (8 · hidden + 2 · inner) · b, and no gradient.

    `picture_tokens` in all pictures that go through it together.
    """
    patches = picture_tokens * vision.patches
    return patches * (8 * vision.hidden + 2 * vision.inner) * width


def cache(text: TextShape, tokens: int, seen: int, width: int) -> int:
    """Keys and values: (tokens · self-attending layers + seen · crossing layers) · 2 · k · b.

    `seen` are picture tokens beside the text. Layers of linear attention have a small state only.
    """
    attending = text.layers - text.recurrent - text.crossing
    return (tokens * attending + seen * text.crossing) * 2 * text.remembered * width


def choice(text: TextShape, rows: int, samples: int) -> int:
    """Drawing a token: rows · V · (3 · 8 + 4) for the running sums, rows · K · V · 8 to look in.

    The distribution function is summed in double precision.
    """
    return text.vocabulary * rows * (3 * 8 + FULL + samples * 8)
