"""Why a job and each of its tasks is where it is: exactly one cause each, read in one snapshot.

Reads only, and everything it counts is bounded. What the rows say is turned into causes here;
which causes there are, and their words, is `core.domain.waiting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from asyncpg import Record as Row

from core.domain.errors import KennelError, NotFound
from core.domain.ids import JobId, ProjectId, ScanId, TaskId
from core.domain.states import ISOLATION_RANK, Isolation, JobPhase, PendingReason, TaskKind
from core.domain.waiting import (
    MOST_COUNTED,
    AdmissionDue,
    Cause,
    ClaimDue,
    Closed,
    DeadlinePassed,
    Estimate,
    JobAhead,
    LimitReached,
    Miss,
    NoWorkerFits,
    Offered,
    PlanningDue,
    Resolving,
    RetryDelayed,
    Running,
    Saving,
    SettlingDue,
    SlotsBusy,
    TaskCause,
    WaitReason,
    WorkerSilent,
    WorkersUnavailable,
    estimate,
    furthest,
)
from core.runtime.settings import LeaseSettings
from core.store.classes import PREPARE, version_fits
from core.store.pool import Queryable
from core.store.queries import query
from core.store.store import Store

_JOB = query("why/job")
_AHEAD = query("why/ahead")
_RESOLVING = query("why/resolving")
_TASKS = query("why/tasks")
_FIT = query("why/fit")
_NEAR = query("why/near")
_POSITIONS = query("why/positions")
_LIMITS = query("why/limits")
_HISTORY = query("why/history")

#: Tasks of a job that are explained, its preparation included.
MOST_TASKS = 1001
#: Closed jobs of the project that estimates are made from, and runs below which none is made.
PAST_JOBS = 20
LEAST_SAMPLES = 3
#: Kinds of workers that come near which are named.
MOST_MISSES = 3

#: In which workers can be that fit.
_STATES = ("live", "draining", "paused", "quarantined", "lost")


class Unexplained(KennelError):
    """An open task is in no place at all: the tables contradict one another."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"task {task_id} is open, and neither queued, delayed nor leased")


@dataclass(frozen=True, slots=True)
class TaskExplanation:
    """Why a task is where it is."""

    task_id: TaskId
    kind: TaskKind
    engine: str
    cause: TaskCause
    estimate: Estimate | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job is where it is, and each of its tasks."""

    job_id: JobId
    scan_id: ScanId
    project_id: ProjectId
    phase: JobPhase
    #: The moment all this is of.
    at: datetime
    cause: Cause
    #: The task whose cause is the job's; None: it has one of its own.
    task_id: TaskId | None
    #: Closed by then, whatever holds it up; None: it is closed, or being saved.
    expires_at: datetime | None
    tasks: Sequence[TaskExplanation]

    @property
    def ends_in_s(self) -> float | None:
        """Seconds until its tasks have ended, where history tells it of every open one."""
        left = [
            task.estimate.ends_in_s if task.estimate else None
            for task in self.tasks
            if not isinstance(task.cause, Closed)
        ]
        known = [seconds for seconds in left if seconds is not None]
        is_told = self.phase in (JobPhase.QUEUED, JobPhase.RUNNING) and len(known) == len(left)
        return max(known, default=None) if is_told else None


async def explain(
    store: Store, job_id: JobId, *, lease: LeaseSettings | None = None
) -> Explanation:
    """Return why a job and each of its tasks is where it is.

    Args:
        store: The store.
        job_id: The job.
        lease: The intervals that say until when an offer and a lease last; None: the defaults.

    Raises:
        NotFound: there is no such job.
    """
    async with (
        store.db.connection() as connection,
        connection.raw.transaction(isolation="repeatable_read", readonly=True),
    ):
        job = await connection.fetchrow(_JOB, job_id)
        if job is None:
            raise NotFound(f"job {job_id}")
        phase = JobPhase(job["phase"])
        tasks: list[TaskExplanation] = []
        if job["prepare_task_id"] is not None:
            rows = await connection.fetch(_TASKS, job_id, job["prepare_task_id"], MOST_TASKS)
            tasks = await _explain_tasks(connection, job, rows, lease or LeaseSettings())
        cause, task = await _job_cause(connection, job, tasks)
    is_bounded = phase not in (JobPhase.CLOSED, JobPhase.SAVING)
    return Explanation(
        job_id=JobId(job["id"]),
        scan_id=ScanId(job["scan_id"]),
        project_id=ProjectId(job["project_id"]),
        phase=phase,
        at=job["at"],
        cause=cause,
        task_id=None if task is None else task.task_id,
        expires_at=job["expires_at"] if is_bounded else None,
        tasks=tasks,
    )


# --- jobs -----------------------------------------------------------------------------------------


async def _job_cause(
    connection: Queryable, job: Row, tasks: Sequence[TaskExplanation]
) -> tuple[Cause, TaskExplanation | None]:
    phase = JobPhase(job["phase"])
    if phase not in (JobPhase.CLOSED, JobPhase.SAVING) and job["expires_at"] < job["at"]:
        return DeadlinePassed(since=job["expires_at"]), None
    match phase:
        case JobPhase.CLOSED:
            return _closed_with_job(job), None
        case JobPhase.SAVING:
            return Saving(since=job["saving_at"]), None
        case JobPhase.WAITING:
            return await _not_admitted(connection, job), None
        case JobPhase.RESOLVING:
            resolving = Resolving(
                scheduler=job["admitted_by"] or "",
                since=job["admitted_at"],
                until=job["admission_expires_at"],
            )
            return resolving, None
        case JobPhase.PREPARING | JobPhase.QUEUED | JobPhase.RUNNING:
            place = furthest([task.cause for task in tasks])
            if place is not None:
                return tasks[place].cause, tasks[place]
            last = max(
                (task.cause.since for task in tasks if isinstance(task.cause, Closed)),
                default=job["at"],
            )
            is_prepared = phase is JobPhase.PREPARING
            return (PlanningDue(last) if is_prepared else SettlingDue(last)), None
        case _:
            assert_never(phase)


async def _not_admitted(connection: Queryable, job: Row) -> JobAhead | AdmissionDue:
    if not job["is_forced"]:
        ahead = await connection.fetchrow(_AHEAD, job["project_id"], job["id"], MOST_COUNTED + 1)
        if ahead is not None:
            return JobAhead(**dict(ahead))
    return AdmissionDue(await connection.fetchval(_RESOLVING, MOST_COUNTED + 1))


def _closed_with_job(job: Row) -> Closed:
    return Closed(job["result_code"], job["result_msg"], since=job["ended_at"])


# --- tasks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Queues:
    """What is known of the queues that ready tasks are in."""

    #: Capability class → what it requires and who fits it.
    fits: Mapping[int, Row]
    #: Capability class nobody fits → the workers that come nearest.
    near: Mapping[int, tuple[int, tuple[Miss, ...]]]
    #: Task → its place; none: beyond what is counted.
    places: Mapping[int, int]
    #: Limit and engine ("" where it is not an engine's) → how many it allows, how many there are.
    limits: Mapping[tuple[str, str], tuple[int | None, int]]


async def _explain_tasks(
    connection: Queryable, job: Row, rows: Sequence[Row], lease: LeaseSettings
) -> list[TaskExplanation]:
    queues = await _queues(connection, job, [row for row in rows if not row["is_closed"]])
    causes = [_task_cause(row, job, queues, lease) for row in rows]
    open_engines = {
        row["engine"]
        for row, cause in zip(rows, causes, strict=True)
        if not isinstance(cause, Closed)
    }
    history = await _history(connection, job, open_engines)
    found = []
    for row, cause in zip(rows, causes, strict=True):
        past = history.get(row["engine"])
        found.append(
            TaskExplanation(
                task_id=TaskId(row["id"]),
                kind=TaskKind(row["kind"]),
                engine=row["engine"],
                cause=cause,
                estimate=None
                if past is None
                else estimate(
                    cause, median_s=past["median_s"], samples=past["samples"], at=job["at"]
                ),
            )
        )
    return found


def _task_cause(row: Row, job: Row, queues: _Queues, lease: LeaseSettings) -> TaskCause:
    """Return the one cause of a task: by the place it is in."""
    if row["is_closed"]:
        return Closed(row["result_code"], row["result_msg"], since=row["closed_at"])
    if job["phase"] == JobPhase.CLOSED:
        # What is left of it is about to be swept.
        return _closed_with_job(job)
    if row["worker_id"] is not None:
        return _leased(row, job["at"], lease)
    if row["pending_reason"] is not None:
        return _pending(row, queues)
    if row["is_ready"]:
        return _queued(row, queues)
    raise Unexplained(row["id"])


def _leased(row: Row, at: datetime, lease: LeaseSettings) -> Offered | WorkerSilent | Running:
    worker = {"worker_id": row["worker_id"], "worker": row["worker"] or ""}
    if row["started_at"] is None:
        until = row["offered_at"] + timedelta(seconds=lease.start_s)
        return Offered(**worker, since=row["offered_at"], until=until)
    # One heartbeat missed: two intervals without any.
    is_late = row["seen_at"] < at - timedelta(seconds=2 * lease.heartbeat_s)
    if is_late or row["lost_at"] is not None:
        until = row["seen_at"] + timedelta(seconds=lease.lease_s)
        return WorkerSilent(**worker, since=row["seen_at"], until=until)
    return Running(
        **worker,
        since=row["started_at"],
        step=row["step"],
        files_done=row["files_done"] or 0,
        files_planned=row["files_planned"] or 0,
    )


def _pending(row: Row, queues: _Queues) -> RetryDelayed | LimitReached:
    reason = PendingReason(row["pending_reason"])
    match reason:
        case PendingReason.RETRY:
            return RetryDelayed(row["failures"], row["resets"], until=row["not_before"])
        case PendingReason.LIMIT_ORGANIZATION | PendingReason.LIMIT_PROJECT:
            limit, used = queues.limits.get((reason.value, ""), (None, None))
        case PendingReason.LIMIT_ENGINE:
            limit, used = queues.limits.get((reason.value, row["engine"]), (None, None))
        case _:
            assert_never(reason)
    return LimitReached(WaitReason(reason.value), limit, used)


def _queued(row: Row, queues: _Queues) -> NoWorkerFits | WorkersUnavailable | SlotsBusy | ClaimDue:
    fit = queues.fits[row["class_id"]]
    if row["class_id"] in queues.near:
        workers, nearest = queues.near[row["class_id"]]
        return NoWorkerFits(
            engine=fit["engine"],
            version_range=fit["version_range"],
            tag=fit["tag"],
            isolation=fit["isolation"],
            workers=workers,
            nearest=nearest,
        )
    if not fit["live"]:
        return WorkersUnavailable(
            draining=fit["draining"],
            paused=fit["paused"],
            quarantined=fit["quarantined"],
            lost=fit["lost"],
        )
    line = {
        "slots": int(fit["slots"]),
        "free": int(fit["free"]),
        "position": queues.places.get(row["id"], MOST_COUNTED + 1),
    }
    return ClaimDue(**line) if line["position"] <= line["free"] else SlotsBusy(**line)


async def _queues(connection: Queryable, job: Row, rows: Sequence[Row]) -> _Queues:
    """Return what says why open tasks are not claimed yet; nothing is asked that none waits for."""
    ready = [row for row in rows if row["is_ready"]]
    limited = {
        row["engine"] for row in rows if row["pending_reason"] not in (None, PendingReason.RETRY)
    }
    limits, fits, near, places = [], {}, {}, []
    if limited:
        limits = await connection.fetch(_LIMITS, job["project_id"], sorted(limited))
    if ready:
        class_ids = sorted({row["class_id"] for row in ready})
        fits = {row["class_id"]: row for row in await connection.fetch(_FIT, class_ids)}
        near = {
            class_id: await _nearest(connection, fit)
            for class_id, fit in fits.items()
            if not any(fit[state] for state in _STATES)
        }
        places = await connection.fetch(_POSITIONS, [row["id"] for row in ready], MOST_COUNTED)
    return _Queues(
        fits=fits,
        near=near,
        places={row["task_id"]: row["place"] for row in places},
        limits={(row["reason"], row["engine"]): (row["most"], row["used"]) for row in limits},
    )


async def _nearest(connection: Queryable, wanted: Row) -> tuple[int, tuple[Miss, ...]]:
    """Return how many workers live, and those that lack least of what a class requires."""
    rows = await connection.fetch(_NEAR, wanted["engine"], wanted["tag"])
    counts: dict[tuple[tuple[str, ...], str], int] = {}
    for row in rows:
        lacks = tuple(_lacks(row, wanted))
        kind = lacks, row["version"] if "engine" not in lacks else ""
        counts[kind] = counts.get(kind, 0) + row["workers"]
    misses = [Miss(lacks, version, workers) for (lacks, version), workers in counts.items()]
    misses.sort(key=lambda miss: (_distance(miss), -miss.workers))
    nearest = [miss for miss in misses if _distance(miss) == _distance(misses[0])]
    return sum(row["workers"] for row in rows), tuple(nearest[:MOST_MISSES])


def _distance(miss: Miss) -> tuple[bool, int]:
    # Another version of the engine is nearer than none of it.
    return "engine" in miss.lacks, len(miss.lacks)


def _lacks(row: Row, wanted: Row) -> list[str]:
    lacks = []
    if wanted["engine"] != PREPARE:
        if not row["version"]:
            lacks.append("engine")
        elif not version_fits(row["version"], wanted["version_range"]):
            lacks.append("version")
    if not row["has_tag"]:
        lacks.append("tag")
    if ISOLATION_RANK[Isolation(row["isolation"])] < ISOLATION_RANK[Isolation(wanted["isolation"])]:
        lacks.append("isolation")
    return lacks


async def _history(connection: Queryable, job: Row, engines: set[str]) -> dict[str, Row]:
    """Return the usual run of those *engines* that have run often enough in the project."""
    if not engines:
        return {}
    rows = await connection.fetch(
        _HISTORY, job["project_id"], job["id"], sorted(engines), PAST_JOBS
    )
    return {row["engine"]: row for row in rows if row["samples"] >= LEAST_SAMPLES}
