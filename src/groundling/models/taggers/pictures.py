"""The pictures of posts, as a tagger's network takes them.

A post whose `image` is None has no picture, which the network is told. A post that names one which
cannot be read is a Failure, in training an ImageError: it is never taken for one without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

# In transformers 5.17 the public name demands torchvision; the class itself does without.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from groundling import team
from groundling.config_gmner import VisionConfig
from groundling.errors import ImageError, InputError
from groundling.images import load_image
from groundling.models.features import FeatureStore
from groundling.models.opening import OPENING_FAULTS
from groundling.models.quiet import quiet_library
from groundling.models.saving import saving
from groundling.models.taggers.saved import WEIGHTS, read_filled
from groundling.models.weights import demand_numbers, demand_sizes
from groundling.records import Failure, Post

CNN = "cnn"
PATCH_PX = 8
_WANTED = "wanted CLIP, SigLIP or a ViT, or cnn"
TOWER = "tower"
"""Folder of a stored tagger's frozen encoder of pictures."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures of B posts: `pictures` (B, …), and `there` (B), which of the posts have one.

    A picture is its pixels (3, S, S) in [−1, 1], or vectors (N, D) of a frozen encoder. Where none
    is there, the values do not matter.
    """

    pictures: Tensor
    there: Tensor


class Pictures:
    """Reads the pictures of posts, and keeps what `look` made of them."""

    def __init__(
        self,
        look: Callable[[Image.Image], Tensor],
        capacity_bytes: int,
        tower: Tower | None = None,
    ) -> None:
        self._empty = torch.zeros_like(look(Image.new("RGB", (PATCH_PX, PATCH_PX))))
        self._tower = tower
        self._store = FeatureStore(
            lambda pictures: [look(picture) for picture in pictures],
            load_image,
            capacity_bytes,
            group=1,  # no picture's numbers depend on the company
        )

    @property
    def patch_width(self) -> int:
        """Length of a vector of a frozen encoder."""
        return self._empty.shape[-1]

    def fault(self, post: Post) -> Failure | None:
        """Why the picture of a post cannot be read, if it has one that cannot."""
        found = None if post.image is None else self._store.get([post.image])[post.image]
        return found if isinstance(found, Failure) else None

    def of(self, posts: Sequence[Post], device: torch.device) -> Seen:
        """The pictures of a batch. Raises ImageError for one that cannot be read."""
        rows = [self._empty if post.image is None else self._read(post.image) for post in posts]
        pictures = torch.stack(rows).to(device)
        if pictures.dtype == torch.uint8:
            pictures = pictures.float() / 127.5 - 1.0
        there = torch.tensor([post.image is not None for post in posts], device=device)
        return Seen(pictures, there)

    def _read(self, path: str) -> Tensor:
        found = self._store.get([path])[path]
        if isinstance(found, Failure):
            raise ImageError(found.reason)
        return found

    def check(self, posts: Sequence[Post]) -> None:
        """See to it that posts to learn from can be read before the training begins.

        Raises InputError where no post has a picture, or pictures cannot be read.
        """
        if posts and all(post.image is None for post in posts):
            raise InputError(
                "tagger.vision: no post to learn from has a picture; name their folder "
                "(data.images), or leave tagger.vision out"
            )
        faults = [(post.id, fault) for post in posts if (fault := self.fault(post)) is not None]
        if faults:
            first, fault = faults[0]
            raise InputError(
                f"tagger.vision: {len(faults)} of {len(posts)} posts to learn from name a picture "
                f"that cannot be read, first {first}: {fault.reason}"
            )

    def save(self, folder: Path) -> None:
        """Write the frozen encoder, where there is one."""
        if self._tower is not None and team.leads():
            self._tower.save(folder / TOWER)


class Tower:
    """A frozen encoder of pictures: the vision side of CLIP or SigLIP, or a ViT."""

    def __init__(self, model: Any, processor: Any, device: str, config: Any = None) -> None:
        self._config, self._processor = config or model.config, processor
        self.net = getattr(model, "vision_model", model).to(device).eval()

    @classmethod
    def published(cls, path: str, device: str) -> Tower:
        """From a folder or hub name. Raises InputError for what is none."""
        made = cls(*_opened(path, lambda: _pretrained(path)), device)
        made._try(path)
        return made

    @classmethod
    def stored(cls, folder: Path, device: str) -> Tower:
        """As `save` left it. Raises InputError."""
        config, processor = _opened(folder, lambda: _parts(folder))
        demand_sizes(folder)

        def build() -> nn.Module:
            with quiet_library():
                model: Any = AutoModel.from_config(config, dtype=torch.float32)
            net: nn.Module = getattr(model, "vision_model", model)
            return net

        return cls(read_filled(folder, build), processor, device, config)

    def save(self, folder: Path) -> None:
        """Write configuration, weights and how pictures are prepared."""
        folder.mkdir(parents=True, exist_ok=True)
        self._config.save_pretrained(folder)
        self._processor.save_pretrained(folder)
        weights = {name: w.cpu().contiguous() for name, w in self.net.state_dict().items()}
        with saving(folder):
            save_file(weights, folder / WEIGHTS)

    def _try(self, path: str) -> None:
        """Look at pictures of two shapes. Raises InputError where that does not give patches."""
        try:
            shapes = {self.look(Image.new("RGB", size)).shape for size in ((32, 32), (32, 96))}
        except (AttributeError, TypeError, ValueError, RuntimeError) as fault:
            reason = str(fault).partition("\n")[0]
            raise InputError(f"{path}: cannot look at a picture ({reason}); {_WANTED}") from fault
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise InputError(
                f"{path}: gives no patches, or not as many for every picture; {_WANTED}"
            )

    @torch.no_grad()
    def look(self, picture: Image.Image) -> Tensor:
        """(N, D) float32 on the CPU: the last layer's vectors of the patches, and of the whole
        where there is one."""
        fed = self._processor(picture, return_tensors="pt")["pixel_values"]
        place = next(self.net.parameters()).device
        states: Tensor = self.net(pixel_values=fed.to(place)).last_hidden_state[0]
        return states.float().cpu()


def open_pictures(
    config: VisionConfig | None,
    device: str,
    *,
    folder: Path | None = None,
    posts: Sequence[Post] = (),
) -> Pictures | None:
    """What reads pictures for a fresh tagger that will learn from `posts`, or for a stored one.

    None where it is not to look at any. Raises InputError.
    """
    if config is None:
        return None
    memory = config.cache_mb * 10**6
    if config.encoder == CNN:
        side = config.grid * PATCH_PX
        pictures = Pictures(lambda picture: _pixels(picture, side), memory)
    else:
        tower = (
            Tower.published(config.encoder, device)
            if folder is None
            else Tower.stored(folder / TOWER, device)
        )
        pictures = Pictures(tower.look, memory, tower)
    pictures.check(posts)
    return pictures


def _pixels(picture: Image.Image, side: int) -> Tensor:
    """(3, side, side) uint8, squeezed to a square."""
    squeezed = picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return torch.from_numpy(np.array(squeezed).transpose(2, 0, 1).copy())


def _pretrained(path: str) -> tuple[Any, Any]:
    demand_sizes(path)
    model, told = AutoModel.from_pretrained(
        path, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    missing = [name for name in told["missing_keys"] if "pooler." not in name]
    if missing:
        raise ValueError(f"weights are missing, first {min(missing)}")
    demand_numbers(path, model.named_parameters())
    return model, AutoImageProcessor.from_pretrained(path)


def _parts(folder: Path) -> tuple[Any, Any]:
    return AutoConfig.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)


def _opened(path: str | Path, opening: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    try:
        with quiet_library():
            model, processor = opening()
    except OPENING_FAULTS as fault:
        reason = str(fault).partition("\n")[0]
        raise InputError(
            f"{path}: no encoder of pictures that can be opened: {reason}; {_WANTED}"
        ) from fault
    return model, processor
