from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from full_disk import files_up_to

from groundling.atomic import write_bytes
from groundling.errors import DataError, InputError
from groundling.journal import Journal


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_there_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j.jsonl"
    with Journal(path) as journal:
        for number in range(3):
            journal.append({"n": number, "text": "é\u2028"})
            assert len(lines(path)) == number + 1
    with Journal(path) as journal:
        journal.append({"n": 3})
    assert [one["n"] for one in lines(path)] == [0, 1, 2, 3]  # type: ignore[index]


@pytest.mark.parametrize("cut", range(2, 10))
def test_a_torn_last_line_is_cut_off(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n'[:-cut])
    with Journal(path) as journal:
        journal.append({"n": 2})
    assert lines(path) == [{"n": 0}, {"n": 2}]


def test_a_last_line_without_its_end_stays(tmp_path: Path) -> None:
    """As an editor leaves a file that was corrected by hand."""
    path = tmp_path / "j"
    path.write_bytes('{"n": 0}\n{"n": "ä"}'.encode())
    with Journal(path) as journal:
        journal.append({"n": 2})
    assert lines(path) == [{"n": 0}, {"n": "ä"}, {"n": 2}]


@pytest.mark.parametrize("last", ["my notes", "[1, 2", "42", ' {"n": 1', "{n: 1}"])
def test_nothing_is_cut_off_a_file_that_is_no_journal(last: str, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text('{"n": 0}\n' + last)
    with pytest.raises(DataError, match=r"j:2: not a whole JSON object; complete this line"):
        Journal(path)
    assert path.read_text() == '{"n": 0}\n' + last


@pytest.mark.parametrize("last", ['{"n": 1', '{"n": "a "red" hat"}'])
def test_nothing_is_cut_off_a_file_that_people_edit(last: str, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(last)
    with pytest.raises(DataError, match=r"j:1: not a whole JSON object; complete this line"):
        Journal(path, edited=True)
    assert path.read_text() == last
    path.write_text('{"n": 1}')
    with Journal(path, edited=True) as journal:
        journal.append({"n": 2})
    assert lines(path) == [{"n": 1}, {"n": 2}]


def test_lines_are_replaced_under_the_same_lock(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append({"n": 0})
        journal.replace([{"n": 1}, {"n": 2}])
        assert lines(path) == [{"n": 1}, {"n": 2}]
        with pytest.raises(InputError, match="another process"):
            Journal(path)
        journal.append({"n": 3})
    assert lines(path) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_finds_no_room_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append({"n": 0})
        with files_up_to(12), pytest.raises(OSError, match=r"too large: '.*/j'"):
            journal.replace([{"n": 1}, {"n": 2}])
        journal.append({"n": 3})
    assert lines(path) == [{"n": 0}, {"n": 3}]
    assert list(tmp_path.iterdir()) == [path]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(InputError, match="another process"):
        Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()


def test_the_lock_of_a_file_that_was_replaced_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process puts a sorted file in place between our opening it and our locking it."""
    path = tmp_path / "j"
    path.write_text('{"n": 0}\n')
    real = fcntl.flock
    calls = []

    def flock(*arguments: Any) -> None:
        if not calls:
            write_bytes(path, b'{"n": "other"}\n')
        calls.append(arguments)
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Journal(path) as journal:
        journal.append({"n": 1})
    assert lines(path) == [{"n": "other"}, {"n": 1}]
    assert len(calls) == 2


def test_a_line_that_finds_no_room_leaves_no_trace(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append({"n": 0})
        with files_up_to(12), pytest.raises(OSError, match=r"too large: '.*/j'"):
            journal.append({"n": 1})
        journal.append({"n": 2})
    assert lines(tmp_path / "j") == [{"n": 0}, {"n": 2}]


def test_what_json_cannot_hold_leaves_no_trace(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.append({"n": float("nan")})
        journal.append({"n": 1})
    assert lines(tmp_path / "j") == [{"n": 1}]
