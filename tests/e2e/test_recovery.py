"""What dies is replaced, what is cancelled is gone, and every task is finished once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from core.store.pool import Database
from tests.e2e.processes import Kennel, closed, create, detail, eventually, register
from tests.e2e.repositories import stdlib_repository


def engine_processes(folder: Path) -> list[psutil.Process]:
    """Return the processes of engines that work below *folder*."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any("pylint_driver" in word for word in words) and any(
            str(folder) in word for word in words
        ):
            found.append(process)
    return found


async def engine_runs(folder: Path) -> list[psutil.Process]:
    async def look() -> list[psutil.Process]:
        return engine_processes(folder)

    return await eventually(look, within_s=60, what="pylint runs")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_task_of_a_killed_worker_is_run_elsewhere_and_finished_once(
    kennel: Kennel, db: Database, tmp_path: Path
) -> None:
    api = await kennel.start_api()
    await kennel.start_scheduler()
    doomed = await kennel.start_worker("doomed", api=api, slots=1)
    repository = stdlib_repository(tmp_path / "repo")
    project = await register(api, repository.url, engines=["pylint"])
    job_id = await create(api, project)
    await engine_runs(tmp_path / "worker-doomed")

    doomed.kill()
    await kennel.start_worker("heir", api=api, slots=1)

    async def is_dead() -> bool:
        return not engine_processes(tmp_path / "worker-doomed")

    await eventually(is_dead, within_s=5, what="the engine died with its worker")
    job = await closed(api, project, job_id, within_s=180)
    assert (job["result_code"], job["task_num"], job["task_done"]) == (0, 1, 1)
    attempts = await db.fetch(
        "SELECT a.outcome, w.name FROM task_attempts AS a INNER JOIN workers AS w"
        " ON a.worker_id = w.id WHERE a.task_id = $1 ORDER BY a.number",
        job["tasks"][0]["id"],
    )
    assert [tuple(row) for row in attempts] == [("lost", "doomed"), ("succeeded", "heir")]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_cancelled_pylint_is_gone_within_a_second(kennel: Kennel, tmp_path: Path) -> None:
    api = await kennel.start_api()
    await kennel.start_scheduler()
    await kennel.start_worker("w", api=api, slots=1)
    repository = stdlib_repository(tmp_path / "repo")
    project = await register(api, repository.url, engines=["pylint"])
    job_id = await create(api, project)
    await engine_runs(tmp_path / "worker-w")

    answer = await api.post(f"{project.v3}/jobs/{job_id}/cancel/", {"remarks": "wrong branch"})

    async def is_gone() -> bool:
        return not engine_processes(tmp_path / "worker-w")

    await eventually(is_gone, within_s=1, what="no process of pylint is alive")
    assert (answer.status, answer.body["msg"]) == (200, "取消成功")
    job: Any = await detail(api, project, job_id)
    assert (job["state"], job["result_code"]) == (2, 301)
    assert (job["remarks"], job["remarked_by"]) == ("wrong branch", job["creator"])
    assert "wrong branch" in job["result_msg"]
    assert job["end_time"] is not None


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_worker_that_stops_hands_its_task_back_and_the_server_survives_restarts(
    kennel: Kennel, tmp_path: Path
) -> None:
    api = await kennel.start_api()
    scheduler = await kennel.start_scheduler()
    await kennel.start_worker("w", api=api, slots=1)
    project = await register(api, stdlib_repository(tmp_path / "repo").url, engines=["pylint"])
    job_id = await create(api, project)
    await engine_runs(tmp_path / "worker-w")

    scheduler.kill()
    await scheduler.wait()
    await kennel.start_scheduler()

    job = await closed(api, project, job_id, within_s=180)
    assert (job["result_code"], job["task_done"]) == (0, 1)
