"""Where the repository is and what belongs to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _repository_files() -> list[Path]:
    """List what is or would be tracked: a file counts before its commit, an ignored one never."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    paths = (ROOT / name.decode() for name in listing.split(b"\0") if name)
    return sorted(path for path in paths if path.is_file())


@pytest.fixture(scope="session")
def repository_files() -> list[Path]:
    files = _repository_files()
    assert len(files) > 50
    return files


@pytest.fixture(scope="session")
def documents(repository_files: list[Path]) -> dict[Path, str]:
    return {path: path.read_text("utf-8") for path in repository_files if path.suffix == ".md"}


@pytest.fixture(scope="session")
def sources(repository_files: list[Path]) -> dict[Path, str]:
    packages = {"api", "scheduler", "worker", "core", "cli", "migrations"}
    return {
        path: path.read_text("utf-8")
        for path in repository_files
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in packages
    }
