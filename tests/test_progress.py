from __future__ import annotations

import io

import pytest

from groundling.progress import Progress, tell


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_five_seconds_and_a_last_one() -> None:
    log, clock = io.StringIO(), Clock()
    with Progress("sft", 60, "steps", stream=log, clock=clock) as progress:
        for _ in range(60):
            clock.now_s += 0.125
            progress.advance(note="loss 0.41")
    first, last = log.getvalue().splitlines()
    assert first == "sft 40/60 steps, 8 steps/s, 2 s left, loss 0.41"
    assert last == "sft 60/60 steps, 8 steps/s, 8 s, loss 0.41"


def test_a_terminal_gets_one_line_that_changes() -> None:
    terminal, clock = Terminal(), Clock()
    with Progress("ground", 2, "queries", stream=terminal, clock=clock) as progress:
        for note in ("a long note", "b"):
            clock.now_s += 3600
            progress.advance(note=note)
    shown = terminal.getvalue()
    assert shown.startswith("\rground 1/2 queries, ")
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert "1 h 00 min left" in shown


def test_resumed_work_does_not_count_towards_the_rate() -> None:
    log, clock = io.StringIO(), Clock()
    progress = Progress("sft", unit="steps", stream=log, clock=clock)
    clock.now_s += 10
    progress.at(91, 100)
    assert log.getvalue() == "sft 91/100 steps, 0.1 steps/s, 1 min 30 s left\n"


@pytest.mark.parametrize(
    ("total", "seconds", "line"),
    [
        (1, 1e-5, "world 1/1 posts"),
        (829, 0.01, "world 829/829 posts, 82,900 posts/s, 0 s"),
        (10**9, 1.0, "world 1000000000/1000000000 posts, 1,000,000,000 posts/s, 1 s"),
        (3, 0.5, "world 3/3 posts, 6 posts/s, 0 s"),
        (3, 3e6, "world 3/3 posts, 277 h 46 min each, 833 h 20 min"),
    ],
)
def test_field_r10_rates_are_plain_numbers(total: int, seconds: float, line: str) -> None:
    log, clock = io.StringIO(), Clock()
    with Progress("world", total, "posts", stream=log, clock=clock) as progress:
        clock.now_s += seconds
        progress.advance(total)
    assert log.getvalue() == line + "\n"


def test_field_r10_a_single_step_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell("drawing the embedded world")
    tell("not this", quiet=True)
    assert capsys.readouterr().err == "drawing the embedded world\n"


def test_quiet_and_idle_say_nothing() -> None:
    log, clock = io.StringIO(), Clock()
    with Progress("sft", 3, stream=log, clock=clock, quiet=True) as progress:
        clock.now_s += 60
        progress.advance(3)
    with Progress("sft", 3, stream=log, clock=clock) as progress:
        progress.skip(3)
    assert log.getvalue() == ""
