from __future__ import annotations

import pytest

from groundling.outlook import Outlook, time_left

NAMES = ["data", "sft", "evaluate-sft"] + [
    name for t in (1, 2, 3) for name in (f"round-{t}-draw", f"evaluate-round-{t}")
]


def test_field_r9_what_is_left_follows_from_stages_of_the_same_kind() -> None:
    spent = {"data": 1.0, "sft": 50.0, "evaluate-sft": 10.0}
    assert time_left(NAMES, spent) == (30.0, 3)
    spent |= {"round-1-draw": 100.0, "evaluate-round-1": 20.0}
    assert time_left(NAMES, spent) == (2 * 100.0 + 2 * 15.0, 0)


def test_field_r9_each_stage_that_ends_tells_the_overall_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    outlook = Outlook(NAMES, clock=lambda: now[0])
    for name in NAMES[1:]:  # data was there already
        outlook({"stage": name, "kind": "started"})
        now[0] += 60
        outlook({"stage": name, "kind": "finished"})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "overall: 2/9 stages, time left not known yet"
    assert lines[1] == (
        "overall: 3/9 stages, about 3 min 00 s left, and 3 stages of unknown length"
    )
    assert lines[-1] == "overall: 8/9 stages, about 1 min 00 s left"
    assert len(lines) == 7
