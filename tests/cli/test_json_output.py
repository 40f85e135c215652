"""What `--json` prints is JSON, or an error."""

from __future__ import annotations

import io
import json

import pytest

from groundling.cli.json_output import json_text
from groundling.errors import GroundlingError


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_hold_is_an_error_that_says_where(bad: float) -> None:
    with pytest.raises(GroundlingError, match=r"result\.splits\.1\.f1: -?(nan|inf)"):
        json_text({"splits": [{"f1": 0.5}, {"f1": bad}]})


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_it_is_json_whatever_stdout_can_encode(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr("sys.stdout", out)
    value = {"name": "Zoë 😀 \udc80"}
    out.write(json_text(value))
    out.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == value
