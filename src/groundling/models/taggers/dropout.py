"""Monte Carlo dropout: passes through thinned networks (Gal and Ghahramani 2016).

A pass draws one mask over the features of every dropout layer and keeps it for all words of all
posts: dropout as a draw of the weights, of which a pass uses one. Masks follow from seed, pass and
layer alone, so what is believed of a post depends neither on the posts beside it nor on what ran
before. Dropout of attention weights and of whole words stays off: it draws no weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from groundling.config_gmner import UncertaintyConfig


def passes(net: nn.Module, how: UncertaintyConfig) -> Iterator[int]:
    """The passes to make, by number; between one and the next the network is thinned for it.

    One plain pass, unless Monte Carlo dropout is wanted.
    """
    if how.kind != "mc-dropout":
        yield 0
        return
    for number in range(how.count):
        with thinned(net, how.seed, number):
            yield number


@contextmanager
def thinned(net: nn.Module, seed: int, number: int) -> Iterator[None]:
    """Within it, the network, which must not be training, runs as in pass `number` of a seed."""
    with ExitStack() as hooks:
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Dropout) and layer.p > 0:
                hook = layer.register_forward_hook(_masking(f"{seed} {number} {name}"))
                hooks.callback(hook.remove)
        yield


def mask_of(key: str, width: int, share: float) -> Tensor:
    """(width,): 0 for features that are left out, a share of them, 1 / (1 − share) for others."""
    told = hashlib.blake2b(f"{key} {width}".encode(), digest_size=8).digest()
    draws = torch.Generator().manual_seed(int.from_bytes(told, "big"))
    return (torch.rand(width, generator=draws) >= share) / (1 - share)


def _masking(key: str) -> Callable[[nn.Dropout, tuple[Tensor, ...], Tensor], Tensor]:
    def masked(layer: nn.Dropout, _: tuple[Tensor, ...], values: Tensor) -> Tensor:
        if values.dim() != 3:
            return values  # weights of an attention, (texts, heads, places, places)
        return values * mask_of(key, values.shape[-1], layer.p).to(values)

    return masked
