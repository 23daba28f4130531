"""Jobs as clients see them: create, cancel, close. What happens in between is the scheduler's.

A close is two statements of one transaction: the jobs are closed, then what is left of their
tasks is swept. The second sees what committed while the first waited for the jobs' rows; a claim
under way at that very moment is refused at its start and swept by the reaper.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from core.domain.codes import ResultCode
from core.domain.errors import ActiveJobExists, InvalidField, NotFound
from core.domain.ids import JobId, ProjectId, ScanId, TokenId, WorkerId
from core.domain.outcomes import CODE_OF_REASON, Reason
from core.domain.states import ActiveJobPolicy, JobPhase, JobState
from core.store.pool import Queryable, retrying
from core.store.queries import query
from core.store.store import Store, job_topic, worker_topic

_LOCK_PROJECT = query("jobs/lock_project")
_CREATE = query("jobs/create")
_OPEN_OF_PROJECT = query("jobs/open_of_project")
_JOINABLE = query("jobs/joinable")
_RECALL = query("jobs/recall")
_REMEMBER = query("jobs/remember")
_CLOSED = query("jobs/closed")
_CLOSE = query("jobs/close")
_SWEEP = query("tasks/sweep")

_KEY_FIELD = "Idempotency-Key"
_KEY_USED = "was used for a create with other arguments"

OPEN_PHASES: tuple[str, ...] = tuple(p.value for p in JobPhase if p is not JobPhase.CLOSED)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A create that may be repeated: whose key it is, and the key."""

    token_id: TokenId
    key: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a client asks for."""

    project_id: ProjectId
    is_incremental: bool
    is_forced: bool
    #: Commit to scan; None: the branch's head.
    revision: str | None
    created_from: str
    creator: str
    policy: ActiveJobPolicy
    queue_limit_s: float
    idempotency: Idempotency | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be looked at before it is written."""
        is_queued = self.is_forced or self.policy is ActiveJobPolicy.QUEUE
        return is_queued and self.idempotency is None

    @property
    def fingerprint(self) -> bytes:
        """Hash of the arguments: a repeated key must come with the same."""
        arguments = [self.project_id, self.is_incremental, self.is_forced, self.revision]
        return hashlib.sha256(json.dumps(arguments).encode()).digest()


@dataclass(frozen=True, slots=True)
class Created:
    """The ids a create answers; `is_new` is False where an earlier job answered."""

    job_id: JobId
    scan_id: ScanId
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class ClosedJob:
    """How a job ended."""

    state: JobState
    result_code: int
    result_msg: str


async def create(store: Store, new: NewJob) -> Created:
    """Write a job, as the policy says; durable when it returns.

    Raises:
        NotFound: the project does not exist.
        InvalidField: it is closed, its scheme disused, or the key was used with other arguments.
        ActiveJobExists: the policy is `reject` and jobs of the project are open.
    """
    if new.is_plain:
        created = await _insert(store.db, new)
    else:
        # Without a key, a create that was carried out and not confirmed would meet its own job.
        created = await retrying(
            lambda: _create_locked(store, new), after_loss=new.idempotency is not None
        )
    if created.is_new:
        store.signals.publish("jobs")
    return created


async def create_many(store: Store, news: Sequence[NewJob]) -> list[Created | None]:
    """Write plain jobs (`NewJob.is_plain`) in one transaction, in their order.

    Returns:
        What `create` returns of each; None where it would raise: ask it, it says why.
    """
    created = await _insert_many(store.db, news)
    store.signals.publish("jobs")
    return created


async def _create_locked(store: Store, new: NewJob) -> Created:
    # Two statements: what the policy looks at must be read after the lock is held.
    async with store.db.transaction() as connection:
        await _lock_project(connection, new.project_id)
        earlier = await _recall(connection, new)
        if earlier is not None:
            return earlier
        created = None if new.is_forced else await _apply_policy(connection, new)
        if created is None:
            created = await _insert(connection, new)
        if new.idempotency is not None:
            key = new.idempotency
            kept = await connection.fetchrow(
                _REMEMBER,
                key.token_id,
                key.key,
                new.project_id,
                new.fingerprint,
                created.job_id,
                created.scan_id,
            )
            if kept is None:
                # At this very moment and for another project, whose lock is not this one's.
                raise InvalidField(_KEY_FIELD, _KEY_USED)
        return created


async def _lock_project(connection: Queryable, project_id: ProjectId) -> None:
    row = await connection.fetchrow(_LOCK_PROJECT, project_id)
    if row is None:
        raise NotFound("project")
    if row["project_status"] != 1:
        raise InvalidField("project", "is not active: it takes no scans")
    if row["scheme_status"] != 1:
        raise InvalidField("scan_scheme", "is disused: it takes no scans")


async def _recall(connection: Queryable, new: NewJob) -> Created | None:
    if new.idempotency is None:
        return None
    row = await connection.fetchrow(_RECALL, new.idempotency.token_id, new.idempotency.key)
    if row is None:
        return None
    if row["fingerprint"] != new.fingerprint:
        raise InvalidField(_KEY_FIELD, _KEY_USED)
    return Created(JobId(row["job_id"]), ScanId(row["scan_id"]), is_new=False)


async def _apply_policy(connection: Queryable, new: NewJob) -> Created | None:
    """Return the job that answers instead of a new one; None: create one."""
    match new.policy:
        case ActiveJobPolicy.QUEUE:
            return None
        case ActiveJobPolicy.REJECT:
            rows = await connection.fetch(_OPEN_OF_PROJECT, new.project_id)
            if not rows:
                return None
            branch = await connection.fetchrow(_LOCK_PROJECT, new.project_id)
            assert branch is not None  # locked by this transaction
            raise ActiveJobExists(
                new.project_id, branch["branch"], sorted(row["scan_id"] for row in rows)
            )
        case ActiveJobPolicy.JOIN:
            row = await connection.fetchrow(
                _JOINABLE, new.project_id, new.is_incremental, new.revision
            )
            if row is None:
                return None
            return Created(JobId(row["job_id"]), ScanId(row["scan_id"]), is_new=False)
        case _:
            assert_never(new.policy)


async def _insert(connection: Queryable, new: NewJob) -> Created:
    (created,) = await _insert_many(connection, [new])
    if created is None:
        # Say why: not there, closed, or its scheme disused.
        await _lock_project(connection, new.project_id)
        raise InvalidField("project", "changed while the job was created: try again")
    return created


async def _insert_many(connection: Queryable, news: Sequence[NewJob]) -> list[Created | None]:
    rows = await connection.fetch(
        _CREATE,
        [new.project_id for new in news],
        [new.is_incremental for new in news],
        [new.is_forced for new in news],
        [new.revision for new in news],
        [new.created_from for new in news],
        [new.creator for new in news],
        [new.queue_limit_s for new in news],
    )
    created = {row["n"] - 1: Created(JobId(row["job_id"]), ScanId(row["scan_id"])) for row in rows}
    return [created.get(place) for place in range(len(news))]


async def closed(store: Store, job_ids: Iterable[JobId]) -> dict[JobId, ClosedJob]:
    """Return how jobs ended, of those of *job_ids* that have."""
    rows = await store.db.fetch(_CLOSED, list(job_ids))
    return {
        JobId(row["job_id"]): ClosedJob(
            JobState(row["state"]), row["result_code"], row["result_msg"]
        )
        for row in rows
    }


async def cancel(store: Store, job_id: JobId, *, remarks: str, by: str) -> bool:
    """Close a job for a person and have its running tasks killed; False: it was closed before."""
    done = await close(
        store,
        [job_id],
        code=ResultCode.CANCELLED,
        message=f"User( {by} ) Canceled: {remarks} . ",
        reason=Reason.CANCELLED,
        remarks=remarks,
        by=by,
        event="job.cancelled",
    )
    return bool(done)


async def close(
    store: Store,
    job_ids: Sequence[JobId],
    *,
    code: int,
    message: str,
    reason: Reason,
    phases: Sequence[str] = OPEN_PHASES,
    remarks: str | None = None,
    by: str | None = None,
    event: str = "job.closed",
) -> list[JobId]:
    """Close jobs that are in one of *phases*, with what is left of their tasks.

    Args:
        store: The store.
        job_ids: The jobs.
        code: Result code of the jobs.
        message: Result message of the jobs.
        reason: Why their open tasks close; their own code follows from it.
        phases: Jobs in another phase are left alone.
        remarks: What the person who closed them says.
        by: Who that is.
        event: Kind of the event.

    Returns:
        The jobs this call closed.
    """

    async def attempt() -> tuple[list[JobId], list[WorkerId]]:
        async with store.db.transaction() as connection:
            rows = await connection.fetch(
                _CLOSE, list(job_ids), code, message, remarks, by, list(phases), event
            )
            done = [JobId(row["job_id"]) for row in rows]
            return done, await sweep(connection, done, reason=reason, message=message)

    done, workers = await retrying(attempt)
    publish_closed(store, done, workers)
    return done


async def sweep(
    connection: Queryable, job_ids: Sequence[JobId], *, reason: Reason, message: str
) -> list[WorkerId]:
    """Close what is left of the tasks of closed jobs; return the workers that must stop some."""
    if not job_ids:
        return []
    code = int(CODE_OF_REASON[reason])
    rows = await connection.fetch(_SWEEP, list(job_ids), reason.value, code, message)
    return [WorkerId(row["worker_id"]) for row in rows]


def publish_closed(store: Store, job_ids: Iterable[JobId], workers: Iterable[WorkerId]) -> None:
    """Wake whoever waits for closed jobs, and the workers that run their tasks."""
    topics: list[Any] = [job_topic(job_id) for job_id in job_ids]
    if topics:
        topics += [worker_topic(worker_id) for worker_id in workers]
        store.signals.publish("jobs", *topics)
