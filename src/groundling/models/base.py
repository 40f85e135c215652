"""What a flow may ask of a writer and of a grounder.

A backend loads pictures through `groundling.images`, converts its own coordinates and returns
pixels of the original image. What goes wrong for one query is a `Failure` in its place; it never
stops the batch and never turns into an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from groundling.records import (
    Box,
    EntityType,
    Expression,
    Failure,
    Frame,
    Grounded,
    Mention,
    Post,
    Prediction,
    Query,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw expressions; overrides whatever generation settings a checkpoint ships.

    `temperature` 0 means greedy. top_p, top_k and the repetition penalty are always off.
    """

    temperature: float = 0.8
    max_new_tokens: int = 64


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One supervised example (p, s) for a writer (ISR eq. 3)."""

    query: Query
    expression: str


@dataclass(frozen=True, slots=True)
class Preference:
    """One DPO example with its stored reference log-probabilities (ISR eq. 8)."""

    query: Query
    chosen: str
    rejected: str
    ref_chosen_logp: float
    ref_rejected_logp: float


@dataclass(frozen=True, slots=True)
class GroundingExample:
    """One example (I, s, v) for a grounder (ISR eq. 1); `box` in original pixels."""

    image: str
    expression: str
    box: Box


@dataclass(frozen=True, slots=True)
class DirectExample:
    """One example for a direct grounder: `box` in original pixels, None for "absent"."""

    query: Query
    box: Box | None


class Trainable(Protocol):
    """A model that `groundling.train.fit` can update and resume bit for bit."""

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The parameters to update, by stable name."""
        ...

    def module(self) -> torch.nn.Module:
        """The module that holds them; asked for only where several processes train together."""
        ...


class ExpressionSampler(Protocol):
    """What draws referring expressions from a policy."""

    def sample(
        self, queries: Sequence[Query], k: int, sampling: Sampling, seed: int, source: str
    ) -> list[list[Expression] | Failure]:
        """K expressions a query with log-probabilities (eq. 6); the same seed, the same draws."""
        ...


class Sampler(ExpressionSampler, Protocol):
    """A faster way to draw from a policy than its writer: another process, or another engine."""

    def follow(self, adapter: Path, scratch: Path) -> None:
        """Draw from the adapter in the folder `adapter` from now on.

        What is worth keeping of its draws, until another is followed, goes into `scratch`.
        """
        ...

    def close(self) -> None:
        """Let go of connections and memory."""
        ...


class Writer(ExpressionSampler, Trainable, Protocol):
    """A multimodal LLM that writes referring expressions: the policy π."""

    def prepare(self, images: Sequence[str]) -> list[Failure | None]:
        """Read pictures ahead of their use, as far as memory allows; what cannot be read, and why.

        Called once with all pictures of a run, so that what is kept never depends on where a
        stopped run went on.
        """
        ...

    def score(self, queries: Sequence[Query], texts: Sequence[str]) -> list[float | Failure]:
        """log π(text + end | query) in nats, summed over tokens, one text a query."""
        ...

    def score_pairs(
        self, queries: Sequence[Query], chosen: Sequence[str], rejected: Sequence[str]
    ) -> list[tuple[float, float] | Failure]:
        """The same for two texts a query, in one packed pass; the reference side of eq. 8."""
        ...

    def sft_loss(self, batch: Sequence[Demonstration]) -> torch.Tensor:
        """Mean over the batch's answer tokens of −log π(s | p) (eq. 3), a scalar with gradient."""
        ...

    def dpo_loss(self, batch: Sequence[Preference], beta: float) -> torch.Tensor:
        """Mean over the batch of the DPO loss (eq. 8), a scalar with gradient."""
        ...

    def answer_tokens(self, text: str) -> int:
        """Tokens of an answer with its end: what an example counts for in `sft_loss`."""
        ...

    def restart_adapter(self, seed: int) -> None:
        """Return the adapter to a fresh, seeded beginning that changes nothing yet."""
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write the current adapter in PEFT's own layout (safetensors)."""
        ...

    def load_adapter(self, folder: Path) -> None:
        """Replace the current adapter's weights by those in `folder`."""
        ...

    def knows(self, query: Query) -> bool | None:
        """Whether the name occurs in what this writer was trained on; None where unrecorded."""
        ...


class Grounder(Trainable, Protocol):
    """A visual grounding model: picture + expression → box."""

    def ground(self, requests: Sequence[tuple[str, str]]) -> list[Grounded | Failure]:
        """One box per (image path, expression) (eq. 4)."""
        ...

    def loss(self, batch: Sequence[GroundingExample]) -> torch.Tensor:
        """Mean over the batch of −log P(v | I, s) or its surrogate (eq. 2), with gradient."""
        ...

    def save(self, folder: Path) -> None:
        """Write the weights (safetensors) and configuration."""
        ...


class Tagger(Protocol):
    """What finds mentions in a text (GMNER's first half)."""

    def tag(self, posts: Sequence[Post]) -> list[list[Mention] | Failure]:
        """The mentions of each post, in order, none overlapping; gold entities are not looked at.

        Where two taggings are possible the likelier one is given, with its confidence.
        """
        ...


class FittedTagger(Tagger, Protocol):
    """A tagger with confidences that can be calibrated.

    `temperature` divides its scores before they become confidences; 1 leaves them as they are.
    """

    temperature: float

    def calibrate(self, posts: Sequence[Post]) -> None:
        """Choose, on held-out posts, what makes confidences fit how often they are right."""
        ...

    def save(self, folder: Path) -> None:
        """Write the weights (safetensors) and all that opening it again needs."""
        ...


class TrainableTagger(FittedTagger, Trainable, Protocol):
    """A tagger that `groundling.train.fit` updates on posts with gold entities."""

    def loss(self, batch: Sequence[Post]) -> torch.Tensor:
        """Mean over the batch's posts of −log p(tags | text) or its like, with gradient."""
        ...

    def length(self, post: Post) -> int:
        """Tokens that a post takes in a batch, for batches of like length."""
        ...


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One thing to ask of a multimodal LLM, and how to read its answer.

    `pictures` are paths. `messages` (in the form of `groundling.prompts`, with a part
    `{"type": "image"}` for each picture in order) may depend on how the pictures are sent. `read`
    makes something of an answer, or raises ValueError with what is wrong with it, in words that
    the model can mend it by. `schema` is a JSON schema that every answer fits, for a model that can
    be held to one.
    """

    messages: Callable[[Sequence[Frame]], list[dict[str, Any]]]
    read: Callable[[str, Sequence[Frame]], T]
    pictures: tuple[str, ...] = ()
    max_tokens: int = 512
    schema: Mapping[str, Any] | None = None


class Assistant(Protocol):
    """A frozen multimodal LLM that is asked questions; `name` is the model's.

    `manner` is all that decides its answers beside the questions, in words: the model, how it
    draws, how pictures are sent. Answers of one manner are kept apart from those of another.
    """

    name: str
    manner: str

    def ask(
        self, questions: Sequence[Question[T]], tries: int = 2
    ) -> Iterator[tuple[int, T | Failure]]:
        """What `read` makes of each answer, with its place, as they come in.

        Where an answer cannot be read the model is told so and asked again, `tries` times in all;
        then it is a Failure of stage `answer`. Every other Failure is of the call itself.
        """
        ...


class Embedder(Protocol):
    """Makes a row of numbers, (n, d) float32, of each text, or of each picture by its path.

    Rows need not have length 1. What cannot be read is a row of zeros.
    """

    def embed(self, items: Sequence[str]) -> NDArray[np.float32]:
        """One row an item, in order; an item's row does not depend on its neighbours."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """An entity of a post with its picture (a path)."""

    image: str
    text: str
    name: str
    type: EntityType


@dataclass(frozen=True, slots=True)
class Solved:
    """A case whose answer is known: `box` in original pixels, None where it is not shown."""

    case: Case
    box: Box | None


LocatedCase = tuple[Box | None, str]
"""A box in original pixels, or None for "not in the picture", and the reasons given."""


class DirectGrounder(Protocol):
    """A model that answers an entity with a box, without an expression between (prompt A.3)."""

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Prediction | Failure]]:
        """A prediction for each query, in any order, with its place; `box` None says absent."""
        ...


class DirectLearner(DirectGrounder, Trainable, Protocol):
    """A direct grounder that can be fine-tuned (ISR Table 1, the end-to-end baselines)."""

    def prepare(self, images: Sequence[str]) -> list[Failure | None]:
        """Read pictures ahead of their use, as `Writer.prepare` does."""
        ...

    def answer_tokens(self, example: DirectExample) -> int:
        """Tokens of an example's answer with its end: what it counts for in `loss`."""
        ...

    def loss(self, batch: Sequence[DirectExample]) -> torch.Tensor:
        """Mean over the batch's answer tokens of −log π(answer | query), with gradient."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained (safetensors)."""
        ...
