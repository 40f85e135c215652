"""What a busy neighbour costs: `python bench/busy_neighbour.py [--whole] [--neighbours 1]`.

The demo's command runs alone and then beside processes that do nothing but count, in turn and
several times; what is printed is the median time of each and their ratio, all from one run. A fair
scheduler gives the demo at least half of a machine with two cores. By default it is a small part of
the demo: all of its stages, with one round and few queries. `--threads` sets OMP_NUM_THREADS, to
see what several threads would cost.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

RECIPE = Path(__file__).parents[1] / "recipes" / "toy.yaml"
PART = (
    "data.toyworld={train_queries: 1200, validation_queries: 200, test_queries: 200}",
    "sft_queries=400",
    "prompts_per_round=200",
)
"""What makes the demo small."""


def command(out: Path, whole: bool) -> list[str]:
    """The demo, or its part, into the folder `out`."""
    words = [sys.executable, "-m", "groundling", "isr", "--config", str(RECIPE), "--out", str(out)]
    if whole:
        return words
    return [*words, "--rounds", "1", *(word for change in PART for word in ("--set", change))]


def seconds(whole: bool, threads: int | None) -> float:
    """How long one run takes, imports included."""
    environment = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        words = command(Path(folder) / "run", whole)
        began = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(done.stderr)
        return time.perf_counter() - began


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that wants a core all the time."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="the whole demo: minutes each time")
    parser.add_argument("--neighbours", type=int, default=1, help="busy processes")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS; unset without it")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(arguments.repeats):
        for name, count in (("alone", 0), ("beside", arguments.neighbours)):
            with ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(neighbour())
                times[name].append(seconds(arguments.whole, arguments.threads))
    said = "as set by the program" if arguments.threads is None else str(arguments.threads)
    print(f"{os.cpu_count()} cores, threads: {said}, {arguments.neighbours} busy neighbour(s)")
    for name, values in times.items():
        ratio = median(values) / median(times["alone"])
        print(f"{name:8} {median(values):8.1f} s   {ratio:5.2f}×")


if __name__ == "__main__":
    main()
