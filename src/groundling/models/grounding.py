"""What grounders that compute here have in common: where they run, and requests in batches.

A shared module, no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from groundling.errors import ImageError
from groundling.images import OpenImage, load_image
from groundling.records import Failure, Grounded

W = TypeVar("W")
P = TypeVar("P")

Asked = tuple[tuple[str, W], P]
"""A request (path of a picture, what to look for) and its picture, read."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a grounder computes, how much at a time, and where its pictures come from.

    dtype: of the weights. batch_size: (picture, expression) pairs that run together outside
    training. image_root: folder that pictures may not leave. open_image: reads a picture by its
    path in place of the file system.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 8
    image_root: Path | None = None
    open_image: OpenImage | None = None

    @property
    def opener(self) -> OpenImage:
        """How a path becomes a picture."""
        return self.open_image or partial(load_image, root=self.image_root)


NO_NUMBER = "the model's numbers are not finite; compute in bfloat16 or float32"
"""Why an answer of a model that overflowed is none (stage "model"): nothing is known of the box."""

ON_CPU = Compute()
"""What is meant where nothing is said."""


def ground_batches(
    requests: Sequence[tuple[str, W]],
    read: Callable[[str], P],
    answer: Callable[[Sequence[Asked[W, P]]], Iterable[Grounded | Failure]],
    batch_size: int,
) -> list[Grounded | Failure]:
    """An answer to each request, (picture path, what to look for), in order.

    `answer` is given at most `batch_size` at a time, those of one picture together, a request that
    occurs twice once. A picture is read when its batch comes and kept for the next one alone. One
    that `read` raises ImageError for is a Failure of stage "image"; nothing to look for (what is
    false) is one of stage "ground".
    """
    answers: dict[tuple[str, W], Grounded | Failure] = {}
    by_picture: dict[str, list[tuple[str, W]]] = {}
    for request in dict.fromkeys(requests):
        if request[1]:
            by_picture.setdefault(request[0], []).append(request)
        else:
            answers[request] = Failure("the expression is empty", "ground")
    distinct = [request for group in by_picture.values() for request in group]
    pictures: dict[str, P | ImageError] = {}
    for begin in range(0, len(distinct), batch_size):
        batch = distinct[begin : begin + batch_size]
        pictures = _pictures((path for path, _ in batch), read, pictures)
        readable: list[Asked[W, P]] = []
        for request in batch:
            picture = pictures[request[0]]
            if isinstance(picture, ImageError):
                answers[request] = Failure(str(picture), "image")
            else:
                readable.append((request, picture))
        if readable:
            found = answer(readable)
            answers.update(zip((request for request, _ in readable), found, strict=True))
    return [answers[request] for request in requests]


def distinct_pictures(batch: Sequence[Asked[W, P]]) -> tuple[list[P], list[int]]:
    """The pictures of a batch, each once, and which of them each request is about."""
    pictures = {path: picture for (path, _), picture in batch}
    places = {path: place for place, path in enumerate(pictures)}
    return list(pictures.values()), [places[path] for (path, _), _ in batch]


def _pictures(
    paths: Iterable[str], read: Callable[[str], P], before: dict[str, P | ImageError]
) -> dict[str, P | ImageError]:
    """Each distinct picture of a batch, or why not; one that the batch before had is at hand."""
    found: dict[str, P | ImageError] = {}
    for path in dict.fromkeys(paths):
        try:
            found[path] = before[path] if path in before else read(path)
        except ImageError as error:
            found[path] = error
    return found
