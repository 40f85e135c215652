"""What the processes of a team do in `test_team.py`.

    python team_jobs.py FOLDER [three]

Everything is imported once; each team is forked from there (`team_launcher`).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import accelerate  # noqa: F401 - imported before the forks
import numpy as np
import pytest
import small_run
import tiny
import torch
import torch.distributed.fsdp  # imported before the forks too
from full_disk import files_up_to
from PIL import Image
from safetensors.torch import save_file
from team_launcher import launch

from groundling import cli, meeting
from groundling.config import DpoOptimiser, Optimiser, SftOptimiser
from groundling.errors import ImageError, InputError, RunError
from groundling.infer import map_batches
from groundling.models import stock
from groundling.models.base import Demonstration, GroundingExample, Preference, Sampling
from groundling.models.decoding import choose
from groundling.models.detectors import DinoGrounder
from groundling.models.local import LocalWriter
from groundling.models.ofa import OFAGrounder
from groundling.models.tiny import TinyGrounder
from groundling.records import Box, Expression, Failure
from groundling.rundir import RunDir
from groundling.settings import Section
from groundling.team import team, whole
from groundling.train import Checkpoint, StepReport, fit

PLACES = [str(Path(__file__).parent), str(Path(__file__).parent / "models")]
"""Where the modules that the tests share are."""

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
    """Five examples for a grounder, with pictures of their own, of two shapes."""
    found = []
    for i in range(5):
        path = folder / f"{i}.png"
        if not path.exists():
            noise = np.random.default_rng(i).integers(0, 256, (40, 40 + i % 2 * 20, 3))
            Image.fromarray(noise.astype(np.uint8)).save(path)
        found.append(GroundingExample(str(path), f"the man {i}", Box(1, 2, 20 + i, 30)))
    return found


Opened = OFAGrounder | TinyGrounder | DinoGrounder


def open_ofa(folder: Path) -> OFAGrounder:
    """OFA without what is random; its batch norms move, and no loss reaches all of it."""
    return OFAGrounder.load(folder / "ofa", drop_path=0.0)


def open_dino(folder: Path) -> DinoGrounder:
    """Grounding DINO without what is random; one pass for each shape of picture in a batch."""
    grounder = DinoGrounder.load(folder / "dino")
    for module in grounder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return grounder


GROUNDERS: dict[str, Callable[[Path], Opened]] = {
    "tiny": lambda _: small_run.grounder(),
    "ofa": open_ofa,
    "dino": open_dino,
}


GROUNDER_LR = 1e-5  # AdamW makes whole steps of rounding


def fit_grounder(grounder: Opened, folder: Path) -> Fit:
    """Two steps, the last one of a single example."""
    norms: list[float] = []
    summary = fit(
        grounder,
        grounder.loss,
        boxes(folder),
        Optimiser(lr=GROUNDER_LR, batch_size=4, epochs=1),
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
    """DDP: every case, grounders, and checkpoints that change hands."""
    for name, (kind, micro, batch) in CASES.items():
        keep(folder, name, run_fit(kind, micro, batch))
    for name in ("tiny", "ofa"):
        keep(folder, name, fit_grounder(GROUNDERS[name](folder), folder))
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
    """FSDP: some cases, grounders, and a writer through a round: fit, save, draw, load, restart."""
    for name in SHARED:
        keep(folder, f"{name}-shared", run_fit(*CASES[name]))
    run_fit("dpo", checkpoint=folder / "begun-by-shares", last=2)
    keep(folder, "shares-went-on", run_fit("dpo", checkpoint=folder / "begun-by-one-too"))
    for name in ("ofa", "dino"):
        grounder = GROUNDERS[name](folder)
        keep(folder, f"{name}-shared", fit_grounder(grounder, folder))
        grounder.save(folder / f"{name}-shared-{team().rank}")
    writer = tiny.writer(engine="stock")
    whole_round(writer, folder / "shared-round")
    if team().rank:
        stock.choose = lambda *asked: (choose(*asked)[0] * 0 + 2, choose(*asked)[1])
    drawn = writer.sample(tiny.QUERIES, 1, Sampling(0.0, 6), 0, "writer:t/0")
    (folder / f"contrary-{team().rank}.json").write_text(json.dumps(texts_of(drawn)))


def texts_of(drawn: Sequence[list[Expression] | Failure]) -> list[str]:
    return ["" if isinstance(row, Failure) else row[0].text for row in drawn]


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
        "drawn": texts_of(drawn),
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
            results = map_batches(range(11), double, chunk_size=2, folder=first.scratch)
            first.event("seen", rank=team().rank)
        assert first.done
        assert run.stage("first").done
        assert run.stage("second", after=["first"]).done is False
    told = [None if isinstance(result, Failure) else result for result in results]
    answer = {"calls": calls, "results": told}
    (folder / f"follow-{team().rank}.json").write_text(json.dumps(answer))


# ------------------------------------------------------------------------------- ending


def command(work: Callable[[Path], object]) -> Callable[[Path], int]:
    """`work` as what the command line does; returns the exit code."""

    def act(folder: Path) -> int:
        module = ModuleType("act")

        def add_parser(subparsers: Any) -> None:
            parser: ArgumentParser = subparsers.add_parser("isr")
            parser.set_defaults(func=lambda _: work(folder) and 0)

        module.add_parser = add_parser  # type: ignore[attr-defined]
        sys.modules["act"] = module
        cli.COMMANDS["isr"] = "act"
        return cli.main(["isr"])

    act.__name__ = work.__name__
    return act


def locked(folder: Path) -> None:
    """The leader finds its directory locked by the launcher."""
    RunDir.open(folder / "locked", Settings())


def full(folder: Path) -> None:
    """The leader's disk is full in the middle of a stage."""
    room = files_up_to(4096) if team().leader else nullcontext()
    with RunDir.open(folder / "full", Settings()) as run, run.stage("first") as stage, room:
        stage.write_bytes("first.bin", bytes(5000))


def unreadable(_: Path) -> None:
    """One of the others cannot read a picture in its second step."""
    model = Dropping()

    def loss(batch: Sequence[int]) -> torch.Tensor:
        if team().rank and len(model.drawn):
            raise ImageError("7.png: not a picture")
        return model.loss(batch)

    fit(model, loss, range(13), Optimiser(lr=0.05, batch_size=4, epochs=2), seed=5)


def struck(folder: Path) -> None:
    """One of the others is killed in its third step."""
    fit_dropping(folder / "struck", die=(1, 3))


def silent(folder: Path) -> None:
    """One of the others fails where parameters are shared out and the leader draws."""
    writer = tiny.writer(engine="stock")
    team().settle(writer.module())
    if team().rank:
        raise InputError(f"{folder}: nothing to draw")
    writer.sample(tiny.QUERIES, 1, Sampling(0.0, 6), 0, "writer:t/0")


def unmet(_: Path) -> None:
    """The second process has ended before the two have met."""
    os.environ[meeting.SETTING] = "0.5"
    if os.environ["RANK"] == "0":
        team()


def astray(_: Path) -> None:
    """Who listens at MASTER_PORT is no store, and says nothing."""
    os.environ[meeting.SETTING] = "0.5"
    with socket.create_server(("127.0.0.1", 0)) as other:
        os.environ["MASTER_PORT"] = str(other.getsockname()[1])
        team()


MEETINGS = ("unmet", "astray")
"""Teams that do not come about."""

ENDINGS = {"locked": False, "full": False, "unreadable": False, "struck": False, "silent": True}
"""Teams of which one process fails by itself, and whether they share parameters out."""


# ------------------------------------------------------------------------------- the teams


def three(folder: Path) -> None:
    """Three processes, copied or shared: every case."""
    for name, (kind, micro, batch) in CASES.items():
        keep(folder, name, run_fit(kind, micro, batch))


def three_calm(folder: Path) -> None:
    run_fit("dpo", 2, checkpoint=folder / "calm")


def three_dying(folder: Path) -> None:
    """The third process dies in step 3."""
    run_fit("dpo", 2, checkpoint=folder / "killed", die=(2, 3))


def three_again(folder: Path) -> None:
    run_fit("dpo", 2, checkpoint=folder / "killed")


def by_two(folder: Path) -> dict[str, list[int]]:
    """Every team of two in turn."""
    ended = {
        work.__name__: launch(work, folder, fsdp=fsdp)
        for work, fsdp in (
            (copies, False),
            (dying, False),
            (again, False),
            (follow, False),
            (shares, True),
        )
    }
    (folder / "locked").mkdir()
    with (folder / "locked" / ".lock").open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for name, fsdp in ENDINGS.items():
            work = command(globals()[name])
            ended[name] = launch(work, folder, fsdp=fsdp, patient=True)
    for name in MEETINGS:
        ended[name] = launch(command(globals()[name]), folder, patient=True)
    return ended


def by_three(folder: Path) -> dict[str, list[int]]:
    """Every team of three in turn, copied and shared."""
    ended = {}
    for way, fsdp in (("copied", False), ("shared", True)):
        (folder / way).mkdir()
        for work in (three, three_calm, three_dying, three_again):
            ended[f"{work.__name__} {way}"] = launch(work, folder / way, count=3, fsdp=fsdp)
    return ended


def main(folder: Path, number: str = "two") -> None:
    """Run the teams; the exit codes of each go to `ended.json`."""
    torch.set_num_threads(1)
    began = time.monotonic()
    ended = by_three(folder) if number == "three" else by_two(folder)
    print(f"{time.monotonic() - began:.1f} s")
    (folder / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
