"""Posts and files that the scoring tests share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from unpacking import unpack

from groundling.cli import score as command
from groundling.data.gmner import Split, read_gmner
from groundling.errors import GroundlingError
from groundling.records import Box, Entity, Post

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_file(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}, which is not part of the project")
    return path


@pytest.fixture(scope="session")
def gmner_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released annotations, second version, unpacked."""
    folder = tmp_path_factory.mktemp("gmner")
    unpack(shared_file("twitter-gmner-v2.tar.gz"), folder)
    return next(path.parent for path in folder.rglob("txt"))


@pytest.fixture(scope="session")
def gmner_test(gmner_v2: Path) -> Split:
    return read_gmner(gmner_v2, "test")


@pytest.fixture(scope="session")
def riveg_rows() -> Path:
    return shared_file("riveg-test-pred.tsv.gz")


@pytest.fixture(scope="session")
def gmner_22() -> Path:
    return shared_file("twitter-gmner-22")


@pytest.fixture
def parade() -> Post:
    """Ann (two boxes, the second larger), Bo (absent) and Ann again, in a 100 × 100 picture."""
    boxes = (Box(0, 0, 10, 10), Box(50, 50, 90, 90))
    return Post(
        "p1",
        ("Ann", "met", "Bo", "and", "Ann"),
        (
            Entity("Ann", "PER", 0, 1, boxes),
            Entity("Bo", "ORG", 2, 3),
            Entity("Ann", "PER", 4, 5, boxes),
        ),
    )


@dataclass(frozen=True)
class Scored:
    """What `groundling score` did: exit code and the two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Callable[..., Scored]:
    """Run `groundling score …` in this process; errors become a line and a code, as in `main`."""

    def run(*words: object) -> Scored:
        parser = argparse.ArgumentParser(prog="groundling")
        command.add_parser(parser.add_subparsers(required=True))
        capsys.readouterr()
        try:
            args = parser.parse_args(["score", *map(str, words)])
            code = args.func(args)
        except GroundlingError as fault:
            print(f"groundling: {fault}", file=sys.stderr)
            code = fault.exit_code
        streams = capsys.readouterr()
        return Scored(code, streams.out, streams.err)

    return run
