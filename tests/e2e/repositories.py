"""Real repositories for real scans."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))
#: A dozen plain modules: some ten seconds of pylint.
MODULES = ("argparse", "ast", "calendar", "cmd", "configparser", "csv", "dis", "ftplib", "imaplib")


@dataclass(frozen=True, slots=True)
class Repository:
    """A local repository; its folder is its URL."""

    path: Path

    @property
    def url(self) -> str:
        return str(self.path)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": "/nonexistent",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "a",
                "GIT_AUTHOR_EMAIL": "a@example.invalid",
                "GIT_COMMITTER_NAME": "a",
                "GIT_COMMITTER_EMAIL": "a@example.invalid",
            },
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str] | None = None, message: str = "change") -> str:
        for name, content in (files or {}).items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


def new_repository(path: Path, files: Mapping[str, str] | None = None) -> Repository:
    """Make a repository with one commit on `main`."""
    path.mkdir(parents=True)
    repository = Repository(path)
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.commit(files or {"a.py": '"""A."""\n\nX = 1\n'})
    return repository


def stdlib_repository(path: Path, modules: Iterable[str] = MODULES) -> Repository:
    """Make a repository of plain modules of the standard library: real code, slow to lint."""
    repository = new_repository(path)
    for name in modules:
        shutil.copyfile(STDLIB / f"{name}.py", path / f"{name}.py")
    repository.commit()
    return repository
