"""Seeded malformed inputs of every text format: one line and exit code 0, 1 or 2, never more."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ENTITY = {"name": "NYC", "type": "LOC", "start": 1, "end": 2, "boxes": [[1, 2, 3.5, 4]]}
POST = {"id": "p1", "image": None, "tokens": ["in", "NYC"], "entities": [ENTITY]}
SAID = {"id": "p1", "entities": [{"name": "NYC", "type": "LOC", "box": [1, 2, 3, 4]}]}
XML = (
    "<annotation><filename>1.jpg</filename><size><width>9</width><height>9</height></size><object>"
    "<name>NYC</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    "</object></annotation>"
)
SCHEME = "name: birds\ntypes:\n  LOC: a place\nwritten:\n  LOC: PLACE\n"
RECIPE = "rounds: 1\nseed: 3\ndata:\n  toyworld: {train: 4}\nsft:\n  lr: 1e-4\n"
CONLL = "IMGID:1\nin\tO\nNYC\tB-LOC\n\n"


def lines(*rows: object) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


KINDS: dict[str, tuple[str, bytes, list[str]]] = {
    "jsonl": ("a.jsonl", lines(POST), ["data", "check", "{}", "--format", "jsonl"]),
    "stats": ("a.jsonl", lines(POST), ["data", "stats", "{}", "--format", "jsonl", "--json"]),
    "conll": ("a.conll", CONLL.encode(), ["data", "check", "{}", "--format", "conll"]),
    "packed": (
        "a.conll.gz",
        gzip.compress(CONLL.encode() * 50, mtime=0),
        ["data", "check", "{}", "--format", "conll"],
    ),
    "scheme": ("s.yaml", SCHEME.encode(), ["data", "check", "{good}", "--scheme", "{}"]),
    "recipe": ("r.yaml", RECIPE.encode(), ["isr", "--config", "{}", "--out", "{dir}/run"]),
    "said": ("p.jsonl", lines(SAID), ["score", "{}", "--gold", "{good}", "--rule", "span"]),
    "set": ("", b"sft.lr=1e-4", ["isr", "--config", "{broken}", "--set", "{text}"]),
    "xml": ("release/xml/1.xml", XML.encode(), ["data", "check", "{release}"]),
    "release": ("release/txt/train.txt", CONLL.encode(), ["data", "check", "{release}"]),
}

Change = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, draws: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draws.randint(1, 4)):
        changed[draws.randrange(len(changed))] = draws.randrange(256)
    return bytes(changed)


def _swap(data: bytes, draws: random.Random) -> bytes:
    """Another token where a number, a word or a mark was."""
    other = [
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 5000,
        b"null",
        b"[]",
        b"{}",
        b'"\\ud800"',
        b"*x",
        b"&x",
    ]
    marks = [i for i, one in enumerate(data) if chr(one) in '0123456789"[{:\n']
    place = draws.choice(marks or [0])
    return data[:place] + draws.choice(other) + data[place + 1 :]


LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
)
"""Aliases of aliases, of nine to the ninth values."""

CHANGES: dict[str, Change] = {
    "flipped": _flip,
    "swapped": _swap,
    "cut": lambda data, draws: data[: draws.randrange(len(data))],
    "doubled": lambda data, draws: data * draws.randint(2, 30),
    "nested": lambda data, draws: data[:1] + draws.choice([b"[", b'{"a":', b"<a>"]) * 50_000 + data,
    "utf-16": lambda data, _: data.decode("latin-1").encode("utf-16"),
    "nul": lambda data, draws: data + b"\0" * draws.randint(1, 9999),
    "long": lambda data, draws: data + b"x" * draws.randint(10**5, 10**6),
    "laughs": lambda data, _: data + LAUGHS,
    "bomb": lambda data, _: gzip.compress(data + b"\n" + b"a O\n" * (5 << 20), 1),
}


def calls(root: Path, count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Command lines about malformed files, each with what was changed."""
    draws = random.Random(seed)
    made = []
    for number in range(count):
        kind, change = list(KINDS)[number % len(KINDS)], draws.choice(list(CHANGES))
        name, data, words = KINDS[kind]
        folder = root / str(number)
        (folder / "release" / "txt").mkdir(parents=True)
        (folder / "release" / "xml").mkdir()
        for part, content in (("txt/train.txt", CONLL), ("xml/1.xml", XML), ("txt/dev.txt", CONLL)):
            (folder / "release" / part).write_text(content)
        (folder / "good.jsonl").write_bytes(lines(POST))
        (folder / "broken.yaml").write_text("rounds: none\n")
        spoilt = CHANGES[change](data, draws)
        if name:
            (folder / name).write_bytes(spoilt)
        text = spoilt.decode("utf-8", "replace").replace("\0", "0")[:100_000]
        places = {
            "{}": str(folder / name),
            "{dir}": str(folder),
            "{good}": str(folder / "good.jsonl"),
            "{broken}": str(folder / "broken.yaml"),
            "{release}": str(folder / "release"),
            "{text}": text,
        }
        filled = [places.get(w, w.replace("{dir}", str(folder))) for w in words]
        if kind == "recipe":
            filled += ["--set", "rounds=none"]  # what is read well is not run
        made.append((f"{number} {kind} {change}", filled))
    return made


def faults(root: Path, count: int, seed: int) -> list[str]:
    """What is wrong with how they ended."""
    made = calls(root, count, seed)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("malformed_runner.py"))],
        input=json.dumps([words for _, words in made]),
        capture_output=True,
        text=True,
        check=True,
    )
    found = []
    for (label, words), (code, told, peak_mib) in zip(made, json.loads(done.stdout), strict=True):
        if code not in (0, 1, 2) or "Traceback" in told or peak_mib > 2048 or len(told) > 20_000:
            found.append(f"{label}: {words[:3]} {code} {peak_mib} MiB {len(told)} {told[-600:]}")
    return found


def test_malformed_inputs_end_in_a_line(tmp_path: Path) -> None:
    assert faults(tmp_path, 40, seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_malformed_inputs_end_in_a_line(seed: int, tmp_path: Path) -> None:
    assert faults(tmp_path, 50, seed) == []
