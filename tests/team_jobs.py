"""What the processes of a team do in `test_team.py`, and a launcher as small as torchrun can be.

    python team_jobs.py FOLDER

The launcher imports everything once and forks each team from there. As torchrun does, it hosts the
store that the processes meet at, and ends a team as soon as one of its processes fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - imported before the forks
import pytest
import small_run
import tiny
import torch
import torch.distributed.fsdp  # imported before the forks too
from PIL import Image
from safetensors.torch import save_file
from torch.distributed import TCPStore

from groundling.config import DpoOptimiser, Optimiser, SftOptimiser
from groundling.errors import RunError
from groundling.infer import map_batches
from groundling.models.base import Demonstration, GroundingExample, Preference, Sampling
from groundling.models.local import LocalWriter
from groundling.models.ofa import OFAGrounder
from groundling.models.tiny import TinyGrounder
from groundling.records import Box, Failure
from groundling.rundir import RunDir
from groundling.settings import Section
from groundling.team import team, whole
from groundling.train import Checkpoint, StepReport, fit

PLACES = [str(Path(__file__).parent), str(Path(__file__).parent / "models")]
"""Where the modules that the tests share are."""

DEADLINE_S = 60.0
"""Longest life of one team; a hang is a failure."""

WORDS = ("the man on the left", "a woman", "the man with red hair", "x", "NASA", "the right")
SFT = [Demonstration(q, w) for q, w in zip(tiny.QUERIES, WORDS, strict=True)]
SFT += [Demonstration(q, w) for q, w in zip(tiny.QUERIES[:3], WORDS[3:], strict=True)]
DPO = [
    Preference(q, w, "something else", -20.0 - i, -25.0 + i)
    for i, (q, w) in enumerate(zip(tiny.QUERIES, WORDS, strict=True))
]

Fit = tuple[dict[str, torch.Tensor], list[float], list[float]]
"""Final parameters, losses and gradient norms."""


def run_fit(
    kind: str,
    micro_batch: int | None = None,
    batch_size: int = 4,
    checkpoint: Path | None = None,
    last: int | None = None,
    die: tuple[int, int] | None = None,
    writer: LocalWriter | None = None,
) -> Fit:
    """Fine-tune or prefer: batches of 4 of 9 or 6 examples, so the last one is short.

    Stop after step `last`; `die` names the process and the step at which it kills itself.
    """
    writer = writer or tiny.writer(engine="stock")
    norms: list[float] = []

    def on_step(report: StepReport) -> None:
        norms.append(report.grad_norm)
        if die == (team().rank, report.step):
            os.kill(os.getpid(), signal.SIGKILL)
        if report.step == last:
            raise RunError("stopped by the test")

    stored = None if checkpoint is None else Checkpoint(checkpoint, every_steps=1)
    settings = {"lr": 3e-3, "batch_size": batch_size, "epochs": 2, "micro_batch": micro_batch}
    rest: dict[str, Any] = {"seed": 3, "checkpoint": stored, "on_step": on_step}
    losses: list[float] = []
    with suppress(RunError):
        if kind == "sft":
            rest["weight"] = lambda example: writer.answer_tokens(example.expression)
            summary = fit(writer, writer.sft_loss, SFT, SftOptimiser(**settings), **rest)
        else:
            optimiser = DpoOptimiser(**settings)
            summary = fit(writer, lambda part: writer.dpo_loss(part, 0.1), DPO, optimiser, **rest)
        losses = list(summary.losses)
    found = {name: whole(p.detach()).clone() for name, p in writer.trainable().items()}
    return found, losses, norms


class Dropping:
    """A small network with dropout and a weight that only some examples use."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = torch.nn.ModuleDict(
                {"first": torch.nn.Linear(3, 8), "odd": torch.nn.Linear(8, 1, bias=False)}
            )
        self.drawn: list[float] = []

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.net.named_parameters())

    def module(self) -> torch.nn.Module:
        return self.net

    def loss(self, batch: Sequence[int]) -> torch.Tensor:
        x = torch.tensor([[i / 10, (i % 3) / 3, 1.0] for i in batch])
        hidden = torch.nn.functional.dropout(torch.tanh(self.net["first"](x)), 0.3)
        self.drawn.append(float(hidden.detach().sum()))
        if not any(i % 2 for i in batch):
            return hidden.square().mean()
        return (self.net["odd"](hidden) - 1).square().mean()


def fit_dropping(checkpoint: Path, die: tuple[int, int] | None = None) -> Dropping:
    """Eight steps with a checkpoint after each."""
    model = Dropping()

    def on_step(report: StepReport) -> None:
        if die == (team().rank, report.step):
            os.kill(os.getpid(), signal.SIGKILL)

    optimiser = Optimiser(lr=0.05, batch_size=4, epochs=2)
    stored = Checkpoint(checkpoint, every_steps=1)
    fit(model, model.loss, range(13), optimiser, seed=5, checkpoint=stored, on_step=on_step)
    return model


def boxes(folder: Path) -> list[GroundingExample]:
    """Five examples for a grounder, with pictures of their own."""
    found = []
    for i in range(5):
        path = folder / f"{i}.png"
        if not path.exists():
            Image.new("RGB", (40, 40), (40 * i, 99, 3)).save(path)
        found.append(GroundingExample(str(path), f"the man {i}", Box(1, 2, 20 + i, 30)))
    return found


def open_ofa(folder: Path) -> OFAGrounder:
    """OFA without what is random and without batch statistics; no loss reaches all of it."""
    return OFAGrounder.load(folder / "ofa", drop_path=0.0, freeze_batch_norm=True)


def fit_grounder(grounder: OFAGrounder | TinyGrounder, folder: Path) -> Fit:
    """Three steps, the last one of a single example."""
    norms: list[float] = []
    summary = fit(
        grounder,
        grounder.loss,
        boxes(folder),
        Optimiser(lr=1e-3, batch_size=2, epochs=1),
        seed=0,
        on_step=lambda report: norms.append(report.grad_norm),
    )
    found = {name: whole(p.detach()).clone() for name, p in grounder.trainable().items()}
    return found, list(summary.losses), norms


def keep(folder: Path, name: str, found: Fit) -> None:
    """Store a fit for the tests: this process's view of it."""
    parameters, losses, norms = found
    save_file(
        {
            **parameters,
            "losses": torch.tensor(losses, dtype=torch.float64),
            "norms": torch.tensor(norms, dtype=torch.float64),
        },
        folder / f"{name}-{team().rank}.safetensors",
    )


CASES = {
    "sft": ("sft", None, 4),
    "sft-micro": ("sft", 3, 4),
    "dpo": ("dpo", None, 4),
    "dpo-micro": ("dpo", 3, 4),
    "lonely": ("sft", None, 1),
}
"""Fits by name: what, micro batch, batch. A part of 3 leaves one example for a part of its own."""

SHARED = ("dpo-micro", "lonely")
"""Those that are done with shared parameters too; `whole_round` does a third."""


def copies(folder: Path) -> None:
    """DDP: every case, a grounder, and checkpoints that change hands."""
    for name, (kind, micro, batch) in CASES.items():
        keep(folder, name, run_fit(kind, micro, batch))
    keep(folder, "tiny", fit_grounder(small_run.grounder(), folder))
    keep(folder, "ofa", fit_grounder(open_ofa(folder), folder))
    run_fit("dpo", checkpoint=folder / "begun-by-two", last=2)
    keep(folder, "went-on", run_fit("dpo", checkpoint=folder / "begun-by-one"))
    model = fit_dropping(folder / f"calm-{team().size}")
    (folder / f"drawn-{team().rank}.json").write_text(json.dumps(model.drawn))


def dying(folder: Path) -> None:
    """The second process dies in step 4; the leader may be anywhere by then."""
    fit_dropping(folder / "killed", die=(1, 4))


def again(folder: Path) -> None:
    fit_dropping(folder / "killed")


def shares(folder: Path) -> None:
    """FSDP: every case, and one writer through a round: fit, save, draw, load, start over."""
    for name in SHARED:
        keep(folder, f"{name}-shared", run_fit(*CASES[name]))
    run_fit("dpo", checkpoint=folder / "begun-by-shares", last=2)
    keep(folder, "shares-went-on", run_fit("dpo", checkpoint=folder / "begun-by-one-too"))
    grounder = open_ofa(folder)
    keep(folder, "ofa-shared", fit_grounder(grounder, folder))
    grounder.save(folder / f"ofa-shared-{team().rank}")
    writer = tiny.writer(engine="stock")
    whole_round(writer, folder / "shared-round")


def whole_round(writer: LocalWriter, folder: Path) -> dict[str, Any]:
    """Two fits of one writer with all that a flow does between; what it drew and scored."""
    texts = ["the man on the left"] * len(tiny.QUERIES)
    run_fit("sft", writer=writer)
    writer.save_adapter(folder / "sft")
    drawn = writer.sample(tiny.QUERIES, 1, Sampling(0.0, 6), 0, "writer:t/0")
    scores = writer.score(tiny.QUERIES, texts)
    writer.load_adapter(folder / "start")
    writer.restart_adapter(7)
    fresh = {name: whole(p.detach()).clone() for name, p in writer.trainable().items()}
    if team().leader:
        save_file(fresh, folder / "fresh.safetensors")
    writer.load_adapter(folder / "sft")
    run_fit("dpo", writer=writer)
    writer.save_adapter(folder / "dpo")
    told = {
        "drawn": ["" if isinstance(row, Failure) else row[0].text for row in drawn],
        "scores": scores,
        "after": writer.score(tiny.QUERIES, texts),
    }
    (folder / f"told-{team().rank}.json").write_text(json.dumps(told))
    return told


class Settings(Section):
    """What a run directory of these tests is made with."""

    seed: int = 0


def follow(folder: Path) -> None:
    """A run directory: stages, files written together, chunks shared out, progress by one."""
    calls: list[int] = []

    def double(index: int, chunk: Sequence[int]) -> list[int | Failure]:
        calls.append(index)
        return [Failure("seven", "test") if i == 7 else 2 * i for i in chunk]

    if team().rank:
        with pytest.raises(RunError, match="another configuration"):
            RunDir.open(folder / "run", Settings(seed=1))
    else:
        RunDir.open(folder / "run", Settings()).close()
    with RunDir.open(folder / "run", Settings()) as run:
        first = run.stage("first")
        assert not first.done
        with first:
            path = first.write_json("first.json", {"by": team().rank})
            assert json.loads(path.read_text()) == {"by": 0}
            with first.write_folder("part") as part:
                (part / "rank").write_text(str(team().rank))
            assert (run.path / "part" / "rank").read_text() == "0"
            own = first.own_scratch()
            (own / "mine").write_text(str(team().rank))
            results = map_batches(range(11), double, chunk_size=2, folder=first.scratch)
            first.event("seen", rank=team().rank)
        assert first.done
        assert run.stage("first").done
        assert run.stage("second", after=["first"]).done is False
    told = [None if isinstance(result, Failure) else result for result in results]
    answer = {"calls": calls, "results": told}
    (folder / f"follow-{team().rank}.json").write_text(json.dumps(answer))


def refused(folder: Path) -> None:
    """The leader fails in a stage; nobody may hang."""
    with RunDir.open(folder / "refused", Settings()) as run, run.stage("first") as stage:
        if team().leader:
            raise RunError("the leader's own trouble")
        stage.write_json("first.json", {})


# ------------------------------------------------------------------------------- the launcher


def launch(work: Callable[[Path], None], folder: Path, count: int = 2, fsdp: bool = False) -> bool:
    """Run `work` in a team of its own; whether all processes ended well."""
    port, host = _store()
    processes = []
    for rank in range(count):
        if (process := os.fork()) == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "GLOO_SOCKET_IFNAME": "lo",
                "ACCELERATE_USE_FSDP": str(fsdp).lower(),
            }
            _child(work, folder)
        processes.append(process)
    try:
        return _wait(processes)
    finally:
        for process in [*processes, host]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(process, 0)


def _store() -> tuple[int, int]:
    """Start the process that hosts the store: its port, free by nature, and its number."""
    reading, writing = os.pipe()
    if (host := os.fork()) == 0:
        store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        os.close(writing)
        signal.pause()
    os.close(writing)
    with os.fdopen(reading) as stream:
        return int(stream.read()), host


def _child(work: Callable[[Path], None], folder: Path) -> None:
    code = 1
    try:
        work(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(processes: list[int]) -> bool:
    """Until all have ended, one has failed or the time is up."""
    waiting = set(processes)
    until = time.monotonic() + DEADLINE_S
    while waiting and time.monotonic() < until:
        for process in sorted(waiting):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                waiting.remove(process)
                if status:
                    return False
        time.sleep(0.01)
    return not waiting


def main(folder: Path) -> None:
    """Every team in turn; how each ended goes to `ended.json`."""
    torch.set_num_threads(1)
    ended = {}
    for work, fsdp in (
        (copies, False),
        (dying, False),
        (again, False),
        (follow, False),
        (refused, False),
        (shares, True),
    ):
        began = time.monotonic()
        ended[work.__name__] = launch(work, folder, fsdp=fsdp)
        print(f"{work.__name__}: {time.monotonic() - began:.1f} s", flush=True)
    (folder / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
