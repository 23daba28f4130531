"""One job as it is shown: what its rows say at one moment, before anything is worded for the wire.

Reads only. One statement answers a detail, so that a job that is closed never shows a task that
is still running. Access follows from the ids asked for: a job of its project,
a task of its organisation; everything else is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from core.domain.ids import AttemptId, JobId, OrgId, ProjectId, RepoId, ScanId, SchemeId, TaskId
from core.domain.states import JobState, TaskState
from core.store.queries import query
from core.store.store import Store

_JOB = query("details/job")
_JOB_IN_SCOPE = query("details/job_in_scope")
_TASK_IN_SCOPE = query("details/task_in_scope")
_ATTEMPT_BY_NUMBER = query("details/attempt_by_number")
_TASK_IS_PRUNED = query("details/task_is_pruned")

_STATES = {int(state): state for state in JobState}


class CoJob(NamedTuple):
    """Another open job of the project."""

    id: JobId
    scan_id: ScanId
    state: JobState


class TaskDetail(NamedTuple):
    """One engine's share of a job; a tuple, since a job has many."""

    id: TaskId
    module: str
    engine: str
    state: TaskState
    #: 0..100
    progress_rate: int
    result_code: int | None
    result_msg: str | None
    #: Why it did not succeed (`core.domain.outcomes.Reason`).
    reason: str | None
    started_at: datetime | None
    ended_at: datetime | None
    #: Attempts so far, the present one included.
    attempts: int
    #: Name of the worker of the last attempt.
    worker: str | None
    #: The accepted result as the worker sent it.
    result: Mapping[str, Any] | None
    has_result: bool
    has_log: bool


class JobDetail(NamedTuple):
    """A job with everything the detail shows; a tuple, made for each of many requests."""

    id: JobId
    scan_id: ScanId
    state: JobState
    result_code: int | None
    result_msg: str | None
    is_incremental: bool
    is_forced: bool
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime
    task_num: int
    open_tasks: int
    remarks: str | None
    remarked_by: str | None
    created_from: str
    creator: str
    project_id: ProjectId
    branch: str
    repo_id: RepoId
    scheme_id: SchemeId
    scm_url: str
    scan_type: int
    full_reason: str | None
    revision: str | None
    base_revision: str | None
    base_scan_id: ScanId | None
    engines: Mapping[str, str]
    code_line_num: int | None
    comment_line_num: int | None
    blank_line_num: int | None
    total_line_num: int | None
    #: The moment all this is of.
    as_of: datetime
    tasks: Sequence[TaskDetail]
    co_jobs: Sequence[CoJob]

    @property
    def task_done(self) -> int:
        """Tasks that are closed."""
        return self.task_num - self.open_tasks

    @property
    def waiting_s(self) -> float:
        """Seconds from create to start; to the end where it never started."""
        until = self.started_at or self.ended_at or self.as_of
        return max(0.0, (until - self.created_at).total_seconds())

    @property
    def execute_s(self) -> float | None:
        """Seconds from start to end; None when it never started."""
        if self.started_at is None:
            return None
        return max(0.0, ((self.ended_at or self.as_of) - self.started_at).total_seconds())


@dataclass(frozen=True, slots=True)
class TaskScope:
    """A task somebody may see, and its attempts whose files can be asked for."""

    task_id: TaskId
    job_id: JobId
    accepted_attempt_id: AttemptId | None
    last_attempt_id: AttemptId | None


async def detail(store: Store, project_id: ProjectId, job_id: JobId) -> JobDetail | None:
    """Return a job of a project with its tasks; None when the project has no such job."""
    (found,) = await detail_many(store, [(project_id, job_id)])
    return found


async def detail_many(
    store: Store, asked: Sequence[tuple[ProjectId, JobId]]
) -> list[JobDetail | None]:
    """Return jobs of projects, in order; None: the project has no such job."""
    rows = await store.db.fetch(
        _JOB, [job_id for _, job_id in asked], [project_id for project_id, _ in asked]
    )
    found = {row["n"] - 1: _detail(row) for row in rows}
    return [found.get(index) for index in range(len(asked))]


def _detail(row: Any) -> JobDetail:
    job = dict(row)
    del job["n"]
    job["state"] = _STATES[job["state"]]
    job["tasks"] = [_task(_TaskRow(*task), job) for task in row["tasks"]]
    job["co_jobs"] = [
        CoJob(other, scan_id, _STATES[state]) for other, scan_id, state in row["co_jobs"]
    ]
    return JobDetail(**job)


async def project_of_job(store: Store, job_id: JobId, org_id: OrgId | None) -> ProjectId | None:
    """Return the project of a job of the organisation (None: any); None when there is none."""
    found: int | None = await store.db.fetchval(_JOB_IN_SCOPE, job_id, org_id)
    return None if found is None else ProjectId(found)


async def task_scope(store: Store, task_id: TaskId, org_id: OrgId | None) -> TaskScope | None:
    """Return a task of the organisation (None: any); None when there is none."""
    row = await store.db.fetchrow(_TASK_IN_SCOPE, task_id, org_id)
    return None if row is None else TaskScope(**dict(row))


async def is_pruned(store: Store, task_id: TaskId) -> bool:
    """Tell whether a task is so old that nothing is kept of it; of whom it was is not known."""
    found: bool = await store.db.fetchval(_TASK_IS_PRUNED, task_id)
    return found


async def attempt_by_number(store: Store, task_id: TaskId, number: int) -> AttemptId | None:
    """Return a task's attempt by its number, counted from 1."""
    found: int | None = await store.db.fetchval(_ATTEMPT_BY_NUMBER, task_id, number)
    return None if found is None else AttemptId(found)


class _TaskRow(NamedTuple):
    """A task as `details/job` has it."""

    id: TaskId
    module: str
    engine: str
    outcome: str | None
    reason: str | None
    result_code: int | None
    result_msg: str | None
    closed_at: datetime | None
    result: Mapping[str, Any] | None
    lease_started_at: datetime | None
    started_at: datetime | None
    attempts: int
    worker: str | None
    files_done: int | None
    files_planned: int | None
    has_result: bool
    has_log: bool


def _task(task: _TaskRow, job: Mapping[str, Any]) -> TaskDetail:
    state, code, message, ended_at = _ending(task, job)
    return TaskDetail(
        id=task.id,
        module=task.module,
        engine=task.engine,
        state=state,
        progress_rate=_progress(state, task.files_done, task.files_planned),
        result_code=code,
        result_msg=message,
        reason=task.reason,
        started_at=task.started_at,
        ended_at=ended_at,
        attempts=task.attempts,
        worker=task.worker,
        result=task.result,
        has_result=task.has_result,
        has_log=task.has_log,
    )


def _ending(
    task: _TaskRow, job: Mapping[str, Any]
) -> tuple[TaskState, int | None, str | None, datetime | None]:
    """Return a task's state and how it ended: by its outcome, else with its job."""
    if task.outcome is not None:
        return TaskState.CLOSED, task.result_code, task.result_msg, task.closed_at
    if job["state"] == JobState.CLOSED:
        return TaskState.CLOSED, job["result_code"], job["result_msg"], job["ended_at"]
    if task.lease_started_at is not None:
        return TaskState.RUNNING, None, None, None
    return TaskState.WAITING, None, None, None


def _progress(state: TaskState, done: int | None, planned: int | None) -> int:
    if state is TaskState.CLOSED:
        return 100
    if state is TaskState.WAITING or not done or not planned:
        return 0
    return min(100, done * 100 // planned)
