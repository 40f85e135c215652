"""Small data sets written on the spot, and the released ones where they lie beside the checkout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from unpacking import unpack

from groundling.cli.data import add_parser
from groundling.errors import GroundlingError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

Release = Callable[..., Path]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Write a folder in the Twitter-GMNER layout from the texts of its files."""

    def write(
        texts: Mapping[str, str | bytes], xml: Mapping[str, str | bytes] | None = None
    ) -> Path:
        root = tmp_path / "release"
        for folder, ending, files in (("txt", "txt", texts), ("xml", "xml", xml or {})):
            (root / folder).mkdir(parents=True)
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                (root / folder / f"{name}.{ending}").write_bytes(data)
        return root

    return write


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Save a plain picture; parents are made."""

    def save(path: Path, size: tuple[int, int] = (100, 80), **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 40, 90)).save(path, **options)
        return path

    return save


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code and the two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def data_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `groundling data …` in this process; errors become a line and a code, as in `main`."""

    def run(*words: object) -> Outcome:
        parser = argparse.ArgumentParser(prog="groundling")
        add_parser(parser.add_subparsers(required=True))
        capsys.readouterr()
        try:
            args = parser.parse_args(["data", *map(str, words)])
            code = args.func(args)
        except GroundlingError as fault:
            print(f"groundling: {fault}", file=sys.stderr)
            code = fault.exit_code
        except SystemExit as stop:
            code = int(stop.code or 0)
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return run


def _unpacked(version: str, folder: Path) -> Path:
    archive = SHARED / f"twitter-gmner-{version}.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not in ../shared/data beside the checkout")
    unpack(archive, folder)
    return folder / f"twitter-gmner-{version}"


@pytest.fixture(scope="session")
def gmner_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unpacked("v1", tmp_path_factory.mktemp("v1"))


@pytest.fixture(scope="session")
def gmner_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unpacked("v2", tmp_path_factory.mktemp("v2"))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The path of a file or folder beside the checkout; skips the test where it is not there."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is not in ../shared/data beside the checkout")
        return path

    return find


@pytest.fixture(scope="session")
def gmner_22() -> Path:
    folder = SHARED / "twitter-gmner-22"
    if not folder.is_dir():
        pytest.skip("twitter-gmner-22 is not in ../shared/data beside the checkout")
    return folder
