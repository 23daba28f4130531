"""Git repositories to scan."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_AUTHOR = ("-c", "user.name=A Person", "-c", "user.email=person@example.org")
#: Work for pylint that takes a while on any machine.
_HEAVY_FILES = 40


def git(folder: Path, *arguments: str) -> str:
    """Run git in *folder* without anybody's configuration."""
    return subprocess.run(
        ["git", *_AUTHOR, "-C", folder, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def make_repository(folder: Path, files: Mapping[str, str]) -> Path:
    """Make a repository on the branch `main` with one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, files)
    return folder


def commit(folder: Path, files: Mapping[str, str], message: str = "A change") -> str:
    """Write files and commit everything; return the commit."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def make_heavy_repository(folder: Path) -> Path:
    """Make a repository that pylint needs many seconds for."""
    text = Path(argparse.__file__).read_text()
    return make_repository(folder, {f"module_{number}.py": text for number in range(_HEAVY_FILES)})
