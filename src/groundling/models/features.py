"""Pictures by path, as the image tokens of a frozen vision tower, computed once and kept.

A shared module, no backend.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from PIL import Image

from groundling.errors import ImageError
from groundling.images import OpenImage, PictureKey, picture_key
from groundling.models.qwen2vl import ImageTokens, Qwen2VL
from groundling.records import Failure

_GROUP = 64
"""Pictures opened and sent through the tower together."""


class FeatureStore:
    """Image tokens by path; the least recently used leave once `capacity_bytes` is passed.

    A file counts as the same picture while its path, size and time of change stay the same.
    Capacity 0 keeps nothing.
    """

    def __init__(self, model: Qwen2VL, open_image: OpenImage, capacity_bytes: int) -> None:
        self._model = model
        self._open = open_image
        self._capacity = capacity_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[PictureKey, ImageTokens] = OrderedDict()

    def get(self, paths: Iterable[str]) -> dict[str, ImageTokens | Failure]:
        """The image tokens of each path, or why there are none (stage `image`)."""
        found: dict[str, ImageTokens | Failure] = {}
        missing: dict[str, PictureKey] = {}
        for path in dict.fromkeys(paths):
            key = picture_key(path)
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                found[path] = kept
            else:
                missing[path] = key
        waiting = iter(missing.items())
        while group := dict(islice(waiting, _GROUP)):
            found.update(self._compute(group))
        return found

    def keep_all(self, paths: Iterable[str]) -> dict[str, Failure]:
        """Compute every picture once, in this order, and keep it; return what cannot be read.

        If they do not all fit, nothing is kept, now or later: with some kept and some not, the
        pictures that go through the tower together, and so the last bits of their features, would
        depend on what was asked before.
        """
        failures: dict[str, Failure] = {}
        waiting = iter(dict.fromkeys(paths))
        expected = len(dict.fromkeys(paths))
        while group := {path: picture_key(path) for path in islice(waiting, _GROUP)}:
            seen = self._compute(group)
            failures |= {path: one for path, one in seen.items() if isinstance(one, Failure)}
            sizes = [one.features.nbytes for one in seen.values() if isinstance(one, ImageTokens)]
            if sizes and expected * max(sizes) > self._capacity:
                self._capacity = self._held_bytes = 0
                self._kept.clear()
                return {}
        return failures

    def _compute(self, group: dict[str, PictureKey]) -> dict[str, ImageTokens | Failure]:
        pictures: dict[str, Image.Image] = {}
        results: dict[str, ImageTokens | Failure] = {}
        for path in group:
            try:
                pictures[path] = self._model.rules.fit(self._open(path))
            except ImageError as fault:
                results[path] = Failure(str(fault), "image")
        seen = self._model.look(list(pictures.values()))
        for path, tokens in zip(pictures, seen, strict=True):
            results[path] = tokens
            self._keep(group[path], tokens)
        return results

    def _keep(self, key: PictureKey, tokens: ImageTokens) -> None:
        size = tokens.features.nbytes
        if size > self._capacity:
            return
        self._kept[key] = tokens
        self._held_bytes += size
        while self._held_bytes > self._capacity:
            _, dropped = self._kept.popitem(last=False)
            self._held_bytes -= dropped.features.nbytes
