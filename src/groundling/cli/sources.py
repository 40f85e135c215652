"""Options that name a data set: where it lies, its format, its pictures, its types."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from groundling.records import BOX_FRAMES

if TYPE_CHECKING:
    from groundling.data.formats import Format
    from groundling.records import Scheme

FORMATS = ("twitter-gmner", "jsonl", "ccks", "conll")
"""The names of `groundling.data.formats.FORMATS`, without its imports: --help stays quick."""

SOURCE = (
    "a folder with txt/ and xml/, a .jsonl file or a folder of them, a folder of NAME_text.json "
    "and NAME_entity.json, or files of tokens and tags (.conll, .bio; .gz too)"
)


def add_source(parser: argparse.ArgumentParser) -> None:
    """SRC, --format and --scheme."""
    parser.add_argument("src", metavar="SRC", type=Path, help=SOURCE)
    add_format(parser)
    add_scheme(parser)


def add_format(parser: argparse.ArgumentParser, of: str = "SRC") -> None:
    """--format."""
    parser.add_argument("--format", choices=FORMATS, help=f"of {of} (default: by what it is)")


def add_scheme(parser: argparse.ArgumentParser) -> None:
    """--scheme."""
    parser.add_argument(
        "--scheme",
        metavar="NAME|FILE",
        help="entity types: twitter, ccks, or a YAML or JSON file with name, types and written "
        "(default: ccks for format ccks, else twitter)",
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    """--images and --boxes."""
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="pictures ID.jpg, .jpeg or .png, in DIR or in twitter2015_images or "
        "twitter2017_images below it",
    )
    add_boxes(parser)


def add_boxes(parser: argparse.ArgumentParser) -> None:
    """--boxes."""
    parser.add_argument(
        "--boxes",
        choices=BOX_FRAMES,
        default="upright",
        help="what boxes are drawn on: images as viewers show them, or their stored pixels, before "
        "EXIF turns them; these are turned upright (default: upright)",
    )


def add_skip_bad(parser: argparse.ArgumentParser) -> None:
    """--skip-bad."""
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave posts with faults out, and say so"
    )


def chosen_format(given: Format | None, src: Path) -> Format:
    """The format that was given, else the one that `src` looks like."""
    from groundling.data.formats import guess_format

    return given or guess_format(src)


def chosen_scheme(given: str | None, form: Format) -> Scheme:
    """The types that were named, else the usual ones. Raises InputError or ConfigError."""
    from groundling.data.formats import usual_scheme
    from groundling.data.schemes import read_scheme

    return usual_scheme(form) if given is None else read_scheme(given)
