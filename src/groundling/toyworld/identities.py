"""Who and what exists in the embedded world. Nothing here ever depends on a seed.

The shipped writer has learned these names; changing a row makes it wrong about that row.
"""

from __future__ import annotations

from dataclasses import dataclass

from groundling.records import EntityType

HAIR_COLOURS = ("black", "brown", "blond", "red", "grey")
HAIR_STYLES = ("short", "long", "curly", "bun")
SKINS = ("light", "tan", "dark")
SHIRTS = ("red", "blue", "green", "yellow", "purple", "white", "black", "orange")
SHAPES = ("star", "ring", "triangle", "heart", "cross", "diamond", "moon")
EMBLEM_COLOURS = ("red", "blue", "green", "yellow", "purple", "black")
LANDMARKS = ("windmill", "dome", "pyramid", "castle", "lighthouse")
LANDMARK_COLOURS = ("white", "grey", "yellow", "red", "blue", "green")
ITEMS = ("trophy", "mug", "phone", "car", "ball")
ITEM_COLOURS = ("red", "blue", "green", "yellow", "black", "white")


@dataclass(frozen=True, slots=True)
class Face:
    """What makes a person that person; shirt and place vary from picture to picture."""

    hair_colour: str
    hair_style: str
    beard: bool
    glasses: bool
    skin: str


@dataclass(frozen=True, slots=True)
class Emblem:
    """What makes an organisation's logo."""

    shape: str
    colour: str


@dataclass(frozen=True, slots=True)
class Landmark:
    """What makes a place: a kind of building in its colour."""

    kind: str
    colour: str


@dataclass(frozen=True, slots=True)
class Item:
    """What makes a thing: a kind of object in its colour."""

    kind: str
    colour: str


Look = Face | Emblem | Landmark | Item


def _face(words: str) -> Face:
    colour, style, beard, glasses, skin = words.split()
    return Face(colour, style, beard == "beard", glasses == "glasses", skin)


PEOPLE: dict[str, Face] = {
    name: _face(words)
    for name, words in {
        "Mara Quill": "red curly - - light",
        "Tobin Ash": "black short beard - tan",
        "Ines Varga": "black long - glasses light",
        "Odell Finch": "grey short beard glasses dark",
        "Lena Brandt": "blond bun - - light",
        "Kofi Mensah": "black short - - dark",
        "Priya Nair": "black bun - - tan",
        "Hugo Lindqvist": "blond short beard - light",
        "Yara Haddad": "brown long - - tan",
        "Bram Okafor": "black curly beard - dark",
        "Selma Rask": "grey bun - glasses light",
        "Dario Conti": "brown curly - glasses tan",
        "Wren Calloway": "red long - glasses light",
        "Emeka Duru": "black short - glasses dark",
        "Tilda Frost": "blond long - - light",
        "Rafe Moreno": "brown short beard - tan",
        "Nadia Petrov": "brown bun - glasses light",
        "Jonas Weld": "red short - - light",
        "Amara Diallo": "black bun - glasses dark",
        "Felix Stroud": "grey curly beard - light",
        "Suki Tanaka": "black long - - light",
        "Gideon Marsh": "red short beard glasses light",
        "Zola Abara": "brown curly - - dark",
        "Perrin Holt": "blond curly - glasses light",
        "Calla Reyes": "red bun - - tan",
        "Magnus Thorne": "grey long beard - light",
        "Leila Aziz": "brown long - glasses dark",
        "Otis Grant": "grey short - - dark",
    }.items()
}

ORGANISATIONS: dict[str, Emblem] = {
    name: Emblem(*words.split())
    for name, words in {
        "Novalis": "star blue",
        "Brightforge": "star red",
        "Kestrel United": "star black",
        "Orbitel": "ring green",
        "Halcyon Air": "ring blue",
        "Red Hoop": "ring red",
        "Triad Labs": "triangle purple",
        "Summit Goods": "triangle green",
        "Delta Yellow": "triangle yellow",
        "Heartwood": "heart green",
        "Care First": "heart red",
        "Velvet Bank": "heart purple",
        "Medora": "cross blue",
        "Crosswind": "cross black",
        "Plus Union": "cross yellow",
        "Facet": "diamond purple",
        "Blue Gem": "diamond blue",
        "Cobalt Dynamics": "diamond red",
        "Luna Foods": "moon yellow",
        "Nightshift": "moon black",
        "Tidal Press": "moon blue",
    }.items()
}

PLACES: dict[str, Landmark] = {
    name: Landmark(*words.split())
    for name, words in {
        "Windmere": "windmill white",
        "Old Carden": "windmill grey",
        "Millhaven": "windmill red",
        "Port Amber": "dome yellow",
        "Azurra": "dome blue",
        "Verdun Hill": "dome green",
        "Sandrell": "pyramid yellow",
        "Palecrest": "pyramid white",
        "Rustmoor": "pyramid red",
        "Greyhold": "castle grey",
        "Rosewall": "castle red",
        "Bluekeep": "castle blue",
        "Cape Lorn": "lighthouse white",
        "Ember Point": "lighthouse red",
        "Gull Rock": "lighthouse blue",
    }.items()
}

THINGS: dict[str, Item] = {
    name: Item(*words.split())
    for name, words in {
        "Aurora Cup": "trophy yellow",
        "Iron Chalice": "trophy black",
        "Emerald Cup": "trophy green",
        "Morning Brew": "mug red",
        "Deep Roast": "mug black",
        "Frost Tea": "mug blue",
        "Comet 5": "phone black",
        "Pearl One": "phone white",
        "Ruby Call": "phone red",
        "Stallion GT": "car red",
        "Mini Tern": "car blue",
        "Taxi Nine": "car yellow",
        "World Sphere": "ball green",
        "Golden Kick": "ball yellow",
        "Blueshot": "ball blue",
    }.items()
}

NAMES: dict[str, tuple[EntityType, Look]] = {
    **{name: ("PER", look) for name, look in PEOPLE.items()},
    **{name: ("ORG", look) for name, look in ORGANISATIONS.items()},
    **{name: ("LOC", look) for name, look in PLACES.items()},
    **{name: ("MISC", look) for name, look in THINGS.items()},
}

NAME_OF: dict[Look, str] = {look: name for name, (_, look) in NAMES.items()}


def names_of(kind: EntityType) -> list[str]:
    """Every name of one entity type, in the table's order."""
    return [name for name, (entity_type, _) in NAMES.items() if entity_type == kind]
