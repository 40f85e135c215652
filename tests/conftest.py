"""`--files-reversed`: the files of tests in reverse order, the tests of each as they stand."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--files-reversed",
        action="store_true",
        help="run the files of tests in reverse order: none may rest on what another left",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("files_reversed"):
        files = {path: place for place, path in enumerate(dict.fromkeys(i.path for i in items))}
        items.sort(key=lambda item: -files[item.path])
