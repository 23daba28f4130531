"""From the last closed task to the closed job: save, supersede the older ones, ingest, close.

A job enters saving only when it will close with success; in the same transaction every older
open job of the project is closed, so that an older revision never overwrites a newer result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.domain.ids import AttemptId, JobId, ProjectId, ScanId, TaskId, WorkerId
from core.domain.outcomes import Outcome, Reason
from core.domain.states import FailOn
from core.store.jobs import publish_closed, sweep
from core.store.pool import retrying
from core.store.queries import query
from core.store.store import Store, job_topic

_FAILING = query("jobs/failing")
_SETTLEABLE = query("jobs/settleable")
_OUTCOMES = query("jobs/outcomes")
_SAVE = query("jobs/save")
_SUPERSEDE = query("jobs/supersede")
_SAVING = query("jobs/saving")
_LOCK_SAVING = query("jobs/lock_saving")
_CLOSE_SAVED = query("jobs/close_saved")

_FINDING_COLUMNS = (
    "scan_id", "task_id", "position", "engine", "rule", "severity", "path", "line", "column",
    "message",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settleable:
    """A running job whose tasks have all closed."""

    job_id: JobId
    project_id: ProjectId
    scan_id: ScanId
    fail_on: FailOn
    #: A task that could not analyse every file counts as failed.
    partial_fails: bool


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How one engine task ended."""

    task_id: TaskId
    engine: str
    outcome: Outcome
    reason: Reason | None
    result_code: int
    result_msg: str
    attempt_id: AttemptId | None
    #: The accepted result (`core.protocol.messages.AttemptResult`); None: closed by the server.
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Lines:
    """Line counts of the full tree."""

    code: int
    comment: int
    blank: int

    @property
    def total(self) -> int:
        """Lines of all kinds."""
        return self.code + self.comment + self.blank


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding as it is kept."""

    task_id: TaskId
    position: int
    engine: str
    rule: str
    severity: str
    path: str
    line: int
    column: int
    message: str


async def failing(store: Store, *, limit: int) -> list[JobId]:
    """Return jobs that end early: a task failed and the scheme cancels its siblings."""
    return [JobId(row["job_id"]) for row in await store.db.fetch(_FAILING, limit)]


async def settleable(store: Store, *, limit: int) -> list[Settleable]:
    """Return running jobs whose tasks have all closed."""
    return [
        Settleable(
            job_id=JobId(row["job_id"]),
            project_id=ProjectId(row["project_id"]),
            scan_id=ScanId(row["scan_id"]),
            fail_on=FailOn(row["fail_on"]),
            partial_fails=row["partial_fails"],
        )
        for row in await store.db.fetch(_SETTLEABLE, limit)
    ]


async def outcomes(store: Store, job_id: JobId) -> list[TaskEnd]:
    """Return how the engine tasks of a job ended, of those that have."""
    return [
        TaskEnd(
            task_id=TaskId(row["task_id"]),
            engine=row["engine"],
            outcome=Outcome(row["outcome"]),
            reason=Reason(row["reason"]) if row["reason"] else None,
            result_code=row["result_code"],
            result_msg=row["result_msg"],
            attempt_id=None if row["attempt_id"] is None else AttemptId(row["attempt_id"]),
            result=row["result"],
        )
        for row in await store.db.fetch(_OUTCOMES, job_id)
    ]


async def save(store: Store, job_id: JobId, *, superseded_msg: str) -> bool:
    """Enter saving and close the older open jobs of the project; False: somebody else did.

    Args:
        store: The store.
        job_id: A running job whose tasks have all closed with success.
        superseded_msg: Result message of the older ones, naming this job.
    """

    async def attempt() -> tuple[bool, list[JobId], list[WorkerId]]:
        async with store.db.transaction() as connection:
            row = await connection.fetchrow(_SAVE, job_id)
            if row is None:
                return False, [], []
            older = await connection.fetch(_SUPERSEDE, row["project_id"], job_id, superseded_msg)
            ids = [JobId(found["job_id"]) for found in older]
            workers = await sweep(connection, ids, reason=Reason.SUPERSEDED, message=superseded_msg)
            return True, ids, workers

    saved, superseded, workers = await retrying(attempt)
    if saved:
        store.signals.publish("settle", job_topic(job_id))
        publish_closed(store, superseded, workers)
    return saved


async def saving(store: Store, *, limit: int) -> list[tuple[JobId, ScanId]]:
    """Return jobs that are being saved, by this scheduler or by one that may have died."""
    rows = await store.db.fetch(_SAVING, limit)
    return [(JobId(row["job_id"]), ScanId(row["scan_id"])) for row in rows]


async def ingest(
    store: Store,
    job_id: JobId,
    scan_id: ScanId,
    *,
    findings: Iterable[FindingRow],
    lines: Lines | None,
    engines: Mapping[str, str],
) -> bool:
    """Write a scan's findings and line counts and close its job with success, all or nothing.

    Returns:
        False where the job is no longer saved, or another scheduler is at it.
    """
    async with store.db.transaction() as connection:
        if await connection.fetchrow(_LOCK_SAVING, job_id) is None:
            return False
        await connection.copy(
            "findings", columns=_FINDING_COLUMNS, rows=(_finding(scan_id, row) for row in findings)
        )
        await connection.fetchrow(_CLOSE_SAVED, job_id, *_line_columns(lines), dict(engines))
    publish_closed(store, [job_id], [])
    return True


def _finding(scan_id: ScanId, row: FindingRow) -> Sequence[Any]:
    return (
        scan_id,
        row.task_id,
        row.position,
        row.engine,
        row.rule,
        row.severity,
        row.path,
        row.line,
        row.column,
        row.message,
    )


def _line_columns(lines: Lines | None) -> Sequence[int | None]:
    if lines is None:
        return (None, None, None, None)
    return (lines.code, lines.comment, lines.blank, lines.total)
