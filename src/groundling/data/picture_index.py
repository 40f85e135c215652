"""Where the picture of a post lies."""

from __future__ import annotations

from pathlib import Path

from groundling.errors import InputError

SUBFOLDERS = ("twitter2015_images", "twitter2017_images")
"""The folders below an image folder that are searched too: the two sources of the pictures."""

EXTENSIONS = (".jpg", ".jpeg", ".png")
"""Endings of picture files, letter case folded; the earlier one is preferred."""


class PictureIndex:
    """The pictures of a folder and of SUBFOLDERS below it, by the file's name without ending.

    The folders are listed once. Files of the folder itself come before those of its subfolders.
    Raises InputError where `folder` is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such image folder; check --images")
        self.folder = folder
        self._by_stem: dict[str, Path] = {}
        for place in (folder, *(folder / name for name in SUBFOLDERS)):
            if place.is_dir():
                self._add(place)

    def _add(self, place: Path) -> None:
        pictures = [path for path in place.iterdir() if path.suffix.lower() in EXTENSIONS]
        pictures.sort(key=lambda path: (EXTENSIONS.index(path.suffix.lower()), path.name))
        for path in pictures:
            if path.is_file():
                self._by_stem.setdefault(path.stem, path)

    def find(self, stem: str) -> Path | None:
        """The picture called `stem` plus one of EXTENSIONS, or None. Letter case matters."""
        return self._by_stem.get(stem)
