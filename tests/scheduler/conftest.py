"""A store, a worker's side of it, and a small real repository to resolve."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.store.history import add_project


@pytest.fixture
def store(db: Database, signals: Signals) -> Store:
    return Store(db, signals)


@dataclass(frozen=True, slots=True)
class Repository:
    """A local repository with a commit."""

    path: Path

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.path),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "a",
                "GIT_AUTHOR_EMAIL": "a@example.invalid",
                "GIT_COMMITTER_NAME": "a",
                "GIT_COMMITTER_EMAIL": "a@example.invalid",
            },
        )
        return done.stdout.strip()

    def commit(self, name: str, content: str) -> str:
        (self.path / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", name)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path / "repo")
    found.path.mkdir()
    found.git("init", "--quiet", "--initial-branch=main")
    found.commit("a.py", "x = 1\n")
    return found


@pytest.fixture
async def project_id(store: Store, repository: Repository) -> int:
    """A project on the repository's branch `main`."""
    project = await add_project(store.db)
    await store.db.execute("UPDATE repos SET scm_url = $1", str(repository.path))
    return project
