"""The counts of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundling.data.gmner import Split
from groundling.records import TWITTER, Entity, Scheme

Counts = dict[str, int]
"""A count for each entity type and `all`."""


@dataclass(frozen=True, slots=True)
class SplitStats:
    """The counts of one split.

    `boxes` counts (entity, box) pairs, `boxes_unknown` the entities of which nobody says whether
    they have any, `several_boxes` the entities with more than one box;
    `without_xml` is None in formats that have no XML; `skipped` counts the faults for which posts
    were left out.
    """

    posts: int
    entities: Counts
    groundable: Counts
    boxes: int
    boxes_unknown: int
    several_boxes: int
    without_xml: int | None
    images_found: int
    skipped: int

    def as_json(self) -> dict[str, object]:
        """The object that `groundling data stats --json` prints for a split.

        `boxes_unknown` is left out where all are known.
        """
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if not self.boxes_unknown:
            del told["boxes_unknown"]
        return told


def split_stats(split: Split, scheme: Scheme = TWITTER) -> SplitStats:
    """Count a split. Each mention of an entity counts; a picture counts where its file is."""
    entities = [entity for post in split.posts for entity in post.entities]
    groundable = [entity for entity in entities if entity.boxes]
    return SplitStats(
        posts=len(split.posts),
        entities=_by_type(entities, scheme),
        groundable=_by_type(groundable, scheme),
        boxes=sum(len(entity.boxes) for entity in groundable),
        boxes_unknown=sum(not entity.boxes_known for entity in entities),
        several_boxes=sum(len(entity.boxes) > 1 for entity in groundable),
        without_xml=split.without_xml,
        images_found=sum(Path(post.image).is_file() for post in split.posts if post.image),
        skipped=len(split.skipped),
    )


def format_stats(stats: Sequence[tuple[str, SplitStats]]) -> str:
    """A table for people: a row of counts by type, and the rest in words, for each split."""
    wide = max([5, *(len(name) for name, _ in stats)])
    columns = list(dict.fromkeys(kind for _, counts in stats for kind in counts.entities))
    cell = max([8, *(len(column) + 2 for column in columns)])
    head = "".join(f"{column:>{cell}}" for column in columns)
    lines = [f"{'split':<{wide}}  {'':<12}{head}"]
    for name, counts in stats:
        shares = {key: _share(counts.groundable[key], counts.entities[key]) for key in columns}
        rows: list[tuple[str, Iterable[object]]] = [
            ("entities", (counts.entities[key] for key in columns)),
            ("groundable", (counts.groundable[key] for key in columns)),
            ("share", shares.values()),
        ]
        for index, (label, values) in enumerate(rows):
            cells = "".join(f"{value:>{cell}}" for value in values)
            lines.append(f"{name if index == 0 else '':<{wide}}  {label:<12}{cells}")
        lines += [f"{'':<{wide}}  {line}" for line in _in_words(counts)]
    return "\n".join(lines)


def _by_type(entities: Iterable[Entity], scheme: Scheme) -> Counts:
    counts = Counter(entity.type for entity in entities)
    return {**{kind: counts[kind] for kind in scheme.types}, "all": counts.total()}


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _in_words(counts: SplitStats) -> list[str]:
    xml = "" if counts.without_xml is None else f" ({counts.without_xml} without XML)"
    lines = [
        f"{counts.posts} posts{xml}, {counts.images_found} of their pictures found",
        f"{counts.boxes} (entity, box) pairs; with several boxes: {counts.several_boxes}",
    ]
    if counts.skipped:
        lines.append(f"{counts.skipped} faults; their posts are left out")
    return lines
