from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from groundling.config import Optimiser
from groundling.errors import RunError
from groundling.team import Team
from groundling.train import Checkpoint, StepReport, _parts, epoch_batches, fit, learning_rate

OPTIMISER = Optimiser(lr=0.05, batch_size=4, epochs=3, warmup=0.2, weight_decay=0.01)
EXAMPLES = list(range(10))  # 3 batches an epoch, the last one short: 9 steps


class Net:
    """Two layers with dropout, a frozen weight and one that never gets a gradient."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Parameter(torch.randn(3, 8, generator=generator))
        self.second = torch.nn.Parameter(torch.randn(8, 1, generator=generator))
        self.idle = torch.nn.Parameter(torch.ones(2))
        self.seen: list[list[int]] = []

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return {"first": self.first, "second": self.second, "idle": self.idle}

    def loss(self, batch: Sequence[int]) -> torch.Tensor:
        self.seen.append(list(batch))
        x = torch.tensor([[i / 10, (i % 3) / 3, 1.0] for i in batch])
        hidden = torch.nn.functional.dropout(torch.tanh(x @ self.first), 0.3)
        wanted = torch.tensor([[float(i % 2)] for i in batch])
        return torch.nn.functional.mse_loss(hidden @ self.second, wanted)


class InterruptionError(Exception):
    pass


def interrupt_at(step: int):  # type: ignore[no-untyped-def]
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise InterruptionError

    return on_step


def final_state(path: Path) -> dict[str, torch.Tensor]:
    """The checkpoint of the last step: parameters, AdamW's state, losses, generator."""
    return load_file(path)


def trained(path: Path, net: Net, **options: object):  # type: ignore[no-untyped-def]
    checkpoint = Checkpoint(path, every_steps=1)
    return fit(net, net.loss, EXAMPLES, OPTIMISER, seed=5, checkpoint=checkpoint, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, 9])
@pytest.mark.parametrize("bucketed", [False, True])
def test_a_resumed_fit_ends_bit_for_bit_like_an_undisturbed_one(
    tmp_path: Path, step: int, bucketed: bool
) -> None:
    options = {"length": lambda i: i % 4} if bucketed else {}
    calm = Net()
    calm_summary = trained(tmp_path / "calm", calm, **options)

    with pytest.raises(InterruptionError):
        trained(tmp_path / "resumed", Net(), on_step=interrupt_at(step), **options)
    torch.rand(7)  # the world's generator moved on meanwhile
    net = Net()
    summary = trained(tmp_path / "resumed", net, **options)

    assert summary == calm_summary
    assert net.seen == calm.seen[step:]
    for name, parameter in calm.trainable().items():
        assert torch.equal(net.trainable()[name], parameter), name
    calm_state, state = final_state(tmp_path / "calm"), final_state(tmp_path / "resumed")
    assert state.keys() == calm_state.keys()
    for name, tensor in calm_state.items():
        assert torch.equal(state[name], tensor), name
    assert "adamw/exp_avg_sq/first" in state
    assert "adamw/exp_avg/idle" not in state


def test_a_checkpoint_between_steps_repeats_only_what_came_after(tmp_path: Path) -> None:
    calm, net = Net(), Net()
    fit(calm, calm.loss, EXAMPLES, OPTIMISER, seed=5)
    checkpoint = Checkpoint(tmp_path / "c", every_steps=4)
    first = Net()
    with pytest.raises(InterruptionError):
        fit(
            first,
            first.loss,
            EXAMPLES,
            OPTIMISER,
            seed=5,
            checkpoint=checkpoint,
            on_step=interrupt_at(6),
        )
    fit(net, net.loss, EXAMPLES, OPTIMISER, seed=5, checkpoint=checkpoint)
    assert net.seen == calm.seen[4:]
    assert torch.equal(net.first, calm.first)


def test_checkpoints_come_by_the_clock(tmp_path: Path) -> None:
    net = Net()
    fit(net, net.loss, EXAMPLES, OPTIMISER, seed=5, checkpoint=tmp_path / "slow")
    assert not (tmp_path / "slow").exists()  # 20 seconds never passed
    fit(net, net.loss, EXAMPLES, OPTIMISER, seed=5, checkpoint=Checkpoint(tmp_path / "c", 0.0))
    assert len(final_state(tmp_path / "c")["losses"]) == 9


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("losses", None),
        ("losses", torch.zeros(2, 2, dtype=torch.float64)),
        ("adamw/step/first", None),
        ("adamw/exp_avg/first", None),
        ("adamw/exp_avg_sq/first", torch.zeros(7)),
        ("rng/cpu", torch.zeros(3, dtype=torch.uint8)),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_told_in_one_line(
    name: str, other: torch.Tensor | None, tmp_path: Path
) -> None:
    trained(tmp_path / "c", Net())
    with safe_open(tmp_path / "c", "pt") as stored:
        told = stored.metadata()
    tensors = load_file(tmp_path / "c")
    assert tensors.pop(name) is not None
    if other is not None:
        tensors[name] = other
    save_file(tensors, tmp_path / "c", metadata=told)
    with pytest.raises(RunError, match=r"the checkpoint has no .*delete it to start over"):
        trained(tmp_path / "c", Net())


def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from test_train import Net, trained\n"
        "real, left = os.fsync, [int(sys.argv[2])]\n"
        "def fsync(descriptor):\n"
        "    left[0] -= 1\n"
        "    if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = fsync\n"
        "trained(Path(sys.argv[1]), Net())\n"
    )
    calm, net = Net(), Net()
    trained(tmp_path / "calm", calm)
    path = tmp_path / "killed"
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "9"],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == -signal.SIGKILL
    trained(path, net)
    assert net.seen == calm.seen[4:]  # the fifth checkpoint was not yet in place
    assert torch.equal(net.first, calm.first)
    assert torch.equal(net.second, calm.second)


def test_the_loss_goes_down_and_every_step_is_reported() -> None:
    reports: list[StepReport] = []
    net = Net()
    optimiser = Optimiser(lr=0.02, batch_size=10, epochs=60, schedule="constant")
    summary = fit(net, net.loss, EXAMPLES, optimiser, seed=1, on_step=reports.append)
    assert summary.steps == len(summary.losses) == len(reports) == 60
    assert sum(summary.losses[-10:]) < 0.5 * sum(summary.losses[:10])
    assert [r.step for r in reports] == list(range(1, 61))
    assert all(r.loss == loss for r, loss in zip(reports, summary.losses, strict=True))
    assert torch.equal(net.idle, torch.ones(2))


def test_what_ran_before_does_not_matter_and_is_not_disturbed() -> None:
    nets = [Net(), Net()]
    states = []
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        fit(net, net.loss, EXAMPLES, OPTIMISER, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(net.first)
    assert torch.equal(*states)


def test_another_seed_is_another_fit() -> None:
    one, two = Net(), Net()
    fit(one, one.loss, EXAMPLES, OPTIMISER, seed=1)
    fit(two, two.loss, EXAMPLES, OPTIMISER, seed=2)
    assert one.seen != two.seen


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    net = Net()

    def loss(batch: Sequence[int]) -> torch.Tensor:
        return net.loss(batch) * (float("nan") if 7 in batch else 1.0)

    with pytest.raises(RunError, match=r"step \d: the loss is nan; .* lower the learning rate"):
        fit(net, loss, EXAMPLES, OPTIMISER, seed=5, checkpoint=Checkpoint(tmp_path / "c", 0.0))
    assert all(torch.isfinite(p).all() for p in net.trainable().values())
    if (tmp_path / "c").exists():
        assert torch.isfinite(final_state(tmp_path / "c")["losses"]).all()


def test_a_gradient_that_is_not_finite_stops_before_the_update() -> None:
    net = Net()

    def loss(batch: Sequence[int]) -> torch.Tensor:
        return torch.sqrt((net.loss(batch) * 0).abs())  # 0, with an infinite slope

    with pytest.raises(RunError, match="step 1: the gradient norm is nan"):
        fit(net, loss, EXAMPLES, OPTIMISER, seed=5)
    assert torch.equal(net.first, Net().first)


def test_checkpoints_of_another_fit_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    trained(path, Net())
    net = Net()
    with pytest.raises(RunError, match="another fit"):
        fit(net, net.loss, EXAMPLES, OPTIMISER, seed=6, checkpoint=path)
    with pytest.raises(RunError, match="another fit"):
        fit(net, net.loss, EXAMPLES[1:], OPTIMISER, seed=5, checkpoint=path)
    net.second = torch.nn.Parameter(torch.ones(8, 2))
    with pytest.raises(RunError, match="another fit"):
        trained(path, net)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match="damaged; delete it"):
        trained(path, Net())


def test_no_examples_no_steps() -> None:
    net = Net()
    assert fit(net, net.loss, [], OPTIMISER, seed=0).steps == 0
    assert torch.equal(net.first, Net().first)


def test_the_checkpoint_is_one_safetensors_file(tmp_path: Path) -> None:
    trained(tmp_path / "c", Net())
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert {name.split("/")[0] for name in final_state(tmp_path / "c")} == {
        "adamw",
        "losses",
        "parameter",
        "rng",
    }


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 1, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_team_does_each_example_of_a_batch_once(
    size: int, micro_batch: int | None, count: int
) -> None:
    batch = list(range(1, count + 1))
    teams = []
    for rank in range(size):
        member = Team()
        member.size, member.rank = size, rank
        teams.append(_parts(batch, micro_batch, float, member))
    assert len({len(parts) for parts in teams}) == 1, "as many steps for everybody"
    shares = [(part, share) for parts in teams for part, share in parts]
    assert all(part for part, _ in shares)
    worked = [example for part, share in shares if share for example in part]
    assert sorted(worked) == batch
    assert sum(share for _, share in shares) == pytest.approx(1.0)
    for part, share in shares:
        assert share in (0.0, pytest.approx(sum(part) / sum(batch)))


# ---------------------------------------------------------------- schedule and batches


def rates(steps: int, **options: object) -> list[float]:
    optimiser = Optimiser(lr=1.0, batch_size=1, epochs=1, **options)  # type: ignore[arg-type]
    return [learning_rate(step, steps, optimiser) for step in range(steps)]


def test_schedules_by_hand() -> None:
    assert rates(4, schedule="constant") == [1, 1, 1, 1]
    assert rates(4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert rates(4, schedule="cosine") == pytest.approx([1, 0.8535534, 0.5, 0.1464466])
    assert rates(8, schedule="linear", warmup=0.25) == pytest.approx(
        [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )
    assert rates(3, warmup=1.0) == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_rate_is_never_zero_and_never_above_the_peak(schedule: str, steps: int) -> None:
    assert all(0 < rate <= 1 for rate in rates(steps, schedule=schedule, warmup=0.03))


@pytest.mark.parametrize("count", [0, 1, 4, 9, 300])
def test_an_epoch_holds_each_example_once(count: int) -> None:
    for lengths in (None, [i * 7 % 31 for i in range(count)]):
        batches = epoch_batches(count, 4, seed=1, epoch=0, lengths=lengths)
        assert sorted(i for batch in batches for i in batch) == list(range(count))
        assert len(batches) == -(-count // 4)
        assert all(len(batch) <= 4 for batch in batches)


def test_orders_are_reproducible_and_differ_by_epoch_and_seed() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return epoch_batches(100, 4, seed, epoch)

    assert order(1, 0) == order(1, 0)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_buckets_waste_less_padding_and_are_shuffled() -> None:
    lengths = [i * 37 % 64 for i in range(512)]

    def padding(batches: list[list[int]]) -> int:
        return sum(
            max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch)
            for batch in batches
        )

    plain, bucketed = epoch_batches(512, 8, 0, 0), epoch_batches(512, 8, 0, 0, lengths)
    assert padding(bucketed) < 0.2 * padding(plain)
    tops = [max(lengths[i] for i in batch) for batch in bucketed]
    assert tops != sorted(tops)


def test_a_parameter_may_learn_at_a_pace_of_its_own(tmp_path: Path) -> None:
    """The first step of AdamW moves each weight by its rate, whatever the gradient."""
    optimiser = Optimiser(lr=1e-4, batch_size=10, epochs=1)
    start, net = Net(), Net()

    def pace(name: str) -> float:
        return {"second": 50.0}.get(name, 1.0)

    def run(made: Net, **options: object) -> None:
        checkpoint = Checkpoint(tmp_path / "c", every_steps=1)
        fit(made, made.loss, EXAMPLES, optimiser, seed=5, checkpoint=checkpoint, **options)  # type: ignore[arg-type]

    run(net, pace=pace)
    slow, fast = net.first - start.first, net.second - start.second
    torch.testing.assert_close(slow.abs(), torch.full_like(slow, 1e-4), rtol=1e-2, atol=0)
    torch.testing.assert_close(fast.abs(), torch.full_like(fast, 5e-3), rtol=1e-2, atol=0)
    with pytest.raises(RunError, match="another fit"):
        run(Net())


def test_paces_survive_a_stop(tmp_path: Path) -> None:
    def pace(name: str) -> float:
        return 10.0 if name == "second" else 1.0

    calm, net = Net(), Net()
    trained(tmp_path / "calm", calm, pace=pace)
    with pytest.raises(InterruptionError):
        trained(tmp_path / "c", Net(), pace=pace, on_step=interrupt_at(4))
    trained(tmp_path / "c", net, pace=pace)
    assert torch.equal(net.first, calm.first)
    assert torch.equal(net.second, calm.second)


def test_a_fit_can_be_ended_between_epochs(tmp_path: Path) -> None:
    seen: list[int] = []

    def enough(epoch: int) -> bool:
        seen.append(epoch)
        torch.rand(3)  # whatever it draws must not reach the training
        return epoch == 2

    whole, ended = Net(), Net()
    losses = trained(tmp_path / "whole", whole, after_epoch=lambda _: False).losses
    cut = trained(tmp_path / "ended", ended, after_epoch=enough)
    assert seen == [1, 2]
    assert cut.losses == losses[:6]
    assert ended.seen == whole.seen[:6]


@pytest.mark.parametrize(("step", "told"), [(2, [1, 2]), (3, [1, 2]), (4, [2]), (6, [2])])
def test_the_end_of_an_epoch_is_told_again_after_a_stop_at_it(
    tmp_path: Path, step: int, told: list[int]
) -> None:
    with pytest.raises(InterruptionError):
        trained(tmp_path / "fit", Net(), on_step=interrupt_at(step))
    seen: list[int] = []

    def enough(epoch: int) -> bool:
        seen.append(epoch)
        return epoch == 2

    assert len(trained(tmp_path / "fit", Net(), after_epoch=enough).losses) == 6
    assert seen == told


def test_the_last_epoch_is_told_too(tmp_path: Path) -> None:
    seen: list[int] = []
    trained(tmp_path / "fit", Net(), after_epoch=lambda epoch: bool(seen.append(epoch)))
    assert seen == [1, 2, 3]
