"""Fifty creates at once for one project, with two schedulers and two api processes."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.store.pool import Database
from tests.e2e.processes import Client, Kennel, Project, closed, create, eventually, register
from tests.e2e.repositories import new_repository

CREATES = 50


async def start_all(kennel: Kennel) -> tuple[Client, Client]:
    apis = await kennel.start_api(), await kennel.start_api()
    for _ in range(2):
        await kennel.start_scheduler()
    return apis


async def create_many(apis: tuple[Client, Client], project: Project, **arguments: Any) -> list[int]:
    """Ask fifty times at once; return the ids, in order."""
    ids = await asyncio.gather(*(create(apis[n % 2], project, **arguments) for n in range(CREATES)))
    return sorted(ids)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_unforced_jobs_run_one_at_a_time_and_close_in_order(
    kennel: Kennel, db: Database, tmp_path: Path
) -> None:
    apis = await start_all(kennel)
    await kennel.start_worker("w", api=apis[0], slots=2)
    repository = new_repository(tmp_path / "repo")
    project = await register(apis[0], repository.url, engines=["lines"])

    ids = await create_many(apis, project, incr_scan=False)
    assert len(set(ids)) == CREATES
    last = await closed(apis[1], project, ids[-1], within_s=240)

    assert (last["result_code"], last["result_msg"]) == (0, "success")
    jobs = await db.fetch(
        """
        SELECT j.id, j.result_code, j.started_at, j.ended_at, e.at AS resolved_at
        FROM jobs AS j INNER JOIN events AS e ON e.job_id = j.id AND e.kind = 'job.resolved'
        ORDER BY j.id
        """
    )
    assert [job["id"] for job in jobs] == ids
    assert {job["result_code"] for job in jobs} == {0}
    for earlier, later in pairwise(jobs):
        assert earlier["ended_at"] <= later["resolved_at"] <= later["started_at"]
    attempts = await db.fetchval("SELECT count(*) FROM task_attempts WHERE outcome = 'succeeded'")
    assert attempts == 2 * CREATES  # a preparation and one engine a job, each run once


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_forced_jobs_run_in_parallel_and_the_newest_success_supersedes_older_ones(
    kennel: Kennel, db: Database, tmp_path: Path
) -> None:
    apis = await start_all(kennel)
    project = await register(apis[0], new_repository(tmp_path / "repo").url, engines=["lines"])
    ids = await create_many(apis, project, incr_scan=False, force_create=True)

    async def all_started() -> bool:
        waiting = await db.fetchval(
            "SELECT count(*) FROM jobs WHERE phase IN ('waiting', 'resolving')"
        )
        return waiting == 0

    # No worker yet: whatever started did not wait for another.
    await eventually(all_started, within_s=60, what="all forced jobs are admitted")
    await kennel.start_worker("w", api=apis[0], slots=4)
    newest = await closed(apis[1], project, ids[-1], within_s=240)
    older = [await closed(apis[0], project, job_id, within_s=60) for job_id in ids[:-1]]

    assert newest["result_code"] == 0
    assert {job["result_code"] for job in older} <= {0, 2}
    ends = {job["id"]: job for job in [*older, newest]}
    for job in older:
        # One that was being saved may be superseded itself: the pointers lead to a success.
        while job["result_code"] == 2:
            pointer = json.loads(job["result_msg"])
            assert set(pointer) == {"job_id", "scan_id", "msg"}
            assert pointer["job_id"] > job["id"]
            job = ends[pointer["job_id"]]  # noqa: PLW2901 - follows the pointer
    base = await db.fetchval("SELECT base_job_id FROM projects WHERE id = $1", project.id)
    assert base == ids[-1]


async def test_reject_leaves_exactly_one_open_job(kennel: Kennel, tmp_path: Path) -> None:
    apis = await start_all(kennel)
    project = await register(
        apis[0],
        new_repository(tmp_path / "repo").url,
        engines=["lines"],
        active_job_policy="reject",
    )

    answers = await asyncio.gather(
        *(apis[n % 2].post(f"{project.path}/scans/create/") for n in range(CREATES))
    )

    made = [answer.body for answer in answers if answer.status == 200]
    assert len(made) == 1
    refused = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.body["code"]) for answer in refused} == {(400, 300)}
    scan_id = made[0]["scan"]["id"]
    expected = f"当前项目分支[{project.id}]main还有未完成任务，编号为: [{scan_id}]"
    assert {answer.body["msg"] for answer in refused} == {expected}
    listed = (await apis[0].get(f"{project.path}/jobs/")).data
    assert listed["count"] == 1


async def test_join_leaves_at_most_one_started_and_one_waiting(
    kennel: Kennel, tmp_path: Path
) -> None:
    apis = await start_all(kennel)
    project = await register(
        apis[0],
        new_repository(tmp_path / "repo").url,
        engines=["lines"],
        active_job_policy="join",
    )

    ids = await create_many(apis, project)

    assert 1 <= len(set(ids)) <= 2
    listed = (await apis[1].get(f"{project.path}/jobs/", params={"state": "0,1,3"})).data
    assert listed["count"] == len(set(ids))
