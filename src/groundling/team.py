"""The processes that train together, as `accelerate launch` or torchrun started them.

A process that was started alone is a team of one: every method is then free and nothing heavy is
imported. A larger team copies the model to each process and averages gradients (DDP), or, where
`accelerate launch` asks for FSDP, gives each process a share of every parameter (torch's own
`fully_shard`, layer by layer).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from groundling.errors import RunError
from groundling.meeting import meet

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process waits for others that it has met: one may be at work on a long chunk."""


def size() -> int:
    """How many processes were started together; reads the environment and no more."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def leads() -> bool:
    """Whether this process is the one that writes and tells; reads the environment and no more."""
    return size() == 1 or int(os.environ.get("RANK") or 0) == 0


def shards() -> bool:
    """Whether parameters are to be shared out; reads the environment and no more."""
    return size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


@contextlib.contextmanager
def in_company() -> Iterator[None]:
    """Inside, to wait in vain for another process is a RunError: why it ended, that one says."""
    try:
        yield
    except RuntimeError as fault:
        if size() == 1 or not _is_loss_of_another(fault):
            raise
        reason = str(fault).partition("\n")[0]
        raise RunError(
            f"process {os.environ.get('RANK')} of {size()} was left by another one, which has "
            f"ended or hangs; see what that one says, then start all of them again ({reason})"
        ) from fault


def _is_loss_of_another(fault: RuntimeError) -> bool:
    """Whether a collective failed: NCCL and the store have errors of their own, gloo has not."""
    distributed = sys.modules.get("torch.distributed")
    own = getattr(distributed, "DistError", ())
    return isinstance(fault, own) or "gloo" in str(fault).lower()


class Team:
    """`size` processes, of which this is number `rank`; number 0 leads.

    Every process must call `barrier`, `broadcast`, `gather`, `sum` and `settle` as often and in the
    same order as the others.
    """

    def __init__(self) -> None:
        self.size = size()
        self.rank = 0
        self.counts = True
        """Whether the examples in hand count: set by `counting`."""
        self.in_step = False
        """Whether every process runs the same model on the same input: set by `assembled`."""
        self.sharded = shards()
        if self.size > 1:
            self._meet()

    def _meet(self) -> None:
        """Wait for the others; from here on "cuda" is the GPU that belongs to this process."""
        import torch
        from accelerate import PartialState

        # transformers would open checkpoints in the leader alone and leave the others' empty
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        gpus = torch.cuda.is_available()
        # gloo beside NCCL: models that stay on the CPU, and who is lost is noticed at once
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        meet(backend, PATIENCE)
        state = PartialState(cpu=not gpus, backend=backend)
        self.rank = int(state.process_index)
        self._device = torch.device(state.device)

    @property
    def leader(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.sum([0.0])

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, value by value."""
        if self.size == 1:
            return list(values)
        import torch
        from torch import distributed

        added = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(added)
        return [float(value) for value in added.tolist()]

    def gather(self, value: T) -> list[T]:
        """The small value that each process has, by rank."""
        if self.size == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: T) -> T:
        """The small value that the leader has; what the others bring is ignored."""
        return self.gather(value if self.leader else None)[0]  # type: ignore[return-value]

    def agreed(self, tokens: torch.Tensor) -> torch.Tensor:
        """What was drawn; while all run the same model in step, what the leader has drawn.

        Its next passes are everybody's, so they must not depend on how each one rounds.
        """
        if self.in_step:
            from torch import distributed

            distributed.broadcast(tokens, 0)
        return tokens

    @contextlib.contextmanager
    def counting(self, counts: bool) -> Iterator[None]:
        """Inside, the examples in hand count, or they are computed only to keep in step."""
        self.counts = counts
        try:
            yield
        finally:
            self.counts = True

    def settle(self, module: torch.nn.Module) -> None:
        """Share a model's parameters out, where this team does that and it has not been done.

        Layers are the modules of the classes that `accelerate launch` names
        (`--fsdp_transformer_layer_cls_to_wrap`) or that the model itself holds together.
        """
        if not self.sharded or is_sharded(module) or module in _WHOLE:
            return
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self._device.type, (self.size,))
        for layer in reversed(_layers(module)):
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        module.within = lambda call: call()  # type: ignore[assignment]
        register_fsdp_forward_method(module, "within")
        with torch.no_grad():  # whose forward pass comes first is taken to be the root
            _within(module, _nothing)

    def wrap(self, step: torch.nn.Module, module: torch.nn.Module) -> Wrapped:
        """`step`, whose forward pass uses `module`, with gradients averaged over the team."""
        self.settle(module)
        if is_sharded(module):

            def hold(held: bool) -> AbstractContextManager[None]:
                module.set_requires_gradient_sync(not held)  # type: ignore[operator]
                return contextlib.nullcontext()

            return Wrapped(lambda batch: _within(module, lambda: step(batch)), hold)
        from torch.nn.parallel import DistributedDataParallel

        # without that, buckets would change after a first step, and a resumed fit have another one
        copied = DistributedDataParallel(step, find_unused_parameters=True)
        return Wrapped(copied, lambda held: copied.no_sync() if held else contextlib.nullcontext())


class Wrapped:
    """A loss whose gradients are averaged over the team, except while they are held."""

    def __init__(
        self, call: Callable[[Any], Any], hold: Callable[[bool], AbstractContextManager[None]]
    ) -> None:
        self._call = call
        self.hold = hold
        """Around forward and backward: whether gradients only add up here for now."""

    def __call__(self, batch: Any) -> torch.Tensor:
        """The loss of this process's examples."""
        loss: torch.Tensor = self._call(batch)
        return loss


def alone(call: Callable[[Any], torch.Tensor]) -> Wrapped:
    """The loss of a team of one, as it is."""
    return Wrapped(call, lambda _: contextlib.nullcontext())


@cache
def team() -> Team:
    """The team of this process; the first call waits for all the others."""
    return Team()


def is_sharded(module: Any) -> bool:
    """Whether a model's parameters have been shared out."""
    return hasattr(module, "unshard")


_WHOLE: WeakSet[torch.nn.Module] = WeakSet()


def keep_whole(module: torch.nn.Module) -> None:
    """Never share this model's parameters out; in training, every process has a copy.

    So must be a model that makes more passes for some batches than for others: all processes take
    part in every pass over a shared-out model, so that one which makes fewer leaves the rest
    waiting.
    """
    _WHOLE.add(module)


@contextlib.contextmanager
def assembled(module: Any) -> Iterator[None]:
    """Inside, a shared-out model can be run part by part, without gradients, by all in step."""
    if not is_sharded(module):
        yield
        return
    module.unshard()
    team().in_step = True
    try:
        yield
    finally:
        team().in_step = False
        module.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with everybody's share; every process must ask."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def like(held: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the device of `held`, and shared out as that one is."""
    value = value.to(held.device)
    if not hasattr(held, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        value,
        held.device_mesh,
        held.placements,  # type: ignore[attr-defined]
        src_data_rank=None,  # everybody has the value
    )


def fill(held: torch.Tensor, value: torch.Tensor) -> None:
    """Set a parameter, shared out or not, to a whole value that every process has."""
    held.detach().copy_(like(held, value))


def _layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    named = set(os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",")) - {""}
    for part in module.modules():
        if not named:
            named = set(getattr(part, "_no_split_modules", None) or ())
    return [
        part
        for part in module.modules()
        if type(part).__name__ in named and next(part.parameters(), None) is not None
    ]


def _within(module: Any, call: Callable[[], T]) -> T:
    """A call during which the model counts as being in its forward pass."""
    result: T = module.within(call)
    return result


def _nothing() -> None:
    pass
