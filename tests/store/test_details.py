"""The detail of a job against a real server: times, tasks, what a closed job shows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.domain.ids import AttemptId, JobId, OrgId, ProjectId, TaskId
from core.domain.states import JobState, TaskState
from core.store import details
from core.store.notify import Signals
from core.store.pool import Database
from core.store.store import Store
from tests.store.history import (
    NOON,
    add_job,
    add_project,
    add_task,
    close_job,
    close_task,
    hold,
)


@pytest.fixture
def store(db: Database, signals: Signals) -> Store:
    return Store(db, signals)


async def shown(store: Store, project: int, job: int) -> details.JobDetail:
    found = await details.detail(store, ProjectId(project), JobId(job))
    assert found is not None
    return found


async def running_job(db: Database, project: int, tasks: int = 1) -> int:
    return await add_job(
        db,
        project,
        phase="running",
        started_at=NOON + timedelta(seconds=1.25),
        prepare_task_id=1,
        task_num=tasks,
        open_tasks=tasks,
    )


async def test_a_job_is_not_found_in_another_project(store: Store) -> None:
    project, other = await add_project(store.db), await add_project(store.db)
    job = await add_job(store.db, project)

    assert await details.detail(store, ProjectId(other), JobId(job)) is None
    assert await details.detail(store, ProjectId(project), JobId(job + 1)) is None
    assert (await shown(store, project, job)).id == job


async def test_a_waiting_job_has_waited_until_now_and_never_ran(store: Store) -> None:
    project = await add_project(store.db)
    job = await shown(store, project, await add_job(store.db, project))

    assert job.state is JobState.WAITING
    assert job.waiting_s == (job.as_of - NOON).total_seconds()
    assert job.execute_s is None


async def test_the_times_of_a_closed_job_stand_still(store: Store) -> None:
    project = await add_project(store.db)
    job = await shown(store, project, await close_job(store.db, project))

    assert (job.waiting_s, job.execute_s) == (1.25, 2.5)


async def test_a_job_cancelled_while_it_waited_stopped_waiting_at_its_end(store: Store) -> None:
    project = await add_project(store.db)
    job = await close_job(store.db, project, code=301, msg="cancelled", started_at=None)
    found = await shown(store, project, job)

    assert (found.waiting_s, found.execute_s) == (3.75, None)


async def test_a_running_job_runs_until_now(store: Store) -> None:
    project = await add_project(store.db)
    job = await shown(store, project, await running_job(store.db, project))

    assert job.waiting_s == 1.25
    assert job.execute_s is not None
    assert job.execute_s > 2.5


async def test_the_other_open_jobs_of_the_project_stand_beside(store: Store) -> None:
    project = await add_project(store.db)
    job, other = [await add_job(store.db, project) for _ in range(2)]
    await close_job(store.db, project)
    await add_job(store.db, await add_project(store.db))

    (co_job,) = (await shown(store, project, job)).co_jobs

    assert (co_job.id, co_job.state) == (other, JobState.WAITING)
    assert co_job.scan_id == await store.db.fetchval(
        "SELECT id FROM scans WHERE job_id = $1", other
    )


async def test_tasks_are_counted_without_the_preparation(store: Store) -> None:
    project = await add_project(store.db)
    job = await running_job(store.db, project, tasks=2)
    await add_task(store.db, job, "prepare", kind="prepare")
    tasks = [await add_task(store.db, job, engine) for engine in ("pylint", "lines")]

    found = await shown(store, project, job)

    assert [task.id for task in found.tasks] == tasks
    assert [task.engine for task in found.tasks] == ["pylint", "lines"]
    assert [(task.state, task.progress_rate) for task in found.tasks] == [
        (TaskState.WAITING, 0)
    ] * 2
    assert (found.task_num, found.task_done) == (2, 0)


async def test_an_offered_task_still_waits_and_a_started_one_runs(store: Store) -> None:
    project = await add_project(store.db)
    job = await running_job(store.db, project, tasks=2)
    offered, started = [await add_task(store.db, job) for _ in range(2)]
    await hold(store.db, job, offered, is_started=False)
    held = await hold(store.db, job, started)
    await store.db.execute(
        "INSERT INTO attempt_progress (attempt_id, phase, files_done, files_planned) "
        "VALUES ($1, 'running', 7, 9)",
        held.attempt_id,
    )

    first, second = (await shown(store, project, job)).tasks

    assert (first.state, first.progress_rate, first.started_at) == (TaskState.WAITING, 0, None)
    assert (second.state, second.progress_rate) == (TaskState.RUNNING, 77)
    assert second.started_at == NOON + timedelta(seconds=1.25)
    assert (second.attempts, second.worker) == (1, "rex")
    assert second.result_code is None


async def test_a_closed_task_shows_its_outcome_and_whether_its_result_is_there(
    store: Store,
) -> None:
    project = await add_project(store.db)
    job = await running_job(store.db, project, tasks=2)
    with_result, without = [
        await hold(store.db, job, await add_task(store.db, job)) for _ in range(2)
    ]
    await store.db.execute(
        "INSERT INTO artifacts (task_id, attempt_id, name, size_bytes, sha256) "
        "VALUES ($1, $2, 'result.json', 2, '')",
        with_result.task_id,
        with_result.attempt_id,
    )
    await close_task(store.db, job, with_result, result={"findings": {"error": 3}})
    await close_task(store.db, job, without, reason="engine_failed", code=211, msg="exit status 32")

    first, second = (await shown(store, project, job)).tasks

    assert (first.state, first.progress_rate, first.has_result) == (TaskState.CLOSED, 100, True)
    assert (first.result_code, first.result_msg, first.reason) == (0, "success", None)
    assert first.result == {"findings": {"error": 3}}
    assert first.ended_at == NOON + timedelta(seconds=3.25)
    assert (second.result_code, second.result_msg) == (211, "exit status 32")
    assert (second.reason, second.has_result) == ("engine_failed", False)


async def test_a_task_of_a_closed_job_without_an_outcome_ended_with_its_job(store: Store) -> None:
    project = await add_project(store.db)
    job = await close_job(store.db, project, code=301, msg="User( ann ) Canceled: x . ", task_num=1)
    await add_task(store.db, job)

    found = await shown(store, project, job)

    (task,) = found.tasks
    assert (task.state, task.progress_rate) == (TaskState.CLOSED, 100)
    assert (task.result_code, task.result_msg) == (301, "User( ann ) Canceled: x . ")
    assert task.ended_at == found.ended_at
    assert found.task_done == found.task_num == 1


async def test_a_task_tried_again_counts_its_attempts_from_its_first_start(store: Store) -> None:
    project = await add_project(store.db)
    job = await running_job(store.db, project)
    task = await add_task(store.db, job)
    first = await hold(store.db, job, task)
    await store.db.execute(
        "WITH ended AS (DELETE FROM task_leases WHERE attempt_id = $1 RETURNING *)"
        " INSERT INTO task_attempts (task_id, attempt_id, job_id, worker_id, number, token_hash,"
        " outcome, reason, offered_at, started_at)"
        " SELECT task_id, attempt_id, job_id, worker_id, number, token_hash, 'lost', 'worker_lost',"
        " offered_at, started_at - interval '1 s' FROM ended",
        first.attempt_id,
    )
    second = await hold(store.db, job, task, number=2)

    (found,) = (await shown(store, project, job)).tasks

    assert (found.attempts, found.state) == (2, TaskState.RUNNING)
    assert found.started_at == NOON + timedelta(seconds=0.25)
    assert await details.attempt_by_number(store, TaskId(task), 1) == first.attempt_id
    assert await details.attempt_by_number(store, TaskId(task), 2) == second.attempt_id
    assert await details.attempt_by_number(store, TaskId(task), 3) is None


async def test_jobs_and_tasks_are_seen_by_their_own_organisation_only(store: Store) -> None:
    project = await add_project(store.db)
    job = await running_job(store.db, project)
    task = await add_task(store.db, job)
    held = await hold(store.db, job, task)
    own = await store.db.fetchval("SELECT max(id) FROM organizations")
    foreign = own + 1

    scope = await details.task_scope(store, TaskId(task), OrgId(own))

    assert scope == details.TaskScope(TaskId(task), JobId(job), None, AttemptId(held.attempt_id))
    assert await details.task_scope(store, TaskId(task), None) == scope
    assert await details.task_scope(store, TaskId(task), OrgId(foreign)) is None
    assert await details.project_of_job(store, JobId(job), OrgId(own)) == project
    assert await details.project_of_job(store, JobId(job), None) == project
    assert await details.project_of_job(store, JobId(job), OrgId(foreign)) is None
