"""The only optimiser loop: AdamW, a learning-rate schedule, and checkpoints to the bit.

Everything random in here follows from `seed`: the order of the examples comes from (seed, epoch),
and torch's generators are seeded on entry and put back on leaving, so dropout does not depend on
what ran before. A run that is killed and started again ends in the same parameters, bit for bit,
as one that was not, given the same machine and number of threads.

Several processes (`groundling.team`) share each batch and do the same steps as one, up to
rounding: a loss is weighted by what its examples count for in the whole batch. Each has a stream of
random numbers of its own. A checkpoint holds whole tensors, so that another number of processes can
go on from it; the same number does so bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from groundling import atomic
from groundling.config import Optimiser
from groundling.errors import RunError
from groundling.models.base import Trainable
from groundling.team import Team, Wrapped, alone, fill, like, team, whole

T = TypeVar("T")
_WINDOW = 32  # batches that are sorted by length together; longer windows pad and shuffle less


def equal_weight(_: object) -> float:
    """Every example counts alike."""
    return 1.0


def equal_pace(_: str) -> float:
    """Every parameter learns at the same rate."""
    return 1.0


@dataclass(frozen=True, slots=True)
class StepReport:
    """One finished step, 1 ≤ `step` ≤ `steps`; `grad_norm` is the L2 norm before clipping."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float


@dataclass(frozen=True, slots=True)
class FitSummary:
    """A finished fit: the number of steps and the loss at each, resumed ones included."""

    steps: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where and how often a fit stores its state: after `every_s` seconds or `every_steps`."""

    path: Path
    every_s: float = 20.0
    every_steps: int | None = None


def fit(
    model: Trainable,
    loss: Callable[[Sequence[T]], torch.Tensor],
    examples: Sequence[T],
    optimiser: Optimiser,
    *,
    seed: int,
    checkpoint: Path | Checkpoint | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    length: Callable[[T], int] | None = None,
    weight: Callable[[T], float] = equal_weight,
    pace: Callable[[str], float] = equal_pace,
    after_epoch: Callable[[int], bool] | None = None,
) -> FitSummary:
    """Minimise `loss` (mean over a batch) over `model.trainable()`.

    `length` (in any unit) makes batches of similar examples, to waste less padding. Where a batch
    is cut, by `optimiser.micro_batch` or among processes, `weight` is what an example counts for in
    the mean (its tokens, where the mean is over tokens), so that the parts add up to the whole.
    `pace` multiplies the learning rate of a parameter, by its name: a head may have to run ahead of
    what was pre-trained. A file at the `checkpoint` path is continued; it stays there when the fit
    is done. Without examples there are no steps. `after_epoch` is told how many epochs are done,
    after each one, and ends the fit by returning True; after a stop it may be told of an epoch
    again. Raises RunError for a loss or gradient that is not finite, before the update it would
    have spoilt, and for a checkpoint of another fit.
    """
    if isinstance(checkpoint, Path):
        checkpoint = Checkpoint(checkpoint)
    us = team()
    step_of = alone(loss) if us.size == 1 else us.wrap(_Step(model.module(), loss), model.module())
    steps = optimiser.epochs * math.ceil(len(examples) / optimiser.batch_size)
    lengths = None if length is None else [length(example) for example in examples]
    parameters = model.trainable()
    paces = {name: pace(name) for name in parameters}
    fingerprint = _fingerprint(optimiser, seed, len(examples), paces)
    state = _State(parameters, paces, optimiser, fingerprint, us)
    with torch.random.fork_rng(devices=state.cuda_devices):
        torch.manual_seed(_stream(seed, us.rank))
        if checkpoint is not None:
            state.restore(checkpoint.path, seed)
        stored_s = time.monotonic()
        for batch in _remaining(len(examples), optimiser, seed, lengths, len(state.losses)):
            step = len(state.losses)
            if _ends(after_epoch, step, steps // optimiser.epochs, us):
                break
            lr = learning_rate(step, steps, optimiser)
            chosen = [examples[index] for index in batch]
            parts = _parts(chosen, optimiser.micro_batch, weight, us)
            norm = state.update(parts, step_of, lr)
            if checkpoint is not None and _due(checkpoint, step + 1, stored_s, us):
                state.store(checkpoint.path)
                stored_s = time.monotonic()
            if on_step is not None:
                on_step(StepReport(step + 1, steps, state.losses[-1], lr, norm))
        else:
            _ends(after_epoch, steps, steps // optimiser.epochs, us)
    return FitSummary(steps, tuple(state.losses))


def _ends(after_epoch: Callable[[int], bool] | None, step: int, per_epoch: int, us: Team) -> bool:
    """Whether the fit is over before `step`: asked between epochs, and the leader's word counts."""
    if after_epoch is None or step == 0 or step % per_epoch:
        return False
    with torch.random.fork_rng():
        return us.broadcast(after_epoch(step // per_epoch))


class _Step(torch.nn.Module):
    """A loss as one forward pass of the module whose parameters it moves."""

    def __init__(
        self, module: torch.nn.Module, loss: Callable[[Sequence[T]], torch.Tensor]
    ) -> None:
        super().__init__()
        self.module = module
        self._loss = loss

    def forward(self, batch: Sequence[Any]) -> torch.Tensor:
        """The loss of this process's part of a batch."""
        return self._loss(batch)


def _parts(
    batch: Sequence[T], size: int | None, weight: Callable[[T], float], us: Team
) -> list[tuple[Sequence[T], float]]:
    """A batch cut into parts of at most `size` examples: what this process does of each.

    With each its share of the whole batch. Who has nothing to do of a part does its first example
    for nothing, for all processes must take every step.
    """
    if us.size == 1 and (size is None or size >= len(batch)):
        return [(batch, 1.0)]
    whole_weight = sum(map(weight, batch))
    size = size or len(batch)
    cuts = [batch[start : start + size] for start in range(0, len(batch), size)]
    own = [(cut, cut[us.rank :: us.size]) for cut in cuts]
    return [
        (mine, sum(map(weight, mine)) / whole_weight) if mine else (cut[:1], 0.0)
        for cut, mine in own
    ]


def learning_rate(step: int, steps: int, optimiser: Optimiser) -> float:
    """The learning rate of `step`, 0 ≤ step < steps: never 0, so that no step is wasted.

    The first ⌈warmup × steps⌉ steps climb linearly to the peak, which the step after them has.
    """
    climb = math.ceil(optimiser.warmup * steps)
    if step < climb:
        return optimiser.lr * (step + 1) / (climb + 1)
    done = (step - climb) / max(1, steps - climb)
    if optimiser.schedule == "cosine":
        return optimiser.lr * 0.5 * (1 + math.cos(math.pi * done))
    if optimiser.schedule == "linear":
        return optimiser.lr * (1 - done)
    return optimiser.lr


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, lengths: Sequence[int] | None = None
) -> list[list[int]]:
    """The batches of one epoch as indices below `count`; each occurs once, the last may be short.

    With `lengths`, examples are sorted by length within windows of 32 batches of the shuffled
    order, and the batches are then shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    order: list[int] = rng.permutation(count).tolist()
    if lengths is not None:
        window = _WINDOW * batch_size
        windows = [order[start : start + window] for start in range(0, count, window)]
        order = [i for part in windows for i in sorted(part, key=lengths.__getitem__)]
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return batches if lengths is None else [batches[i] for i in rng.permutation(len(batches))]


def _remaining(
    count: int, optimiser: Optimiser, seed: int, lengths: Sequence[int] | None, done: int
) -> Iterator[list[int]]:
    """The batches of all epochs after the first `done`."""
    for epoch in range(optimiser.epochs):
        batches = epoch_batches(count, optimiser.batch_size, seed, epoch, lengths)
        yield from batches[max(0, done - epoch * len(batches)) :]


def _due(checkpoint: Checkpoint, step: int, stored_s: float, us: Team) -> bool:
    """Whether to store the state after `step`; by the leader's clock."""
    if checkpoint.every_steps is not None:
        return step % checkpoint.every_steps == 0
    late = us.leader and time.monotonic() - stored_s >= checkpoint.every_s
    return us.sum([float(late)]) == [1.0]


def _stream(seed: int, rank: int, done: int = 0) -> int:
    """The seed of a process's random numbers; a team's first process has those of one alone."""
    if rank == 0:
        return seed
    told = hashlib.sha256(f"{seed} {rank} {done}".encode()).digest()
    return int.from_bytes(told[:7], "little")


def _fingerprint(optimiser: Optimiser, seed: int, count: int, paces: Mapping[str, float]) -> str:
    """What a checkpoint must have in common with the fit that continues it."""
    unequal = {name: pace for name, pace in paces.items() if pace != 1.0}
    told = [optimiser.model_dump(mode="json"), seed, count, *([unequal] if unequal else [])]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


class _State:
    """All that changes during a fit: parameters, AdamW's moments, losses, random generators."""

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        paces: Mapping[str, float],
        optimiser: Optimiser,
        fingerprint: str,
        us: Team,
    ) -> None:
        self.parameters = parameters
        self._team = us
        self.losses: list[float] = []
        self.cuda_devices = sorted(
            {p.device.index or 0 for p in parameters.values() if p.device.type == "cuda"}
        )
        self._fingerprint = fingerprint
        self._max_grad_norm = optimiser.max_grad_norm
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in parameters.items():
            groups.setdefault(paces[name], []).append(parameter)
        self.adamw = torch.optim.AdamW(
            [{"params": group, "pace": pace} for pace, group in groups.items()],
            lr=optimiser.lr,
            weight_decay=optimiser.weight_decay,
        )

    def update(
        self, parts: Sequence[tuple[Sequence[T], float]], step_of: Wrapped, lr: float
    ) -> float:
        """One step of AdamW over a batch's parts; the gradient's L2 norm before clipping."""
        self.adamw.zero_grad(set_to_none=True)
        total = 0.0
        many = self._team.size  # whose gradients are averaged, where the batch wants their sum
        for index, (part, share) in enumerate(parts):
            with step_of.hold(index + 1 < len(parts)), self._team.counting(share > 0):
                value = step_of(part)
                if share * many != 1.0:
                    value = value * (share * many)
                total += self._team.sum([value.item() / many])[0]
                self._demand_finite("loss", total)
                value.backward()  # type: ignore[no-untyped-call]
        clipped = torch.nn.utils.clip_grad_norm_(
            list(self.parameters.values()), self._max_grad_norm
        )
        norm = whole(clipped).item()
        self._demand_finite("gradient norm", norm)
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["pace"]
        self.adamw.step()
        self.losses.append(total)
        return norm

    def _demand_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            self.adamw.zero_grad(set_to_none=True)
            raise RunError(
                f"step {len(self.losses) + 1}: the {name} is {value}; nothing of this step was "
                "kept; lower the learning rate, lengthen the warm-up or look at its examples"
            )

    def store(self, path: Path) -> None:
        """Replace the checkpoint at `path`: one safetensors file."""
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for rank, states in enumerate(self._team.gather(self._generators())):
            tensors |= {_stream_name(rank, device): state for device, state in states.items()}
        for name, parameter in self.parameters.items():
            tensors[f"parameter/{name}"] = whole(parameter.detach())
            for key, value in self.adamw.state.get(parameter, {}).items():
                tensors[f"adamw/{key}/{name}"] = whole(value)
        if self._team.leader:
            own = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
            atomic.write_bytes(path, save(own, metadata={"fit": self._fingerprint}))

    def _generators(self) -> dict[str, torch.Tensor]:
        """The states of this process's random generators by device."""
        states = {"cpu": torch.get_rng_state()}
        for device in self.cuda_devices:
            states[f"cuda:{device}"] = torch.cuda.get_rng_state(device)
        return states

    def restore(self, path: Path, seed: int) -> None:
        """Continue from the checkpoint at `path`, if there is one."""
        if not self._team.broadcast(path.exists()):
            return
        try:
            data = path.read_bytes()
            tensors = load(data)
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        except (SafetensorError, ValueError, KeyError) as fault:
            raise RunError(f"{path}: the checkpoint is damaged; delete it to start over") from fault
        shapes = {name: p.shape for name, p in self.parameters.items()}
        stored = {
            name.removeprefix("parameter/"): tensor.shape
            for name, tensor in tensors.items()
            if name.startswith("parameter/")
        }
        if metadata.get("fit") != self._fingerprint or stored != shapes:
            raise RunError(
                f"{path}: the checkpoint belongs to another fit (other settings, seed, examples "
                "or parameters); delete it to start over"
            )
        if lacking := self._lacking(tensors):
            raise RunError(f"{path}: the checkpoint has no {lacking}; delete it to start over")
        self._take(tensors)
        torch.manual_seed(_stream(seed, self._team.rank, len(self.losses)))  # if none was stored
        for device, stream in self._generators().items():
            stored_stream = tensors.get(_stream_name(self._team.rank, device), stream)
            if device == "cpu":
                torch.set_rng_state(stored_stream)
            else:
                torch.cuda.set_rng_state(stored_stream, device)

    def _lacking(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """The first part of a whole checkpoint that is missing or of another shape, else empty."""
        losses = tensors.get("losses")
        if losses is None or losses.ndim != 1 or losses.dtype != torch.float64:
            return "list of losses"
        for name, parameter in self.parameters.items():
            stored = {key: tensors.get(f"adamw/{key}/{name}") for key in _MOMENTS}
            if all(one is None for one in stored.values()):
                continue  # it never had a gradient
            for key, one in stored.items():
                shape = () if key == "step" else tuple(parameter.shape)
                if one is None or tuple(one.shape) != shape:
                    return f"adamw/{key}/{name} of shape {shape}"
        for device, stream in self._generators().items():
            place = _stream_name(self._team.rank, device)
            told = tensors.get(place, stream)
            if (told.shape, told.dtype) != (stream.shape, stream.dtype):
                return place
        return ""

    def _take(self, tensors: dict[str, torch.Tensor]) -> None:
        self.losses = tensors["losses"].tolist()
        for name, parameter in self.parameters.items():
            fill(parameter, tensors[f"parameter/{name}"])
            moments = {
                key: tensors[f"adamw/{key}/{name}"]
                for key in _MOMENTS
                if f"adamw/{key}/{name}" in tensors
            }
            if moments:  # a parameter that never had a gradient has none
                self.adamw.state[parameter] = {
                    key: value if key == "step" else like(parameter, value)
                    for key, value in moments.items()
                }


def _stream_name(rank: int, device: str) -> str:
    return f"rng/{device}" if rank == 0 else f"rng/{rank}/{device}"
