"""Give back what nobody works on: offers not started, leases of lost workers, delayed retries.

Decides by the books alone, never asks a worker. A beat and the reaper meet at the worker's beat
row: whoever locks it first is right, so that no lease is extended and taken at the same moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.domain.ids import AttemptId, JobId, TaskId, WorkerId
from core.domain.outcomes import TOOK_DOWN, Reason
from core.runtime.settings import SchedulerSettings
from core.store.jobs import publish_closed, sweep
from core.store.pool import Queryable, retrying
from core.store.quarantine import Attempt, count_faults
from core.store.queries import query
from core.store.store import Store, job_topic, worker_topic

_ASSUME_BEATS = query("workers/assume_beats")
_LOSE_WORKERS = query("workers/lose")
_LOSE = query("attempts/lose")
_RELEASE = query("attempts/release")
_EXPIRE_OFFERS = query("attempts/expire_offers")
_FORGET_PROGRESS = query("attempts/forget_progress")
_PROMOTE = query("tasks/promote")
_NEXT_DUE = query("tasks/next_due")
_LEFTOVERS = query("tasks/leftovers")

#: Rows of each queue table that one search for leftovers looks at.
_WINDOW = 1000
#: Rows one statement takes at most; what is left is taken by the next iteration.
BATCH = 500
_LOST_MESSAGE = "no heartbeat for longer than the lease"


@dataclass(frozen=True, slots=True)
class _Lost:
    """What was taken from workers."""

    attempts: Sequence[Attempt] = ()
    topics: frozenset[str] = frozenset()


async def reap(store: Store, *, lease_s: float, retry: SchedulerSettings) -> int:
    """Take the leases of workers that have been silent for longer than *lease_s*.

    Args:
        store: The store.
        lease_s: Seconds.
        retry: How often and when the tasks are tried again, and what is held against the workers.

    Returns:
        How many workers were found silent.
    """
    await store.db.execute(_ASSUME_BEATS)

    async def attempt() -> tuple[int, _Lost, bool]:
        async with store.db.transaction() as connection:
            rows = await connection.fetch(_LOSE_WORKERS, lease_s, BATCH)
            lost = [WorkerId(row["worker_id"]) for row in rows]
            if not lost:
                return 0, _Lost(), False
            released = await connection.fetch(_RELEASE, lost)
            return len(lost), await _lose(connection, lost, None, retry), bool(released)

    found, taken, is_released = await retrying(attempt)
    store.signals.publish(*taken.topics, *(["tasks"] if is_released else []))
    await count_faults(store, taken.attempts, policy=retry)
    return found


async def lose_attempts(
    store: Store,
    worker_ids: Sequence[WorkerId],
    *,
    retry: SchedulerSettings,
    attempt_ids: Sequence[AttemptId] | None = None,
) -> None:
    """Take running attempts (all, or *attempt_ids*) from workers that no longer run them."""
    taken = await retrying(lambda: _lose(store.db, worker_ids, attempt_ids, retry))
    store.signals.publish(*taken.topics)
    await count_faults(store, taken.attempts, policy=retry)


async def _lose(
    connection: Queryable,
    worker_ids: Sequence[WorkerId],
    attempt_ids: Sequence[AttemptId] | None,
    retry: SchedulerSettings,
) -> _Lost:
    rows = await connection.fetch(
        _LOSE,
        list(worker_ids),
        None if attempt_ids is None else list(attempt_ids),
        retry.max_resets,
        TOOK_DOWN,
        retry.retry_base_s,
        retry.retry_cap_s,
        _LOST_MESSAGE,
    )
    topics: set[str] = set()
    for row in rows:
        topics |= {job_topic(row["job_id"]), worker_topic(row["worker_id"])}
        if row["is_delayed"]:
            topics.add("delayed")
        else:
            topics |= {"tasks"} if row["is_requeued"] else {"settle", "prepared"}
    attempts = [(TaskId(row["task_id"]), AttemptId(row["attempt_id"])) for row in rows]
    return _Lost(attempts, frozenset(topics))


async def expire_offers(store: Store, *, start_s: float) -> int:
    """Return to the queue what was offered more than *start_s* seconds ago and not started."""
    rows = await store.db.fetch(_EXPIRE_OFFERS, start_s, BATCH)
    if rows:
        store.signals.publish("tasks")
    return len(rows)


async def promote(store: Store) -> int:
    """Make delayed tasks ready whose time has come; return how many."""
    rows = await store.db.fetch(_PROMOTE, BATCH)
    if rows:
        store.signals.publish("tasks")
    return len(rows)


@dataclass(frozen=True, slots=True)
class Pending:
    """What there is to promote."""

    #: Seconds until the next task is tried again; None: there is none.
    due_s: float | None
    #: Whether tasks wait for a limit.
    is_waited: bool
    #: Whether projects have clocks that may be forgotten.
    has_clocks: bool


async def pending(store: Store) -> Pending:
    """Return what there is to promote, now or later."""
    row = await store.db.fetchrow(_NEXT_DUE)
    assert row is not None  # one row, always
    return Pending(row["due_s"], row["is_waited"], row["has_clocks"])


@dataclass(slots=True)
class Window:
    """Where the next search for leftovers begins in each of the queue's tables."""

    ready_after: int = 0
    pending_after: int = 0
    lease_after: int = 0


async def sweep_leftovers(store: Store, window: Window | None = None) -> int:
    """Close tasks that a claim was taking while their job closed; return of how many jobs.

    A part of the queue at a time, from *window* on, which moves on and round: however much waits
    there, one search costs the same.
    """
    window = window or Window()
    found = await store.db.fetch(
        _LEFTOVERS, window.ready_after, window.pending_after, window.lease_after, _WINDOW
    )
    window.ready_after = found[0]["ready_after"]
    window.pending_after = found[0]["pending_after"]
    window.lease_after = found[0]["lease_after"]
    rows = [row for row in found if row["job_id"] is not None]
    for row in rows:
        job_id = JobId(row["job_id"])
        workers = await sweep(
            store.db, [job_id], reason=Reason.JOB_CLOSED, message=row["result_msg"]
        )
        publish_closed(store, [job_id], workers)
    await store.db.execute(_FORGET_PROGRESS)
    return len(rows)
