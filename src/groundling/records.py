"""The frozen records that pass between stages.

Data moves one way: posts → queries → expressions → boxes → rewards → pairs → update.
Coordinates are pixels of the original image, as annotated; nothing here rescales them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from groundling.errors import InputError

EntityType: TypeAlias = str
"""A type of a scheme, in its own spelling: `PER`, `aircraft`."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """The entity types that a data set marks.

    `written` gives the spelling on disk where it differs. `descriptions` say what a type covers,
    for those who are asked to find it.
    """

    name: str
    types: tuple[EntityType, ...]
    written: Mapping[EntityType, str] = field(default_factory=dict)
    descriptions: Mapping[EntityType, str] = field(default_factory=dict)

    def parse(self, text: str) -> EntityType:
        """The type that `text` names, its own or the written one, letter case folded.

        Raises InputError for anything else.
        """
        folded = text.strip().casefold()
        for kind in self.types:
            if folded in (kind.casefold(), self.on_disk(kind).casefold()):
                return kind
        raise InputError(f"unknown entity type {text!r}; wanted one of {', '.join(self.types)}")

    def on_disk(self, kind: EntityType) -> str:
        """How files of the data set spell a type."""
        return self.written.get(kind, kind)


ENTITY_TYPES: tuple[EntityType, ...] = ("PER", "LOC", "ORG", "MISC")

TWITTER = Scheme(
    "twitter",
    ENTITY_TYPES,
    {"MISC": "OTHER"},
    {
        "PER": "a person by name, also a character or a nickname that stands for one",
        "LOC": "a place by name: country, city, street, building, landscape",
        "ORG": "an organisation by name: company, team, band, party, school, newspaper",
        "MISC": "another named thing: event, work, product, award, nationality, animal by name",
    },
)
"""Twitter-GMNER: its OTHER is the papers' MISC. The descriptions are ours."""

CCKS = Scheme(
    "ccks",
    ("aircraft", "vehicle", "vessel", "weapon", "location", "other"),
    {},
    {
        "aircraft": "a model or a single craft that flies: plane, helicopter, drone",
        "vehicle": "a model or a single vehicle on land: tank, truck, armoured carrier",
        "vessel": "a ship, boat or submarine, by class or by its own name",
        "weapon": "a named weapon or weapon system: gun, missile, radar-guided launcher",
        "location": "a place by name: country, region, city, base, sea",
        "other": "another named thing: unit, exercise, organisation, person",
    },
)
"""CCKS 2025 GMNER, military posts. The descriptions are ours."""

SCHEMES = {scheme.name: scheme for scheme in (TWITTER, CCKS)}

ABSENT = "The entity does not appear in the image"
"""The expert expression s_u of an ungroundable entity (ISR §3.2)."""


Verdict = Literal["exact", "ambiguous", "wrong", "not understood"]
"""What an expression means where the whole scene is known: the entity alone, the entity and
others, something else or nothing, or words outside the world's language."""


def parse_entity_type(text: str) -> EntityType:
    """The type of Twitter-GMNER named by `text`; its word OTHER is MISC.

    Raises InputError for anything outside PER, LOC, ORG, MISC, OTHER (case folded).
    """
    return TWITTER.parse(text)


def is_absent(expression: str) -> bool:
    """Whether an expression says that the entity is not in the image.

    The final full stop of prompt A.3, letter case and outer or repeated space do not matter;
    nothing else is forgiven.
    """
    return re.sub(r"\s+", " ", expression).strip().removesuffix(".").rstrip().lower() == (
        ABSENT.lower()
    )


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """An axis-aligned box, (x1, y1) top left and (x2, y2) bottom right, in original pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Area in square pixels; 0 for a degenerate or inverted box."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The four coordinates as a tuple, for files and arrays."""
        return (self.x1, self.y1, self.x2, self.y2)

    def iou(self, other: Box) -> float:
        """Intersection over union with `other`, in [0, 1]; 0 where the union is empty.

        >>> Box(0, 0, 2, 2).iou(Box(1, 0, 3, 2))
        0.3333333333333333
        """
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        shared = max(0.0, width) * max(0.0, height)
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0


UNPLACED = Box(0, 0, 0, 0)
"""The box of an entity that is said, or not denied, to be in the picture, nobody says where.

It overlaps nothing, so it is wrong under every rule: what is not told is never read as "absent".
"""

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

BoxFrame = Literal["upright", "stored"]
"""What a data set's boxes are drawn on: the image as viewers show it, or its stored pixels, before
the turn that EXIF asks for. In memory, boxes are upright."""
BOX_FRAMES: tuple[BoxFrame, ...] = get_args(BoxFrame)


@dataclass(frozen=True, slots=True)
class Frame:
    """The sizes of a picture: as annotated, and as a model was given it (in pixels)."""

    original_wh_px: Size
    resized_wh_px: Size


@dataclass(frozen=True, slots=True)
class Entity:
    """A gold mention: tokens [start, end) of its post, and its gold boxes (none: ungroundable).

    `start` and `end` are None where nobody said which tokens it means and its name is not among
    them. Without `boxes_known` nobody said whether it is in the picture: that is not "absent".
    """

    name: str
    type: EntityType
    start: int | None
    end: int | None
    boxes: tuple[Box, ...] = ()
    boxes_known: bool = True

    @property
    def span(self) -> tuple[int, int]:
        """Its tokens [start, end). Raises InputError where they are not known."""
        if self.start is None or self.end is None:
            raise InputError(
                f"entity {self.name!r} ({self.type}) has no place in its text; "
                "give 'start' and 'end', or a name that is a run of its tokens"
            )
        return self.start, self.end

    @property
    def gold_boxes(self) -> tuple[Box, ...]:
        """Its boxes. Raises InputError where nobody said whether it has any."""
        if not self.boxes_known:
            raise InputError(
                f"entity {self.name!r} ({self.type}) comes without gold boxes; "
                "give 'boxes' ([] says that it is not in the picture)"
            )
        return self.boxes

    @property
    def groundable(self) -> bool:
        """Whether the entity is in the picture; InputError where nobody said."""
        return bool(self.gold_boxes)

    @property
    def largest_box(self) -> Box | None:
        """The gold box of largest area (ISR footnote 2; the first among equals), or None.

        Raises InputError where nobody said whether there is one.
        """
        return max(self.gold_boxes, key=lambda box: box.area, default=None)


@dataclass(frozen=True, slots=True)
class Mention:
    """A mention that a tagger found: tokens [start, end) of its post, with its type.

    `confidence` is how probable it is, in [0, 1], that exactly this mention is right; None where
    the tagger does not say.
    """

    start: int
    end: int
    type: EntityType
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """A text with its picture and gold entities; `image` is a path, or None where none is found.

    `knowledge` is what somebody else, a language model for instance, has to say about the post.
    """

    id: str
    tokens: tuple[str, ...]
    entities: tuple[Entity, ...] = ()
    image: str | None = None
    knowledge: str = ""

    @property
    def text(self) -> str:
        """The tokens joined by single spaces."""
        return " ".join(self.tokens)

    def queries(self) -> Iterator[Query]:
        """One query per gold entity, in order. A query carries nothing of the gold boxes."""
        for index, entity in enumerate(self.entities):
            yield Query(f"{self.id}#{index}", self.image or "", entity.name, entity.type)


@dataclass(frozen=True, slots=True)
class Query:
    """What a model may see: a picture (path) and a named entity. `id` is `POST#INDEX`."""

    id: str
    image: str
    name: str
    type: EntityType


@dataclass(frozen=True, slots=True)
class Expression:
    """A referring expression or ABSENT, and who wrote it.

    `source` is `expert:MODEL`, `human` or `writer:RUN/ROUND`. `logprob` is the natural-log
    probability of the text and its end-of-sequence token under its writer at temperature 1,
    None where the writer does not say.
    """

    text: str
    source: str
    logprob: float | None = None

    @property
    def absent(self) -> bool:
        """Whether it says that the entity does not appear."""
        return is_absent(self.text)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that did not work, why, and at which stage; never read as an answer.

    `kind` sorts failures of one stage, for counts: the shape of a reply that is no answer
    (`refused`, `thought`, …). It is empty where the stage says enough, and then left out of files.
    """

    reason: str
    stage: str
    kind: str = ""

    def to_json(self) -> dict[str, str]:
        """The failure as files and `--json` hold it."""
        told = {"reason": self.reason, "stage": self.stage}
        return {**told, "kind": self.kind} if self.kind else told


PASSING = ("api", "budget")
"""Stages of failures to reach an endpoint: these may pass."""
MENDABLE = (*PASSING, "answer", "image")
"""Stages of failures that a repetition may mend: an endpoint may answer otherwise, and a file may
be whole again. A model of one's own would fail again."""


NO_PICTURE = Failure("the post's picture is missing", "image")


def count_failures(outcomes: Iterable[object]) -> tuple[int, int]:
    """How many outcomes are failures that a repetition may mend, and how many are others.

    A post gets no picture by a repetition.
    """
    failures = [one for one in outcomes if isinstance(one, Failure)]
    may = sum(one.stage in MENDABLE and one != NO_PICTURE for one in failures)
    return may, len(failures) - may


@dataclass(frozen=True, slots=True)
class Grounded:
    """A grounder's box for one expression, with its confidence in [0, 1] where it has one."""

    box: Box
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered entity of a post. `box` None means "not in the picture".

    `start`/`end` are token positions (end exclusive) where the predictor knows them.
    """

    name: str
    type: EntityType
    box: Box | None
    start: int | None = None
    end: int | None = None
    expression: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class FailedEntity:
    """An entity that was asked about and not answered, and why; never read as "absent"."""

    name: str
    type: EntityType
    failure: Failure
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class PostPrediction:
    """All that a system says of one post: its predictions, or the failure that kept it silent.

    `failed` holds the entities of an answered post that have no answer.
    """

    id: str
    predictions: tuple[Prediction, ...] = ()
    failure: Failure | None = None
    failed: tuple[FailedEntity, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing in it failed."""
        return self.failure is None and not self.failed

    @property
    def silent(self) -> bool:
        """Whether it answers nothing because something failed."""
        return not self.whole and (self.failure is not None or not self.predictions)

    @classmethod
    def of(cls, post_id: str, outcomes: Iterable[Prediction | FailedEntity]) -> PostPrediction:
        """What came of a post's entities; a failure of the post where none of them was answered."""
        rows = list(outcomes)
        answers = tuple(row for row in rows if isinstance(row, Prediction))
        failed = tuple(row for row in rows if isinstance(row, FailedEntity))
        if failed and not answers:
            return cls(post_id, failure=failed[0].failure)
        return cls(post_id, answers, failed=failed)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference s_w ≻ s_l for one query (ISR eq. 7).

    `chosen_source` is `sample` (a success of the writer) or `expert` (the fallback). The two
    reference log-probabilities are those of π_{t−1} (eq. 8).
    """

    query_id: str
    chosen: str
    rejected: str
    chosen_source: Literal["sample", "expert"]
    ref_chosen_logp: float
    ref_rejected_logp: float
