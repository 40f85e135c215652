"""Files of ours that were damaged or edited are told in the project's own errors when read back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from groundling.asking import _read as read_journal
from groundling.collect import _told_failures
from groundling.data.pairs_parquet import read_pairs
from groundling.data.problems import read_bytes
from groundling.data.riveg import read_riveg
from groundling.errors import DataError, GroundlingError
from groundling.ground import _selected_round
from groundling.learnable import NAME, _noted
from groundling.models.ofa.tokenizer import _read_merges, _read_numbers
from groundling.report.record import _identity, _json
from groundling.rounds import read_drawn, read_rewards
from groundling.rundir import _read_identity, read_events
from groundling.stage import FOLDER, failures_by_stage, owner_of, read_marker
from groundling.strict_json import read_json, read_numbers, read_object
from groundling.toyworld.posts import read_scenes

DEEP = b"[" * 200_000
LINES = {
    "empty": b"",
    "not-utf-8": b"\xff\xfe\n",
    "deep": DEEP + b"\n",
    "deep-object": b'{"a":' * 100_000 + b"\n",
    "half-a-pair": b'"\\ud800"\n',
    "nan": b"NaN\n",
    "number": b"5\n",
    "list": b"[1, null]\n",
    "null": b"null\n",
    "wrong": b'{"key": {}, "stages": 5, "selected": [], "id": {}, "scene": 3, "entity": []}\n',
    "twice": b'{"a": 1, "a": 2}\n',
    "nul": b"\x00" * 100,
    "long": b'{"a": ' + b"9" * 5000 + b"}\n",
    "bomb": b"a: &a [x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n".encode()
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
}

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "json": ("x.json", read_json),
    "object": ("x.json", read_object),
    "scenes": ("scenes.jsonl", lambda path: read_scenes(path.parent)),
    "events": ("events.jsonl", lambda path: read_events(path.parent)),
    "identity": ("config.yaml", lambda path: _read_identity(path.parent)),
    "reported": ("config.yaml", lambda path: _identity(path.parent)),
    "metrics": ("metrics.json", lambda path: _json(path, "stages", "selected", "floors")),
    "selected": ("metrics.json", lambda path: _selected_round(path.parent)),
    "journal": ("x.jsonl", read_journal),
    "failures": ("x.jsonl", _told_failures),
    "epochs": ("epochs.json", read_numbers),
    "vocabulary": ("vocab.json", _read_numbers),
    "merges": ("merges.txt", _read_merges),
    "pairs": ("pairs.parquet", read_pairs),
    "drawn": ("drawn.parquet", read_drawn),
    "rewards": ("rewards.parquet", read_rewards),
    "riveg": ("x.tsv", lambda path: read_riveg(path, (), ignore)),
}


def message(read: Callable[[Path], object], path: Path) -> str:
    """What reading says in an error of the project's own; nothing where the file is taken."""
    try:
        read(path)
    except GroundlingError as fault:
        return str(fault)
    return ""


def ignore(_: object) -> None:
    """A report that keeps nothing."""


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_one_line(reader: str, kind: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.write_bytes(LINES[kind])
    assert len(message(read, path)) < 1000 + len(str(path))


@pytest.mark.parametrize("told", [b'{"unreadable": 3, "missing": []}', b'{"missing": 5}', DEEP])
def test_a_note_of_unreadable_images_is_checked(told: bytes, tmp_path: Path) -> None:
    class Run:
        path = tmp_path

    (tmp_path / NAME).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / NAME).write_bytes(told)
    with pytest.raises(DataError):
        _noted(Run(), "data")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "marker",
    [
        {"inputs": 5, "artefacts": 7},
        {"inputs": {}, "artefacts": 7},
        {"inputs": {}, "artefacts": {"a": 3}},
        {"inputs": {}, "artefacts": {}, "failures": "many"},
        [],
        None,
    ],
)
def test_a_wrong_marker_is_none(marker: object, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "fit.json").write_text(json.dumps(marker))
    assert read_marker(tmp_path, "fit") is None
    assert owner_of(tmp_path, "a") is None
    assert failures_by_stage(tmp_path) == {}


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(b"\0" * (40 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 16 MiB"):
        read_bytes(path)
    path.write_bytes(gzip.compress(b"a O\n" * 1000))
    assert read_bytes(path) == b"a O\n" * 1000


def test_a_field_beyond_the_tables_limit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("imgid\tentity\ttype\tgroundable\n1\t" + "x" * 200_000 + "\tPER\t0\n")
    with pytest.raises(DataError, match=r"x\.tsv:2: not a table|x\.tsv:1: its first line"):
        read_riveg(path, (), ignore)
