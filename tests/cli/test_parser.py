from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from groundling.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grund", "x.jpg"], "did you mean ground?"),
        (["confert-ofa"], "did you mean convert-ofa?"),
        (["isr", "--config", "x.yaml", "--sed", "3"], "did you mean --seed?"),
        (["score", "p", "--gold", "g", "--rule", "spam"], "did you mean span?"),
        (["baseline", "dirct", "--config", "x.yaml"], "did you mean direct?"),
        (["data", "chek", "x"], "did you mean check?"),
        (["tagger", "fit", "--confg=x.yaml", "--config", "y"], "did you mean --config?"),
        (["isr"], "--config; see `groundling isr --help`"),
        (["qqqq"], "see `groundling --help`"),
    ],
)
def test_field_r8_a_misspelt_word_is_one_line_with_what_may_have_been_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    "words",
    [
        ["demo"],
        ["isr", "--config", "r.yaml"],
        ["baseline", "direct", "--config", "r.yaml"],
        ["refineg", "run", "--config", "r.yaml"],
        ["tagger", "fit", "--config", "r.yaml"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("seed", ["-3", str(2**31)])
def test_field_r8_a_wrong_seed_is_told_by_its_option(
    words: list[str], seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--seed", seed]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"groundling: error: --seed: got {seed}; wanted a whole number from 0")
    assert "yaml" not in err


LIGHT = """
import contextlib, io, json, sys
from groundling.cli import main
told = []
for words in json.loads(sys.argv[1]):
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        code = main(words)
    told.append([code, stream.getvalue(), sorted({"torch", "transformers"} & set(sys.modules))])
print(json.dumps(told))
"""


def test_field_r8_what_is_not_there_is_told_before_heavy_imports(tmp_path: Path) -> None:
    endpoint = ["--endpoint", "http://localhost:1/v1", "--model", "m"]
    calls = [
        ["convert-ofa", "gone", "out"],
        ["ground", "gone", "--entity", "A:PER"],
        ["isr", "--config", "gone"],
        ["plan", "gone"],
        ["baseline", "direct", "--config", "gone"],
        ["refineg", "run", "--config", "gone"],
        ["ablate", "--config", "gone"],
        ["tagger", "fit", "--config", "gone"],
        ["tagger", "tag", "gone", "gone", "--out", "p.jsonl"],
        ["gmner", "gone", "--tagger", "gone", "--out", "p.jsonl"],
        ["report", "gone"],
        ["score", "p.jsonl", "--gold", "gone", "--rule", "isr"],
        ["data", "check", "gone"],
        ["experts", "gone", "--out", "e.jsonl", *endpoint],
        ["direct", "gone", "--out", "e.jsonl", *endpoint],
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    for words, (code, err, heavy) in zip(calls, json.loads(done.stdout), strict=True):
        assert (code, heavy) == (2, []), words
        assert "gone" in err
        assert err.count("\n") == 1
