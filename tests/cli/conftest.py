"""A command line on a data folder of its own, and one with a server that serves a whole file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commandline import CommandLine
from tests.cli.repositories import make_repository

FILES = {
    "app.py": "import os\n\n\ndef add(a, b):\n    return a + b\n",
    "README.md": "# Sample\n",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whole systems more time than one process gets."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture
def kennel(tmp_path: Path) -> CommandLine:
    """No server; one that a test starts is stopped by it."""
    return CommandLine(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A command line beside a running `kennel up`, for all tests of a file."""
    kennel = CommandLine(tmp_path_factory.mktemp("served"))
    with kennel.up():
        yield kennel


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository that ruff and pylint find something in."""
    return make_repository(tmp_path / "repository", FILES)
