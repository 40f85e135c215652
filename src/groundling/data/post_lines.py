"""A line of a posts file, as `jsonl` describes it: its shape, its tokens and its entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from groundling.data.json_lines import Closed, GoldBox, Text, TypeName
from groundling.data.mentions import place_runs, same_name
from groundling.data.tokens import Token, split_at, tokens_of
from groundling.records import Box, Entity

Offsets = Literal["tokens", "characters", "utf-16"]

_ROW_ENTITY = {"entity": "name", "type": "type", "start": "start", "end": "end", "boxes": "boxes"}
"""The keys of a row that are those of its one entity, and what they are called there."""


class GoldEntity(Closed):
    """An entity as written: what is left out is not known, and `boxes` may be empty."""

    name: Text
    type: TypeName
    start: int | None = None
    end: int | None = None
    boxes: list[GoldBox] | None = None

    @model_validator(mode="after")
    def _span_is_one(self) -> GoldEntity:
        if (self.start is None) != (self.end is None):
            raise ValueError("wanted both 'start' and 'end', or neither")
        return self


class PostLine(Closed):
    """A post, or a row of `image` and `entity`, which is a post of one entity."""

    id: Text
    image: Text | None = None
    tokens: list[Text] | None = None
    text: str | None = None
    offsets: Offsets = "tokens"
    entities: list[GoldEntity] = Field(default_factory=list)
    meta: Any = None
    _row: bool = PrivateAttr(default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _rows_are_posts(cls, given: Any, handler: ModelWrapValidatorHandler[PostLine]) -> PostLine:
        row = isinstance(given, dict) and "entity" in given and "entities" not in given
        line = handler(_post_of_row(given) if row else given)
        line._row = row
        return line

    @model_validator(mode="after")
    def _has_one_text(self) -> PostLine:
        if self.tokens is not None and self.text is not None:
            raise ValueError("wanted either 'tokens' or 'text', not both")
        if self.offsets != "tokens" and self.text is None:
            raise ValueError(f"offsets {self.offsets!r} count in 'text', which is missing")
        read_words(self)  # raises ValueError for positions that are not in the text
        return self

    @property
    def is_row(self) -> bool:
        """Whether it was written as a row."""
        return self._row


def _post_of_row(row: dict[str, Any]) -> dict[str, Any]:
    post = {key: value for key, value in row.items() if key not in _ROW_ENTITY}
    if "id" not in post and "image" in post:
        post["id"] = post["image"]
    names = _ROW_ENTITY.items()
    return {**post, "entities": [{name: row[key] for key, name in names if key in row}]}


@dataclass(frozen=True, slots=True)
class Words:
    """A post's tokens, and the tokens [start, end) of each entity (None: not told).

    `running` where the tokens were made from a text.
    """

    tokens: tuple[str, ...]
    spans: Sequence[tuple[int, int] | None]
    running: bool


def read_words(line: PostLine) -> Words:
    """The tokens of a line and what its entities' positions mean in them.

    `text` becomes tokens by `tokens.tokens_of`; a token that a position cuts is split there.
    Raises ValueError for positions that are not in the text, that hold no token, or that give a
    name other than the entity's where another way of counting gives the entity's.
    """
    given = [
        None if item.start is None or item.end is None else (item.start, item.end)
        for item in line.entities
    ]
    if line.text is None or line.offsets == "tokens":
        return _counted_in_tokens(line, given)
    return _counted_in_characters(line.text, line, given)


def _counted_in_tokens(line: PostLine, given: Sequence[tuple[int, int] | None]) -> Words:
    words = [token.text for token in tokens_of(line.text)] if line.text is not None else line.tokens
    tokens = tuple(words or ())
    for index, (item, span) in enumerate(zip(line.entities, given, strict=True)):
        if span is None:
            continue
        start, end = span
        if line.tokens is None and line.text is None:
            raise ValueError(f"entities[{index}] has positions; wanted either 'tokens' or 'text'")
        if not 0 <= start < end <= len(tokens):
            raise ValueError(
                f"entities[{index}]: tokens {start} to {end} of {len(tokens)}; "
                "wanted 0 ≤ start < end ≤ number of tokens"
            )
        found = " ".join(tokens[start:end])
        if line.text is None or same_name(found, item.name):
            continue
        if same_name("".join(line.text.split()[start:end]), item.name) or same_name(
            line.text[start:end], item.name
        ):
            raise ValueError(
                f"entities[{index}]: tokens {start} to {end} of this text are {found!r}, not "
                f'{item.name!r}; count characters, with "offsets": "characters", or give "tokens"'
            )
    return Words(tokens, given, line.text is not None)


def _counted_in_characters(
    text: str, line: PostLine, given: Sequence[tuple[int, int] | None]
) -> Words:
    count = _Characters(text, line.offsets)
    spans = [
        None if span is None else count.span(index, item.name, *span)
        for index, (item, span) in enumerate(zip(line.entities, given, strict=True))
    ]
    tokens = split_at(tokens_of(text), (at for span in spans if span is not None for at in span))
    places = [None if span is None else _inside(tokens, *span) for span in spans]
    for index, (span, place) in enumerate(zip(spans, places, strict=True)):
        if span is not None and place is None:
            raise ValueError(f"entities[{index}]: {text[slice(*span)]!r} holds no token")
    return Words(tuple(token.text for token in tokens), places, running=True)


class _Characters:
    """Positions in a text, counted in characters (code points) or UTF-16 units."""

    def __init__(self, text: str, offsets: Offsets) -> None:
        self.text, self.offsets = text, offsets
        units: list[int | None] = []
        for index, char in enumerate(text):
            units += [index, None] if ord(char) > 0xFFFF else [index]
        self._place_of_unit = [*units, len(text)]

    def span(self, index: int, name: str, start: int, end: int) -> tuple[int, int]:
        """The characters [start, end) that an entity's positions mean; raises ValueError."""
        found = self._span(self.offsets, start, end)
        if found is None:
            raise ValueError(
                f"entities[{index}]: {self.offsets} {start} to {end} of {self._length()}; wanted "
                "0 ≤ start < end ≤ length of the text, and no half characters"
            )
        spelt = self.text[slice(*found)]
        other: Offsets = "characters" if self.offsets == "utf-16" else "utf-16"
        meant = self._span(other, start, end)
        if (
            not same_name(spelt, name)
            and meant is not None
            and same_name(self.text[slice(*meant)], name)
        ):
            raise ValueError(
                f"entities[{index}]: {self.offsets} {start} to {end} are {spelt!r}, not {name!r}; "
                f'they are in the other way of counting: say "offsets": "{other}"'
            )
        return found

    def _span(self, offsets: Offsets, start: int, end: int) -> tuple[int, int] | None:
        if not 0 <= start < end <= self._length(offsets):
            return None
        if offsets == "characters":
            return start, end
        first, last = self._place_of_unit[start], self._place_of_unit[end]
        return None if first is None or last is None else (first, last)

    def _length(self, offsets: Offsets | None = None) -> int:
        units = (offsets or self.offsets) == "utf-16"
        return len(self._place_of_unit) - 1 if units else len(self.text)


def _inside(tokens: Sequence[Token], start: int, end: int) -> tuple[int, int] | None:
    inside = [i for i, token in enumerate(tokens) if start <= token.start and token.end <= end]
    return (inside[0], inside[-1] + 1) if inside else None


def gold_entities(items: Sequence[GoldEntity], words: Words) -> tuple[Entity, ...]:
    """The entities of a post; one without positions takes the first free tokens of its name.

    An entity of a running text is called by its tokens where white space is all that differs.
    """
    taken = {at for span in words.spans if span is not None for at in range(*span)}
    left = ["\0" if at in taken else token for at, token in enumerate(words.tokens)]
    free = [index for index, span in enumerate(words.spans) if span is None]
    spans = list(words.spans)
    for index, place in zip(free, place_runs([items[i].name for i in free], left), strict=True):
        spans[index] = None if place is None else (place.start, place.end)
    return tuple(_entity(item, span, words) for item, span in zip(items, spans, strict=True))


def _entity(item: GoldEntity, span: tuple[int, int] | None, words: Words) -> Entity:
    start, end = (None, None) if span is None else span
    name = item.name
    if words.running and span is not None and same_name("".join(words.tokens[start:end]), name):
        name = " ".join(words.tokens[start:end])
    boxes = tuple(Box(*map(float, box)) for box in item.boxes or ())
    return Entity(name, item.type, start, end, boxes, item.boxes is not None)
