"""Memory, term by term: each function is one formula, in bytes.

b is the bytes of one number in the precision of the weights (4, 2 or 2). Adapters are float32
whatever b is, so where b is 2 each adapted layer keeps a float32 copy of its input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from groundling.planning.outline import (
    INTO_ATTENTION,
    INTO_FEED_FORWARD,
    ChatOutline,
    TextShape,
    VisionShape,
)

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
    are computed; `sight` picture tokens a row that only cross-attention sees; `shared` tokens that
    all rows begin with, computed once and no part of `length`; `rank` of the adapter; `width` is b.
    """

    rows: int
    length: int
    answered: int
    rank: int
    width: int
    sight: int = 0
    shared: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in all, padding included."""
        return self.rows * self.length


# ------------------------------------------------------------------------------------- what lasts


def weights(parameters: int, width: int) -> int:
    """parameters · b."""
    return parameters * width


def weights_in_4_bits(parameters: int, linear: int, width: int) -> int:
    """linear · 4.127 / 8 + (parameters − linear) · b: vision, embeddings and head stay whole."""
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
    - inputs of adapted layers (`inputs_of_adapters`): 4 · (2h + f) where b = 4 and all are
      adapted, 4 · (5h + q + f) where b = 2
    - attention: b · 4q for queries, repeated keys and values and its result, 4 · heads for the
      normaliser, b · length for the mask
    - feed-forward: b · 3f (gate, its activation, up)
    - adapters: 4 · r for each adapted layer

    with h hidden, q attended, k remembered, f inner.
    """
    h, q, f, b = text.hidden, text.attended, text.inner, work.width
    numbers_full = 2 * h + inputs_of_adapters(text, b) + text.heads
    numbers_full += len(text.adapted) * work.rank
    if text.head_norms:
        numbers_full += q + text.remembered
    numbers_own = 4 * q + 3 * f + work.length
    return work.tokens * (FULL * numbers_full + b * numbers_own)


def inputs_of_adapters(text: TextShape, width: int) -> int:
    """Numbers that a block's adapted layers keep of what they read, a token, in float32.

    Where b = 4, q, k, v share one input (h) and gate, up another (h); that of o (q) is the
    attention's result, which is kept in any case. Where b = 2 each has a copy of its own. That of
    down is f.
    """
    h, on = text.hidden, text.adapted
    down = text.inner if "down_proj" in on else 0
    if width == FULL:
        return h * (bool(on & INTO_ATTENTION) + bool(on & INTO_FEED_FORWARD)) + down
    each = len(on & (INTO_ATTENTION | INTO_FEED_FORWARD))
    return h * each + (text.attended if "o_proj" in on else 0) + down


def saved_by_crossing(text: TextShape, work: Work) -> int:
    """The same for a block that looks at the picture (Llama 3.2 Vision).

    Text tokens keep what `saved_by_layer` says without keys, values and their inputs. Each of
    rows · sight picture tokens keeps the inputs of the adapted k and v (4 · h once where b = 4,
    each where b = 2), keys before and after their norm, repeated keys and values (b · 2q), and
    4 · r for each. The mask is b · length · sight a row.
    """
    q, k, b = text.attended, text.remembered, work.width
    looking = text.adapted & {"k_proj", "v_proj"}
    at_text = replace(text, adapted=text.adapted - looking)
    at_picture = replace(text, adapted=looking)
    written = saved_by_layer(at_text, work) - work.tokens * b * (2 * q + work.length)
    looked = FULL * (inputs_of_adapters(at_picture, b) + k + len(looking) * work.rank)
    looked += b * (2 * q + k + work.length)
    return written + work.rows * work.sight * looked


RECURRENT = 18
"""Float32 numbers that linear attention keeps for each number of its values, as counted at the
published widths of Qwen3.5 with torch's own kernels; `flash-linear-attention` keeps less."""


def saved_by_recurrence(text: TextShape, work: Work) -> int:
    """The same for a block of linear attention: `saved_by_layer` and tokens · 18 · 4 · values."""
    return saved_by_layer(text, work) + work.tokens * RECURRENT * FULL * text.recurrent_width


def saved_by_blocks(text: TextShape, work: Work) -> int:
    """All blocks: self-attention, cross-attention and linear attention, each times its number."""
    usual = text.layers - text.crossing - text.recurrent
    total = usual * saved_by_layer(text, work)
    if text.crossing:
        total += text.crossing * saved_by_crossing(text, work)
    if text.recurrent:
        total += text.recurrent * saved_by_recurrence(text, work)
    return total


def checkpoints(text: TextShape, work: Work) -> int:
    """The inputs of all layers, layers · tokens · h · b, and rows · sight · h · b once."""
    seen = work.rows * work.sight
    return (text.layers * work.tokens + seen) * text.hidden * work.width


def largest_block(text: TextShape, work: Work) -> int:
    """What the block that keeps the most keeps: with checkpointing it is there while recomputed."""
    one = saved_by_layer(text, work)
    if text.crossing:
        one = max(one, saved_by_crossing(text, work))
    if text.recurrent:
        one = max(one, saved_by_recurrence(text, work))
    return one


def passing(text: TextShape, work: Work) -> int:
    """What going through a block takes beside what it keeps: tokens · (2b · f + 12 · h).

    Where b is 4, the product of up's adapter and that times α / r, 8 · f. Where b is 2, half as
    much, for the copy of down's input is not there yet, and 12 · h for the stream and its norm on
    their way to float32 and back. Without adapters there, b · f for what down reads.
    """
    h, f, b = text.hidden, text.inner, work.width
    stream = 3 * FULL * h if b < FULL else 0
    return work.tokens * ((2 if text.adapted & INTO_FEED_FORWARD else 1) * b * f + stream)


def saved_by_beginning(text: TextShape, work: Work) -> int:
    """What the tokens that all rows begin with keep, computed once and never checkpointed."""
    return saved_by_blocks(text, replace(work, rows=1, length=work.shared, shared=0))


def logits(text: TextShape, work: Work) -> int:
    """answered · vocabulary · (b + 4 + 4): logits, their float32 copy and its log-softmax.

    Logits exist at answer positions only, never over prompts. Final states: tokens · h · 4.
    """
    heads = work.answered * text.vocabulary * (work.width + 2 * FULL)
    return heads + work.tokens * text.hidden * FULL


def logits_backward(text: TextShape, work: Work) -> int:
    """answered · vocabulary · 3 · 4: log-softmax, its gradient and the logits' gradient in float32.

    More than `logits` take on the way forward. Final states: tokens · h · 4.
    """
    heads = work.answered * text.vocabulary * 3 * FULL
    return heads + work.tokens * text.hidden * FULL


def step(outline: ChatOutline, work: Work, checkpointing: bool) -> int:
    """Activations of one training step at their peak.

    Without checkpointing that is the turn from forward to backward: all blocks, and the logits or
    the last block's pass. With it, the inputs of all layers are there, and either the logits or the
    block that is recomputed.
    """
    text = outline.text
    begun = saved_by_beginning(text, work) if work.shared else 0
    if not checkpointing:
        kept = saved_by_blocks(text, work)
        if outline.by_hand:  # of the last block only what answers
            kept -= saved_by_layer(text, work)
            kept += saved_by_layer(text, replace(work, rows=1, length=work.answered))
        return begun + kept + max(logits_backward(text, work), passing(text, work))
    recomputed = largest_block(text, work) + passing(text, work)
    return begun + checkpoints(text, work) + max(logits_backward(text, work), recomputed)


# -------------------------------------------------------------------------------- without gradient


def forward_space(text: TextShape, work: Work) -> int:
    """A pass without gradient at its widest, in the feed-forward layer of one block.

    tokens · ((2b + 8) · f + (6 + 2d) · b · h) + mask: gate and up with the adapter's product in
    float32, twice; the embeddings, the stream and the features of d deeper layers of the tower,
    twice. Where b is 2, 4 · h for an adapter's copy of its input. Without adapters there, 3b · f.
    Where a block looks at picture tokens or is recurrent, its own moment counts if that is wider.
    """
    h, b = text.hidden, work.width
    product = 2 * FULL if text.adapted & INTO_FEED_FORWARD else b
    copied = FULL * h if b < FULL else 0
    wide = (2 * b + product) * text.inner + (6 + 2 * text.deep) * b * h + copied
    if text.recurrent:
        wide = max(wide, RECURRENT * FULL * text.recurrent_width)
    space = work.tokens * (wide + work.length * b)
    return max(space, looking_space(text, work)) if text.crossing else space


def looking_space(text: TextShape, work: Work) -> int:
    """rows · sight · (h · b + 4 · h + k · (3b + 8) + 2q · b + length · b) of a cross-attention.

    The picture tokens and an adapter's float32 copy of them; keys, values and the adapter's product
    in float32, twice; repeated keys and values; the mask.
    """
    h, q, k, b = text.hidden, text.attended, text.remembered, work.width
    one = h * (b + FULL) + k * (3 * b + 2 * FULL) + 2 * q * b + work.length * b
    return work.rows * work.sight * one


def tower(vision: VisionShape, pictures: int, tokens: int, width: int) -> int:
    """A frozen tower's widest moment for pictures of that many tokens each; no gradient.

    patches · (2 · inner + 6 · hidden) · b in a feed-forward layer; or, where queries and keys are
    rotated in float32, patches · hidden · (5b + 24). Towers that hand on inner layers
    (`VisionShape.kept`) hold as many results, and a mask of patches² a picture.
    """
    patches, hidden, b = tokens * vision.patches, vision.hidden, width
    space = patches * (2 * vision.inner + 6 * hidden) * b
    if vision.rotary:
        space = max(space, patches * hidden * (5 * b + 6 * FULL))
    if vision.kept:
        space += patches * (vision.kept * hidden + patches) * b
    return pictures * space


def cache(text: TextShape, tokens: int, seen: int, width: int) -> int:
    """Keys and values: (tokens · self-attending layers + seen · crossing layers) · 2 · k · b.

    `seen` are picture tokens beside the text. Layers of linear attention have a small state only.
    """
    attending = text.layers - text.recurrent - text.crossing
    return (tokens * attending + seen * text.crossing) * 2 * text.remembered * width


def choice(text: TextShape, answers: int, width: int) -> int:
    """Choosing the next token of each answer: answers · V · (b + 4 + 2 · 8).

    Logits and their float32 copy; the distribution function and what it is summed from, or what is
    looked up in it, in double precision.
    """
    return answers * text.vocabulary * (width + FULL + 2 * 8)
