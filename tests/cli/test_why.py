"""`kennel why`, beside a running server whose one worker is paused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cli.exits import Exit
from tests.cli.commandline import CommandLine
from tests.cli.conftest import FILES
from tests.cli.repositories import make_repository


@pytest.fixture(scope="module")
def waiting(served: CommandLine) -> Iterator[dict[str, Any]]:
    """A job that no worker takes, as `kennel jobs list --json` says it."""
    repository = make_repository(served.folder / "repository", FILES)
    (worker,) = served("workers", "list", "--json").json()
    served("workers", "pause", str(worker["id"]))
    ended = served("scan", repository, "--timeout", "1")
    assert ended.status == Exit.TIMEOUT
    (job,) = served("jobs", "list", "--json").json()
    yield job
    served("workers", "resume", str(worker["id"]))


def test_a_job_that_waits_says_why(served: CommandLine, waiting: dict[str, Any]) -> None:
    told = served("why", waiting["id"])
    found = served("why", waiting["id"], "--json").json()

    assert found["reason"] == "workers_unavailable"
    assert found["facts"] == {"draining": 0, "paused": 1, "quarantined": 0, "lost": 0}
    first, task, end = told.out.splitlines()
    words = "waits: no worker that fits takes tasks (1 paused) [workers_unavailable]"
    assert first == f"job {waiting['id']}: its task {found['task_id']} (prepare) {words}"
    assert task == f"  task {found['task_id']} (prepare): {words}"
    assert end.startswith("it is closed at 20")


def test_a_job_that_does_not_exist_is_refused(served: CommandLine) -> None:
    ended = served("why", "999999")

    assert ended.status == Exit.REFUSED
    assert "job 999999" in ended.err
