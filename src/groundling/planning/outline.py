"""What a plan knows of a model: its sizes, read off a model that has no weights."""

from __future__ import annotations

from dataclasses import dataclass

INTO_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj"})
INTO_FEED_FORWARD = frozenset({"gate_proj", "up_proj"})
BLOCK = INTO_ATTENTION | INTO_FEED_FORWARD | {"o_proj", "down_proj"}
"""The linear layers of a block; those that read the same input together."""


@dataclass(frozen=True, slots=True)
class TextShape:
    """The blocks of a language model; sizes in numbers, per layer and token.

    `inner` is the feed-forward width; `head_norms` says that queries and keys are normalised head
    by head; `crossing` counts the layers that look at the picture instead of the text, `recurrent`
    those of linear attention, whose values have `recurrent_width` numbers together. Both are part
    of `layers`. `deep` counts layers of the tower whose features are added to the stream as well.
    `adapted` names a block's layers that carry an adapter.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    vocabulary: int
    head_norms: bool = False
    crossing: int = 0
    recurrent: int = 0
    adapted: frozenset[str] = BLOCK
    recurrent_width: int = 0
    deep: int = 0

    @property
    def attended(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_size

    @property
    def remembered(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True)
class VisionShape:
    """A frozen vision tower.

    `patches` are its tokens for each token that it hands on; `unit_px` is the side of the square of
    pixels that becomes one token, where pictures keep their own size. `rotary`: queries and keys
    are rotated in float32. `kept` counts the layers whose results all stay to the end.
    """

    hidden: int
    inner: int
    patches: int
    unit_px: int
    rotary: bool = False
    kept: int = 0


@dataclass(frozen=True, slots=True)
class ChatOutline:
    """A multimodal language model with one adapter; parameters in numbers.

    `linear` are the weights that 4-bit loading packs, those of the language model's blocks, and
    `largest` the biggest single one of them; `adapter_width` is Σ (inputs + outputs) over the
    adapted layers, so that an adapter of rank r has r times as many parameters. `packs`: chosen and
    rejected share a prompt. `by_hand`: the layers are laid out by hand, so K answers share one
    prompt's cache.
    """

    name: str
    model_type: str
    parameters: int
    linear: int
    largest: int
    vision_parameters: int
    adapter_width: int
    adapted: int
    text: TextShape
    vision: VisionShape
    packs: bool
    by_hand: bool


@dataclass(frozen=True, slots=True)
class TrunkStage:
    """Bottleneck blocks of one resolution: `blocks` of `width`, after a stride of `stride`."""

    blocks: int
    width: int
    stride: int


@dataclass(frozen=True, slots=True)
class OfaOutline:
    """An OFA model, all of whose grounding parameters are trained."""

    name: str
    parameters: int
    trained: int
    trunk_parameters: int
    side_px: int
    hidden: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    inner: int
    vocabulary: int
    stem: int
    stages: tuple[TrunkStage, ...]


@dataclass(frozen=True, slots=True)
class PlainOutline:
    """A model of which only the parameters are known; its activations are not planned."""

    name: str
    parameters: int
    trained: int


GrounderOutline = ChatOutline | OfaOutline | PlainOutline
