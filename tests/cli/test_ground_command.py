from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch
from fakes import FakeGrounder, FakeWriter
from PIL import Image

from groundling import EntityGrounder
from groundling.cli import main
from groundling.records import ABSENT, Box, Failure

TREE = Box(5.25, 6.0, 40.0, 38.0)


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code and the two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ground = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ground(capsys: pytest.CaptureFixture[str]) -> Ground:
    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main(["ground", *map(str, words)])
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (60, 40), (90, 160, 90)).save(path)
    return path


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that know a tree, an absent river, a name of their own and one they stumble over."""
    words = {
        "Oak": "the tree",
        "Re: Oak": "the tree",
        "Styx": ABSENT,
        "New Oak": "the tree",
        "Rock": Failure("no words came", "write"),
    }
    writer = FakeWriter(words, known=frozenset({"Oak", "Styx", "Re: Oak"}))
    pair = EntityGrounder(writer, FakeGrounder(lambda *_: TREE))
    monkeypatch.setattr(EntityGrounder, "load", lambda *_: pair)


@pytest.mark.usefixtures("models")
def test_json_has_the_agreed_keys(ground: Ground, photo: Path) -> None:
    done = ground(photo, "--entity", "Re: Oak:LOC", "--entity", "Styx:other", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json == {
        "image": str(photo),
        "answers": [
            {
                "entity": "Re: Oak",
                "type": "LOC",
                "expression": "the tree",
                "box": [5.25, 6, 40, 38],
                "logprob": -0.5,
                "known": True,
            },
            {
                "entity": "Styx",
                "type": "MISC",
                "expression": ABSENT,
                "box": None,
                "logprob": -0.5,
                "known": True,
            },
        ],
    }


@pytest.mark.usefixtures("models")
def test_people_get_words_and_boxes(ground: Ground, photo: Path) -> None:
    done = ground(photo, "--entity", "Oak:LOC", "--entity", " Styx :LOC")
    assert done.code == 0
    assert done.out.splitlines() == [
        str(photo),
        "",
        "Oak (LOC)",
        "  words  the tree  (log-probability -0.50)",
        "  box    5, 6, 40, 38",
        "",
        "Styx (LOC)",
        "  not in the picture  (log-probability -0.50)",
    ]


@pytest.mark.usefixtures("models")
def test_a_name_never_seen_is_answered_flagged_and_warned_about(
    ground: Ground, photo: Path
) -> None:
    done = ground(photo, "--entity", "New Oak:LOC", "--entity", "Oak:LOC", "--json")
    assert done.code == 0
    assert [(a["known"], a["box"]) for a in done.json["answers"]] == [
        (False, [5.25, 6, 40, 38]),
        (True, [5.25, 6, 40, 38]),
    ]
    assert done.err.splitlines() == [
        "groundling ground: warning: the writer was never trained on New Oak (LOC); it may guess"
    ]


@pytest.mark.usefixtures("models")
def test_a_failure_is_an_error_in_its_place_and_exit_1(
    ground: Ground, photo: Path, tmp_path: Path
) -> None:
    words = [photo, "--entity", "Rock:LOC", "--entity", "Oak:LOC"]
    done = ground(*words, "--json", "--draw", tmp_path / "out.png")
    assert done.code == 1
    first, second = done.json["answers"]
    assert first == {
        "entity": "Rock",
        "type": "LOC",
        "error": {"reason": "no words came", "stage": "write"},
    }
    assert second["box"] == [5.25, 6, 40, 38]
    assert (tmp_path / "out.png").is_file()
    told = ground(*words)
    assert told.code == 1
    assert "  no answer: no words came (at stage write)" in told.out.splitlines()


@pytest.mark.usefixtures("models")
def test_draw_saves_the_picture_with_its_boxes(ground: Ground, photo: Path, tmp_path: Path) -> None:
    before, out = photo.read_bytes(), tmp_path / "drawn.png"
    done = ground(photo, "--entity", "Oak:LOC", "--entity", "Styx:LOC", "--draw", out)
    assert done.code == 0
    assert done.out.endswith(f"drawn: {out}\n")
    with Image.open(out) as drawn:
        assert drawn.size == (8 * 60, 8 * 40)  # small images are drawn larger
        assert drawn.getpixel((42, 160)) == (0, 0, 0)  # the left edge of the only box
        assert drawn.getpixel((16, 310)) == (90, 160, 90)
    assert photo.read_bytes() == before
    refused = ground(photo, "--entity", "Oak:LOC", "--draw", photo)
    assert refused.code == 2
    assert "the picture itself" in refused.err
    assert photo.read_bytes() == before


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("place", ["gone/out.png", "folder.png", "file.txt/out.png"])
def test_field_r7_answers_come_before_what_cannot_be_drawn(
    ground: Ground, photo: Path, tmp_path: Path, form: list[str], place: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").write_text("")
    done = ground(photo, "--entity", "Oak:LOC", "--draw", tmp_path / place, *form)
    assert done.code == 2
    assert "the tree" in done.out
    assert "drawn" not in done.out
    assert done.err.startswith("groundling: error: ")
    assert done.err.count("\n") == 1
    assert str(tmp_path / place) in done.err
    if form:
        assert done.json["answers"][0]["box"] == [5.25, 6, 40, 38]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PHOTO"], "no entity given"),
        (["PHOTO", "--entity", "Oak"], "wanted NAME:TYPE"),
        (["PHOTO", "--entity", ":LOC"], "wanted NAME:TYPE"),
        (["PHOTO", "--entity", " :LOC"], "wanted NAME:TYPE"),
        (["PHOTO", "--entity", "Oak:"], "unknown entity type ''"),
        (["PHOTO", "--entity", "Oak:LOC", "--entity", "Elm:TREE"], "unknown entity type 'TREE'"),
        (["PHOTO", "--entity", "\udce9:LOC"], "not Unicode text"),
        (["gone.jpg", "--entity", "Oak:LOC"], "gone.jpg: no such file"),
        (["\udce9.jpg", "--entity", "Oak:LOC"], "no such file"),
        (["NOISE", "--entity", "Oak:LOC"], "not a picture"),
        (["FOLDER", "--entity", "Oak:LOC"], "not a regular file"),
        (["PHOTO", "--entity", "Oak:LOC", "--run", "gone"], "gone: not a run directory"),
        (["PHOTO", "--entity", "Oak:LOC", "--run", "FOLDER"], "not a run directory"),
        (["PHOTO", "--entity", "Oak:LOC", "--run", "EMPTY"], "no writer's weights"),
        (["PHOTO", "--entity", "Oak:LOC", "--draw", "FOLDER"], "wanted a name in .png"),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    ground: Ground, photo: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    noise = tmp_path / "noise.jpg"
    noise.write_bytes(b"no picture at all")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("config: {data: {toyworld: {}}}\nprovenance: {}\n")
    stand_ins = {"PHOTO": photo, "NOISE": noise, "FOLDER": tmp_path, "EMPTY": empty}
    done = ground(*(stand_ins.get(word, word) for word in words))
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("groundling: error: ")
    assert said in done.err


def test_a_run_directory_answers(ground: Ground, photo: Path, tmp_path: Path) -> None:
    checkpoint = small_run.write_checkpoint(tmp_path / "base", [("NASA", "ORG")])
    run = small_run.write_run(tmp_path / "run", checkpoint, rounds=1)
    words = [photo, "--entity", "NASA:ORG", "--entity", "NASA:LOC", "--run", run, "--json"]
    done = ground(*words)
    assert done.code == 0
    first, second = done.json["answers"]
    assert [first["known"], second["known"]] == [True, False]
    x1, y1, x2, y2 = first["box"]
    assert 0 <= x1 <= x2 <= 60
    assert 0 <= y1 <= y2 <= 40
    assert first["expression"]
    warnings = [line for line in done.err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "NASA (LOC)" in warnings[0]
    assert ground(*words).json == done.json


def test_untuned_models_say_so(
    ground: Ground, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = FakeWriter({"Oak": ABSENT}, known=frozenset({"Oak"}))
    pair = EntityGrounder(writer, FakeGrounder({}), tuned=False)
    monkeypatch.setattr(EntityGrounder, "load", lambda *_: pair)
    done = ground(photo, "--entity", "Oak:LOC", "--json")
    assert done.code == 0
    assert "never tuned" in done.err
