"""A run directory whose process is killed at every one of its file-system calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLED = """
import io, os, signal, sys
from pathlib import Path
from groundling.config import DataConfig, IsrConfig, ToyworldData
from groundling.infer import map_batches
from groundling.rundir import RunDir

countdown = -1
os.fsync = lambda descriptor: None  # a kill leaves the kernel's memory alone; a disk is slow

def fatal(module, name):
    real = getattr(module, name)
    def call(*args, **options):
        strike()
        result = real(*args, **options)
        strike()
        return result
    setattr(module, name, call)

def strike():
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def begin(path):
    # another run, which stops in its first stage
    config = IsrConfig(data=DataConfig(toyworld=ToyworldData()), rounds=1)
    with RunDir.open(path, config) as run, run.stage("other") as other:
        with other.write_folder("other") as folder:
            (folder / "a.txt").write_text("a")
        other.write_text("data.json", "another's")
        (other.scratch / "half").write_text("h")
        os._exit(0)

def flow(path):
    with RunDir.open(path, IsrConfig(data=DataConfig(toyworld=ToyworldData()))) as run:
        data = run.stage("data")
        if not data.done:
            with data:
                data.write_json("data.json", {"posts": 3})
        sft = run.stage("sft", after=["data"])
        if not sft.done:
            with sft:
                squares = map_batches([1, 2, 3], lambda i, c: [n * n for n in c],
                                      chunk_size=2, folder=sft.scratch)
                with sft.write_folder("writer/round-0") as folder:
                    (folder / "a.txt").write_text(str(squares))
                    (folder / "b.txt").write_text("b")
                sft.write_text("rounds/0/metrics.txt", "m")
        with run.write_folder("figures") as folder:
            (folder / "f.txt").write_text("f")
        run.write_text("metrics.json", "all")

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as fault:
            print(repr(fault), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def die_after(path, count):
    global countdown
    for name in ("fsync", "open", "mkdir", "rmdir", "unlink", "rename", "replace"):
        fatal(os, name)
    fatal(io, "open")
    countdown = count
    flow(path)

def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else b""
            for p in root.rglob("*") if p.name != "events.jsonl"}

base = Path(sys.argv[1])
assert child(lambda: flow(base / "calm")) == 0
calm = tree(base / "calm")
count = 0
while True:
    count += int(sys.argv[2])
    path = base / f"killed-{count}"
    if sys.argv[3] == "taken":
        assert child(lambda: begin(path)) == 0
    status = child(lambda: die_after(path, count))
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (count, status)
    again = child(lambda: die_after(path, count // 2 + 1))  # die once more, at another point
    assert os.WIFSIGNALED(again) or again == 0, (count, again)
    assert child(lambda: flow(path)) == 0, count
    assert tree(path) == calm, (count, sorted(tree(path)), sorted(calm))
print(count)
"""


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_instant_ends_in_the_same_bytes(tmp_path: Path, stride: int) -> None:
    kill_everywhere(tmp_path, stride, "new")


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_field_r1_nor_does_it_matter_when_it_takes_over_what_another_began(
    tmp_path: Path, stride: int
) -> None:
    kill_everywhere(tmp_path, stride, "taken")


def kill_everywhere(tmp_path: Path, stride: int, directory: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(stride), directory],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
