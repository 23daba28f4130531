"""Give back what nobody works on: offers not started, leases of lost workers, delayed retries.

Decides by the books alone, never asks a worker. A beat and the reaper meet at the worker's beat
row: whoever locks it first is right, so that no lease is extended and taken at the same moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.domain.ids import AttemptId, JobId, WorkerId
from core.domain.outcomes import Reason
from core.store.jobs import publish_closed, sweep
from core.store.pool import Queryable, retrying
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
_LOST_MESSAGE = "worker lost: no heartbeat for longer than the lease, too often for this task"


async def reap(store: Store, *, lease_s: float, max_resets: int) -> int:
    """Take the leases of workers that have been silent for longer than *lease_s*.

    Returns:
        How many workers were found silent.
    """
    await store.db.execute(_ASSUME_BEATS)

    async def attempt() -> tuple[int, set[str]]:
        async with store.db.transaction() as connection:
            rows = await connection.fetch(_LOSE_WORKERS, lease_s, BATCH)
            lost = [WorkerId(row["worker_id"]) for row in rows]
            if not lost:
                return 0, set()
            released = await connection.fetch(_RELEASE, lost)
            topics = await _lose(connection, lost, None, max_resets)
            return len(lost), topics | ({"tasks"} if released else set())

    found, topics = await retrying(attempt)
    store.signals.publish(*topics)
    return found


async def lose_attempts(
    store: Store,
    worker_ids: Sequence[WorkerId],
    *,
    max_resets: int,
    attempt_ids: Sequence[AttemptId] | None = None,
) -> None:
    """Take running attempts (all, or *attempt_ids*) from workers that no longer run them."""
    topics = await retrying(lambda: _lose(store.db, worker_ids, attempt_ids, max_resets))
    store.signals.publish(*topics)


async def _lose(
    connection: Queryable,
    worker_ids: Sequence[WorkerId],
    attempt_ids: Sequence[AttemptId] | None,
    max_resets: int,
) -> set[str]:
    rows = await connection.fetch(
        _LOSE,
        list(worker_ids),
        None if attempt_ids is None else list(attempt_ids),
        max_resets,
        _LOST_MESSAGE,
    )
    topics: set[str] = set()
    for row in rows:
        topics |= {job_topic(row["job_id"]), worker_topic(row["worker_id"])}
        topics |= {"tasks"} if row["is_requeued"] else {"settle", "prepared"}
    return topics


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
