"""From a waiting job to its engine tasks: admit, resolve, prepare, plan; each step guarded.

An admission is a lease of its own: a scheduler that dies while it asks a repository for the
revision loses it, and another takes the job over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from core.domain.ids import JobId, ProjectId, RepoId, ScanId, WorkerId
from core.domain.outcomes import Outcome
from core.domain.states import FullReason, ScanType
from core.store.pool import retrying
from core.store.queries import query
from core.store.store import Store, job_topic

_ADMIT = query("jobs/admit")
_READMIT = query("jobs/readmit")
_ADMITTED = query("jobs/admitted")
_PREPARE = query("jobs/prepare")
_UNCHANGED = query("jobs/close_unchanged")
_ABANDON = query("jobs/abandon")
_EXTEND = query("jobs/extend_admissions")
_PREPARED = query("jobs/prepared")
_PLAN = query("jobs/plan")


@dataclass(frozen=True, slots=True)
class Base:
    """What an incremental scan starts from: the project's last good scan."""

    job_id: JobId
    scan_id: ScanId
    revision: str
    config_hash: str | None
    #: Engine name → version, as they ran.
    engines: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job with all that admitting and planning it needs."""

    job_id: JobId
    project_id: ProjectId
    repo_id: RepoId
    scan_id: ScanId
    created_at: datetime
    priority: int
    is_incremental: bool
    #: Commit asked for; None: the branch's head.
    asked_revision: str | None
    branch: str
    scan_path: str
    scm_url: str
    #: Sealed credentials.
    scm_auth: bytes | None
    languages: Sequence[str]
    #: The scheme's engines, each a mapping; None: what fits.
    engines: Sequence[Mapping[str, Any]] | None
    inclusion: Sequence[str]
    exclusion: Sequence[str]
    tag: str | None
    allow_repo_config: bool
    base: Base | None
    # what the admission recorded; None before
    scan_type: ScanType
    full_reason: FullReason | None
    revision: str | None
    scan_base_revision: str | None
    #: Reserved in the queue's order; None: before it was prepared.
    first_key: int | None = None
    key_step: int | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What an admission found out: recorded with the preparation it queues."""

    revision: str
    base: Base | None
    config_hash: str
    scan_type: ScanType
    full_reason: FullReason | None
    class_id: int
    #: Without the lease token and ids: see `core.protocol.messages.TaskSpec`.
    spec: dict[str, Any]
    #: Of the preparation; each engine task's lies a step behind the one before it.
    sort_key: int
    key_step: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A preparation that has ended."""

    job_id: JobId
    outcome: Outcome
    result_code: int
    result_msg: str
    #: The worker's result; None where the server closed the task.
    result: dict[str, Any] | None
    #: Has the sources now.
    worker_id: WorkerId | None


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One engine's share of a job."""

    engine: str
    module: str
    class_id: int
    spec: dict[str, Any]


async def admit(
    store: Store,
    token: UUID,
    *,
    lease_s: float,
    limit: int,
    cost: int = 0,
    bonus: int = 0,
    by: str = "",
) -> list[JobId]:
    """Admit waiting jobs and take over abandoned admissions, up to *limit*, for *lease_s* seconds.

    Forced jobs are admitted at once; another when every earlier job of its project is closed.
    Where more could be than may, projects take turns: as the queue's order has them, by the *cost*
    of a task and the *bonus* of a step of priority, ns of virtual time.
    *by* names the scheduler, for whoever asks why.
    """
    taken = await retrying(lambda: store.db.fetch(_READMIT, token, lease_s, limit, by))
    left = limit - len(taken)
    if left > 0:
        taken += await retrying(
            lambda: store.db.fetch(_ADMIT, token, lease_s, left, cost, bonus, by)
        )
    return sorted(JobId(row["id"]) for row in taken)


async def load(store: Store, job_ids: Sequence[JobId]) -> list[JobPlan]:
    """Return jobs with what admitting and planning them needs."""
    return [_job_plan(row) for row in await store.db.fetch(_ADMITTED, list(job_ids))]


def _job_plan(row: asyncpg.Record) -> JobPlan:
    base = None
    if row["base_job_id"] is not None:
        base = Base(
            JobId(row["base_job_id"]),
            ScanId(row["base_scan_id"]),
            row["base_revision"],
            row["base_config_hash"],
            row["base_engines"] or {},
        )
    return JobPlan(
        job_id=JobId(row["job_id"]),
        project_id=ProjectId(row["project_id"]),
        repo_id=RepoId(row["repo_id"]),
        scan_id=ScanId(row["scan_id"]),
        created_at=row["created_at"],
        priority=row["priority"],
        is_incremental=row["is_incremental"],
        asked_revision=row["asked_revision"],
        branch=row["branch"],
        scan_path=row["scan_path"],
        scm_url=row["scm_url"],
        scm_auth=row["scm_auth"],
        languages=row["languages"],
        engines=row["engines"],
        inclusion=row["inclusion"],
        exclusion=row["exclusion"],
        tag=row["tag"],
        allow_repo_config=row["allow_repo_config"],
        base=base,
        scan_type=ScanType(row["scan_type"]),
        full_reason=FullReason(row["full_reason"]) if row["full_reason"] else None,
        revision=row["revision"],
        scan_base_revision=row["scan_base_revision"],
        first_key=row["first_key"],
        key_step=row["key_step"],
    )


async def prepare(store: Store, job_id: JobId, token: UUID, resolved: Resolved) -> bool:
    """Record what was resolved and queue the preparation; False: the admission was lost."""
    base = resolved.base
    row = await retrying(
        lambda: store.db.fetchrow(
            _PREPARE,
            job_id,
            token,
            resolved.revision,
            base.revision if base else None,
            base.scan_id if base else None,
            resolved.config_hash,
            int(resolved.scan_type),
            resolved.full_reason.value if resolved.full_reason else None,
            resolved.class_id,
            resolved.spec,
            resolved.sort_key,
            resolved.key_step,
        )
    )
    return _queued(store, job_id, row)


def _queued(store: Store, job_id: JobId, row: asyncpg.Record | None) -> bool:
    if row is None:
        return False
    store.signals.publish("tasks", job_topic(job_id))
    if row["is_limited"]:
        store.signals.publish("delayed")
    return True


async def close_unchanged(
    store: Store, job_id: JobId, token: UUID, base: Base, *, message: str
) -> bool:
    """Close a job whose head is its base with code 1 and the base's line counts."""
    done = await retrying(
        lambda: store.db.fetchval(_UNCHANGED, job_id, token, message, base.scan_id)
    )
    if done is None:
        return False
    store.signals.publish("jobs", job_topic(job_id))
    return True


async def abandon(store: Store, admitted: Mapping[JobId, UUID]) -> None:
    """Let another scheduler take over at once what this one was resolving: job → its token."""
    rows = await store.db.fetch(_ABANDON, list(admitted), list(admitted.values()))
    if rows:
        store.signals.publish("jobs")


async def extend(store: Store, admitted: Mapping[JobId, UUID], *, lease_s: float) -> None:
    """Keep what is still being resolved for *lease_s* seconds from now: job → its token."""
    await store.db.execute(_EXTEND, list(admitted), list(admitted.values()), lease_s)


async def prepared(store: Store, *, limit: int) -> list[Prepared]:
    """Return jobs whose preparation has ended and that have no engine tasks yet."""
    return [
        Prepared(
            job_id=JobId(row["job_id"]),
            outcome=Outcome(row["outcome"]),
            result_code=row["result_code"],
            result_msg=row["result_msg"],
            result=row["result"],
            worker_id=None if row["worker_id"] is None else WorkerId(row["worker_id"]),
        )
        for row in await store.db.fetch(_PREPARED, limit)
    ]


async def plan(
    store: Store,
    job_id: JobId,
    tasks: Sequence[PlannedTask],
    *,
    scan_type: ScanType,
    full_reason: FullReason | None,
    base_revision: str | None,
    sort_key: int,
    preferred_worker_id: WorkerId | None,
    key_step: int = 0,
) -> bool:
    """Give a prepared job its engine tasks; False: another scheduler did, or it was closed.

    The first task has *sort_key*, each further one *key_step* more.
    """
    row = await retrying(
        lambda: store.db.fetchrow(
            _PLAN,
            job_id,
            [task.engine for task in tasks],
            [task.module for task in tasks],
            [task.class_id for task in tasks],
            [task.spec for task in tasks],
            int(scan_type),
            full_reason.value if full_reason else None,
            base_revision,
            sort_key,
            preferred_worker_id,
            key_step,
        )
    )
    return _queued(store, job_id, row)
