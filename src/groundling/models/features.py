"""Pictures by path, as whatever a model makes of them once and for all, computed once and kept.

A shared module, no backend.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar

from PIL import Image

from groundling.errors import ImageError
from groundling.images import OpenImage, PictureKey, picture_key
from groundling.records import Failure


class Features(Protocol):
    """What is made of a picture; `nbytes` is the memory that it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        ...


F = TypeVar("F", bound=Features)


class FeatureStore(Generic[F]):
    """Features by path; the least recently used leave once `capacity_bytes` is passed.

    `look` makes them of at most `group` pictures at once, which `open_image` gives. A file counts
    as the same picture while its path, size and time of change stay the same. Capacity 0 keeps
    nothing.
    """

    def __init__(
        self,
        look: Callable[[list[Image.Image]], list[F]],
        open_image: OpenImage,
        capacity_bytes: int,
        group: int = 64,
    ) -> None:
        self._look = look
        self._open = open_image
        self._capacity = capacity_bytes
        self._group = group
        self._held_bytes = 0
        self._kept: OrderedDict[PictureKey, F] = OrderedDict()

    def get(self, paths: Iterable[str]) -> dict[str, F | Failure]:
        """The features of each path, or why there are none (stage `image`)."""
        found: dict[str, F | Failure] = {}
        missing: dict[str, PictureKey] = {}
        for path in dict.fromkeys(paths):
            key = picture_key(path)
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                found[path] = kept
            else:
                missing[path] = key
        waiting = iter(missing.items())
        while group := dict(islice(waiting, self._group)):
            found.update(self._compute(group))
        return found

    def keep_all(self, paths: Iterable[str]) -> dict[str, Failure]:
        """Compute every picture once, in this order, and keep it; return what cannot be read.

        If they do not all fit, nothing is kept, now or later: with some kept and some not, the
        pictures that are looked at together, and so the last bits of their features, would
        depend on what was asked before.
        """
        failures: dict[str, Failure] = {}
        waiting = iter(dict.fromkeys(paths))
        expected = len(dict.fromkeys(paths))
        while group := {path: picture_key(path) for path in islice(waiting, self._group)}:
            seen = self._compute(group)
            failures |= {path: one for path, one in seen.items() if isinstance(one, Failure)}
            sizes = [one.nbytes for one in seen.values() if not isinstance(one, Failure)]
            if sizes and expected * max(sizes) > self._capacity:
                self._capacity = self._held_bytes = 0
                self._kept.clear()
                return {}
        return failures

    def _compute(self, group: dict[str, PictureKey]) -> dict[str, F | Failure]:
        pictures: dict[str, Image.Image] = {}
        results: dict[str, F | Failure] = {}
        for path in group:
            try:
                pictures[path] = self._open(path)
            except ImageError as fault:
                results[path] = Failure(str(fault), "image")
        seen = self._look(list(pictures.values()))
        for path, features in zip(pictures, seen, strict=True):
            results[path] = features
            self._keep(group[path], features)
        return results

    def _keep(self, key: PictureKey, features: F) -> None:
        size = features.nbytes
        if size > self._capacity:
            return
        self._kept[key] = features
        self._held_bytes += size
        while self._held_bytes > self._capacity:
            _, dropped = self._kept.popitem(last=False)
            self._held_bytes -= dropped.nbytes
