from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict

import pytest

from groundling.records import ENTITY_TYPES
from groundling.toyworld import identities as who

TABLE_DIGEST = "dee490f549ceff3932d6b754d3d4aac589e6b00d6930b5651c73eb28c1565268"
"""The shipped writer has learned this very table; a changed row makes it wrong about that row."""


def test_the_table_is_the_one_that_the_shipped_writer_learned() -> None:
    rows = [[name, type_, asdict(look)] for name, (type_, look) in who.NAMES.items()]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == TABLE_DIGEST


def test_no_two_names_look_alike_and_no_name_stands_twice() -> None:
    assert len(who.NAME_OF) == len(who.NAMES) == 28 + 21 + 15 + 15
    assert Counter(type_ for type_, _ in who.NAMES.values()) == {
        "PER": 28,
        "ORG": 21,
        "LOC": 15,
        "MISC": 15,
    }
    assert [len(who.names_of(kind)) for kind in ENTITY_TYPES] == [28, 15, 21, 15]


@pytest.mark.parametrize(("name", "look"), [(n, look) for n, (_, look) in who.NAMES.items()])
def test_every_look_can_be_drawn_at_random_too(name: str, look: who.Look) -> None:
    """A known thing differs from a stranger by its values, never by the kind of its values."""
    values = {
        who.Face: {
            "hair_colour": who.HAIR_COLOURS,
            "hair_style": who.HAIR_STYLES,
            "skin": who.SKINS,
        },
        who.Emblem: {"shape": who.SHAPES, "colour": who.EMBLEM_COLOURS},
        who.Landmark: {"kind": who.LANDMARKS, "colour": who.LANDMARK_COLOURS},
        who.Item: {"kind": who.ITEMS, "colour": who.ITEM_COLOURS},
    }[type(look)]
    assert who.NAME_OF[look] == name
    for field, allowed in values.items():
        assert getattr(look, field) in allowed
